//! Daemons that die, are cut off, share a host, or hold the same names.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use repmd_backend_api::liveness;
use repmd_test_support::{Peer, names, wait_for, wait_until};

use crate::link::Link;
use crate::stage::{Plan, Stage};
use crate::{INTERVAL, SLACK, SOON, TTL};

#[test]
fn names_of_a_killed_daemon_are_gone_everywhere_after_one_lease_and_not_before() {
    let stage = Stage::redis();
    let (a, b, c) = (stage.host("a"), stage.host("b"), stage.host("c"));
    let _node = a.register("n", 1000);
    for other in [&b, &c] {
        other.wait_until_it_finds("n@a", Some(1000));
    }
    let killed = Instant::now();
    a.kill();
    // It may have renewed one interval ago.
    let at_least = TTL - INTERVAL - Duration::from_millis(200);
    for other in [&b, &c] {
        other.wait_until_it_finds("n@a", None);
        let after = killed.elapsed();
        assert!(at_least < after && after < TTL + SLACK, "gone after {after:?}");
    }
    assert_eq!(b.find("n"), None, "by its bare name too");
}

/// Creations of the nodes that were registered over these connections are not repeated either.
#[test]
fn nodes_of_a_killed_daemon_register_with_the_next_at_once_and_none_is_refused() {
    let stage = Stage::redis();
    let plan = stage.plan("a").set("advertise", "127.0.0.77");
    let (first, other) = (plan.start(), stage.host("b"));
    // These listen, as nodes do: one at all addresses, one only where others reach it.
    let [distribution, outside] = ["127.0.0.1", "127.0.0.77"].map(|at| TcpListener::bind((at, 0)).unwrap());
    let [port, port_outside] = [&distribution, &outside].map(|at| at.local_addr().unwrap().port());
    let mut nodes = first.register_some("n", 1000, 50);
    nodes.push(first.register("listening", port));
    let listens_outside = first.register("listens-outside", port_outside);
    let silent = first.register("silent", 1);
    first.kill();
    drop((silent, listens_outside));
    let next = plan.start();
    // Until they are back it answers for those of before that live.
    assert_eq!(next.find("listening"), Some(port));
    assert_eq!(next.find("listens-outside"), Some(port_outside));
    assert_eq!(next.find("silent"), None, "nobody listens there");
    assert_eq!(names(next.port()), [], "a node that finds its name in a list does not boot");
    let started = Instant::now();
    nodes = next.register_some("n", 1000, 50);
    nodes.push(next.register("listening", port));
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "registering took {took:?}");
    assert_eq!(names(next.port()).len(), nodes.len());
    assert!(other.finds_all("n", "a", 1000, 50));
    // For longer than any lease of before.
    let until = Instant::now() + TTL + INTERVAL;
    while Instant::now() < until {
        assert!(other.finds_all("n", "a", 1000, 50));
    }
    assert_eq!((next.logged(&["conflict"]), next.logged(&["occupied"])), (0, 0), "{}", next.log());
}

#[test]
fn a_daemon_cut_off_from_its_store_serves_its_host_and_is_back_without_a_conflict() {
    let stage = Stage::redis();
    let link = Link::to(&stage.store.url());
    let (a, b) = (Plan::new(&link.url(), "a").start(), stage.host("b"));
    let _of_a = a.register_some("n", 1000, 20);
    let _of_b = b.register_some("n", 2000, 20);
    a.wait_until_it_finds("n3@b", Some(2003));
    b.wait_until_it_finds("n3@a", Some(1003));

    let cut = Instant::now();
    link.cut();
    b.wait_until_it_finds("n3@a", None);
    let after = cut.elapsed();
    assert!(TTL - INTERVAL - Duration::from_millis(200) < after && after < TTL + SLACK, "{after:?}");
    // The one that is cut off still vouches for what it knew, for one lease after it last heard.
    a.wait_until_it_finds("n3@b", None);
    let after = cut.elapsed();
    assert!(TTL - SLACK < after && after < 2 * TTL + SLACK, "{after:?}");
    assert!(a.finds_all("n", "a", 1000, 20));
    let _booted = a.register_within_a_second("booted", 3000);
    a.wait_until_degraded("the registry is away");
    assert!(!b.status().contains("Degraded"), "{}", b.status());

    link.heal();
    let healed = Instant::now();
    b.wait_until_it_finds("booted@a", Some(3000));
    while !(b.finds_all("n", "a", 1000, 20) && a.finds_all("n", "b", 2000, 20)) {
        assert!(healed.elapsed() < INTERVAL + 2 * SLACK, "not all are back:\n{}", a.log());
    }
    a.wait_until_well();
    for daemon in [&a, &b] {
        assert_eq!(daemon.logged(&["conflict"]), 0, "{}", daemon.log());
    }
}

/// Two daemons of the host `a`, and `n` held by the first.
fn two_of_one_host(stage: &Stage) -> (Plan, Plan) {
    (stage.plan("a").set("instance-name", "first"), stage.plan("a").set("instance-name", "second"))
}

#[test]
fn a_name_that_another_daemon_of_the_host_holds_is_refused_while_that_one_renews() {
    let stage = Stage::redis();
    let (first, second) = two_of_one_host(&stage);
    let (first, second) = (first.start(), second.start());
    let node = first.register("n", 1000);
    let until = Instant::now() + TTL + INTERVAL;
    while Instant::now() < until {
        assert!(second.try_register("n", 2000).is_none(), "two nodes have one name");
        std::thread::sleep(Duration::from_millis(100));
    }
    // To whomever of the host one asks, it is the one that was first.
    assert_eq!((first.find("n"), second.find("n")), (Some(1000), Some(1000)));
    assert!(0 < second.logged(&["WARN", "occupied", "first"]), "{}", second.log());
    drop(node);
    let left = Instant::now();
    let _now_free = wait_for("the name is free", SOON, || second.try_register("n", 2000));
    first.wait_until_it_finds("n", Some(2000));
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
}

#[test]
fn a_name_is_taken_over_at_once_from_a_daemon_that_stopped_and_soon_from_one_that_was_killed() {
    let stage = Stage::redis();
    let (first, second) = two_of_one_host(&stage);
    let second = second.start();

    let stopped = first.start();
    let node = stopped.register("n", 1000);
    stopped.stop();
    drop(node);
    let mut node = second.register_within_a_second("n", 2000);
    drop(node);

    let killed = first.start();
    second.wait_until_it_finds("n", None);
    node = killed.register("n", 1000);
    killed.kill();
    let started = Instant::now();
    let _taken_over = wait_for("the name is taken over", SOON, || second.try_register("n", 2000));
    let took = started.elapsed();
    assert!(took < liveness(TTL) + SLACK, "taken over after {took:?}");
    drop(node);
}

#[test]
fn one_name_on_three_hosts_is_answered_by_each_for_itself_and_by_a_fourth_not_at_all() {
    let stage = Stage::redis();
    let hosts = ["a", "b", "c"].map(|host| stage.host(host));
    let fourth = stage.host("d");
    let _nodes: Vec<Peer> =
        hosts.iter().zip(1..).map(|(host, number)| host.register("n", 1000 * number)).collect();
    for (host, number) in hosts.iter().zip(1..) {
        assert_eq!(host.find("n"), Some(1000 * number));
    }
    assert_eq!(fourth.find("n"), None);
    let is_said = || fourth.logged(&["WARN", "more than one node is meant", "n@a", "n@b", "n@c"]) == 1;
    wait_until("the log says so", SOON, is_said);
    for (host, number) in ["a", "b", "c"].iter().zip(1..) {
        assert_eq!(fourth.find(&format!("n@{host}")), Some(1000 * number));
    }
}
