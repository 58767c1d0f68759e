//! The store is away: killed, stalled, unreachable, silent.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use repmd_test_stores::{Backing, PgBouncer, Postgres};

use crate::asker::Asker;
use crate::link::Link;
use crate::stage::{Host, Plan, Stage};
use crate::{INTERVAL, SLACK, SOON, TTL};

const NAMES: u16 = 50;

/// Where the nodes of host number `host` listen.
fn port_of(host: usize) -> u16 {
    1000 * (1 + host as u16)
}

const HOSTS: [&str; 3] = ["a", "b", "c"];

/// Three hosts with their nodes, which all know of each other.
fn three_hosts(stage: &Stage<impl Backing>) -> (Vec<Host>, Vec<repmd_test_support::Peer>) {
    let hosts = HOSTS.map(|host| stage.host(host));
    let mut nodes = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        nodes.extend(host.register_some("n", port_of(number), NAMES));
    }
    wait_until_all_are_found(&hosts, SOON);
    (hosts.into(), nodes)
}

/// Every host answers for the nodes of every host.
fn wait_until_all_are_found(hosts: &[Host], deadline: Duration) {
    let started = Instant::now();
    for (number, host) in HOSTS.iter().enumerate() {
        for asked in hosts {
            while !asked.finds_all("n", host, port_of(number), NAMES) {
                let (took, log) = (started.elapsed(), asked.log());
                assert!(took < deadline, "the nodes of {host} are not found after {took:?}:\n{log}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

#[test]
fn redis_killed_and_started_empty_disturbs_no_host_and_has_all_names_back_within_one_interval() {
    killed_and_started_empty(Stage::redis());
}

#[test]
fn postgres_killed_and_started_empty_disturbs_no_host_and_has_all_names_back_within_one_interval() {
    killed_and_started_empty(Stage::postgres());
}

pub(crate) fn killed_and_started_empty(mut stage: Stage<impl Backing>) {
    let (hosts, _nodes) = three_hosts(&stage);
    let asker = Asker::start(&hosts[0], "n7", port_of(0) + 7);
    stage.store.kill();
    // The first does not know yet that the store is away.
    let _first = hosts[0].register_within_a_second("first", 1);
    let _second = hosts[0].register_within_a_second("second", 2);
    assert_eq!(hosts[1].find("n3@c"), Some(port_of(2) + 3), "from memory");
    hosts.iter().for_each(|host| host.wait_until_degraded("the registry is away"));
    stage.store.revive_empty();
    wait_until_all_are_found(&hosts, INTERVAL + SLACK);
    for (name, port) in [("first@a", 1), ("second@a", 2)] {
        assert!(hosts[2].wait_until_it_finds(name, Some(port)) < INTERVAL + SLACK);
    }
    hosts.iter().for_each(Host::wait_until_well);
    asker.was_undisturbed();
    for host in &hosts {
        assert_eq!(host.logged(&["WARN", "the registry is away"]), 1, "{}", host.log());
        assert_eq!(host.logged(&["conflict"]), 0, "{}", host.log());
    }
}

#[test]
fn redis_stalled_for_30_s_disturbs_no_host_and_no_node_that_boots() {
    stalled_for_30_s(Stage::redis());
}

#[test]
fn postgres_stalled_for_30_s_disturbs_no_host_and_no_node_that_boots() {
    stalled_for_30_s(Stage::postgres());
}

pub(crate) fn stalled_for_30_s(mut stage: Stage<impl Backing>) {
    let (hosts, _nodes) = three_hosts(&stage);
    let asker = Asker::start(&hosts[0], "n7", port_of(0) + 7);
    let stalled = Instant::now();
    stage.store.pause();
    let mut booted = vec![hosts[0].register_within_a_second("booted0", 10)];
    // What was known is answered for as long as a lease lasts, and not for ever.
    assert_eq!(hosts[1].find("n3@c"), Some(port_of(2) + 3));
    hosts[1].wait_until_it_finds("n3@c", None);
    let after = stalled.elapsed();
    // The store may have been heard of one interval ago.
    assert!(TTL - INTERVAL - SLACK / 5 < after && after < TTL + SLACK, "answered for {after:?}");
    while stalled.elapsed() < Duration::from_secs(30) {
        let number = booted.len() as u16;
        booted.push(hosts[0].register_within_a_second(&format!("booted{number}"), 10 + number));
        std::thread::sleep(Duration::from_secs(1));
    }
    hosts.iter().for_each(|host| host.wait_until_degraded("the registry is away"));
    stage.store.resume();
    wait_until_all_are_found(&hosts, INTERVAL + SLACK);
    for (number, _) in booted.iter().enumerate() {
        hosts[1].wait_until_it_finds(&format!("booted{number}@a"), Some(10 + number as u16));
    }
    hosts.iter().for_each(Host::wait_until_well);
    asker.was_undisturbed();
    hosts.iter().for_each(|host| assert_eq!(host.logged(&["conflict"]), 0, "{}", host.log()));
}

#[test]
fn a_daemon_starts_without_its_store_serves_and_publishes_when_it_comes() {
    comes_later(Stage::redis());
}

pub(crate) fn comes_later(mut stage: Stage<impl Backing>) {
    stage.store.kill();
    serves_and_publishes_later(&mut stage, Backing::revive_empty);
}

#[test]
fn a_daemon_starts_without_its_postgres_serves_and_publishes_when_it_comes() {
    let mut stage = Stage::postgres();
    stage.store.kill();
    serves_and_publishes_later(&mut stage, Postgres::revive);
}

#[test]
fn a_store_that_takes_connections_and_never_answers_is_as_one_that_is_not_there() {
    is_silent_first(Stage::redis());
}

pub(crate) fn is_silent_first(mut stage: Stage<impl Backing>) {
    stage.store.kill();
    let port = stage.store.url().rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let mut silent = Some(TcpListener::bind(("127.0.0.1", port)).unwrap());
    serves_and_publishes_later(&mut stage, move |store| {
        silent.take();
        store.revive_empty();
    });
}

/// The store is not there yet; `come` brings it.
fn serves_and_publishes_later<S: Backing>(stage: &mut Stage<S>, come: impl FnOnce(&mut S)) {
    let (a, b) = (stage.host("a"), stage.host("b"));
    let mut nodes = vec![a.register_within_a_second("n", 1000)];
    let asker = Asker::start(&a, "n", 1000);
    for number in 1..20 {
        nodes.push(a.register_within_a_second(&format!("n{number}"), 1000 + number));
        assert_eq!(a.find(&format!("n{number}")), Some(1000 + number));
        assert_eq!(a.find("elsewhere"), None);
        std::thread::sleep(Duration::from_millis(50));
    }
    a.wait_until_degraded("20 names are not published");
    assert_eq!(b.find("n@a"), None);
    come(&mut stage.store);
    let took = b.wait_until_it_finds("n@a", Some(1000));
    assert!(took < INTERVAL + 2 * SLACK, "{took:?}");
    for number in 1..20 {
        b.wait_until_it_finds(&format!("n{number}@a"), Some(1000 + number));
    }
    a.wait_until_well();
    asker.was_undisturbed();
    assert_eq!(a.logged(&["WARN", "the registry is away"]), 1, "{}", a.log());
}

/// The name of a store's host may not be known either.
#[test]
fn a_store_whose_host_nobody_knows_refuses_no_node() {
    let daemon = Plan::new("redis://store.invalid", "a").start();
    let _node = daemon.register_within_a_second("n", 1);
    daemon.wait_until_degraded("the registry is away");
    assert_eq!(daemon.find("n"), Some(1));
}

#[test]
fn a_store_that_takes_a_second_and_a_half_for_an_answer_loses_no_name() {
    let stage = Stage::redis();
    let link = Link::to(&stage.store.url());
    let (slow, other) = (Plan::new(&link.url(), "a").start(), stage.host("b"));
    let _nodes = slow.register_some("n", 1000, NAMES);
    other.wait_until_it_finds(&format!("n{}@a", NAMES - 1), Some(1000 + NAMES - 1));
    link.slow_down(Duration::from_millis(750));
    let slowed = Instant::now();
    while slowed.elapsed() < 3 * TTL {
        assert!(other.finds_all("n", "a", 1000, NAMES), "after {:?}:\n{}", slowed.elapsed(), slow.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(slow.logged(&["the registry is away"]), 0, "{}", slow.log());
    assert!(!slow.status().starts_with("Degraded"), "{}", slow.status());
}

/// Nobody tells the daemons of changes there, and they find them.
#[test]
fn a_postgres_behind_pgbouncer_in_transaction_mode_is_asked_for_changes() {
    let stage = Stage::postgres();
    let bouncer = PgBouncer::before(&stage.store, "transaction");
    let [a, b] = ["a", "b"].map(|host| Plan::new(&bouncer.url(), host).start());
    let node = a.register("n", 1000);
    b.wait_until_it_finds("n@a", Some(1000));
    let started = Instant::now();
    for host in [&a, &b] {
        while host.logged(&["WARN", "the store does not tell changes"]) == 0 {
            assert!(started.elapsed() < SOON, "{}", host.log());
        }
    }
    let _moved = a.register("moved", 2000);
    assert!(b.wait_until_it_finds("moved@a", Some(2000)) < 2 * INTERVAL);
    drop(node);
    assert!(b.wait_until_it_finds("n@a", None) < 2 * INTERVAL + SLACK);
    for host in [&a, &b] {
        host.wait_until_well();
        assert_eq!(host.logged(&["the store does not tell changes"]), 1, "{}", host.log());
    }
}
