//! Clocks of daemons' machines that are off by a day.

use std::time::{Duration, Instant};

use repmd_test_stores::{Backing, Postgres};
use repmd_test_support::faketime;

use crate::stage::{Plan, Stage};
use crate::{INTERVAL, SLACK, TTL};

/// The clock of the daemon's machine is off.
fn shifted(plan: Plan, by: &str) -> Plan {
    faketime(by).iter().fold(plan, |plan, (name, value)| plan.variable(name, value))
}

#[test]
fn clocks_that_are_off_by_a_day_change_nothing() {
    change_nothing(Stage::redis());
}

#[test]
fn clocks_of_daemons_and_of_their_postgres_that_are_off_by_a_day_change_nothing() {
    change_nothing(Stage::new(|| Postgres::start_off("-12h")));
}

/// A faked clock does not reach etcd itself, which asks the kernel past the C library.
#[test]
fn clocks_of_daemons_on_etcd_that_are_off_by_a_day_change_nothing() {
    change_nothing(Stage::etcd());
}

fn change_nothing(stage: Stage<impl Backing>) {
    let plan = |host: &str, by: &str| shifted(stage.plan(host), by);
    let first = plan("a", "-1d").set("instance-name", "first");
    let a = first.start();
    let second = plan("a", "+1d").set("instance-name", "second").start();
    let (b, c) = (plan("b", "+1d").start(), stage.host("c"));
    let _of_a = a.register_some("n", 1000, 10);
    let _of_b = b.register_some("n", 2000, 10);
    // That the clocks are off at all shows in the log.
    let day = |log: String| log.trim_start_matches(|c: char| !c.is_ascii_digit())[..10].to_owned();
    assert!(day(a.log()) < day(c.log()) && day(c.log()) < day(b.log()), "{}", a.log());

    let until = Instant::now() + TTL + INTERVAL;
    while Instant::now() < until {
        for asked in [&a, &b, &c, &second] {
            assert!(asked.finds_all("n", "a", 1000, 10) && asked.finds_all("n", "b", 2000, 10));
        }
        assert!(second.try_register("n0", 3000).is_none(), "two nodes have one name");
        std::thread::sleep(Duration::from_millis(100));
    }
    let killed = Instant::now();
    a.kill();
    for asked in [&b, &c] {
        asked.wait_until_it_finds("n0@a", None);
        let after = killed.elapsed();
        assert!(INTERVAL < after && after < TTL + SLACK, "gone after {after:?}");
    }
    let a = first.start();
    let _again = a.register_some("n", 1000, 10);
    assert!(c.finds_all("n", "a", 1000, 10));
}
