//! With a registry that others share.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use repmd_test_stores::Store;
use repmd_test_support::{Daemon, Peer, beside, free_port, lookup_port, wait_until};

use crate::stage::{REPMD, Stage};
use crate::{SOON, look_up_all_the_time};

fn on(store: &Store) -> Stage {
    Stage::start(&["--backend", &store.url(), "--host", "a", "--instance-name", "a", "--lease-ttl", "5s"])
}

/// A daemon of another host, which finds what the first one has.
fn other(store: &Store) -> Daemon {
    let port = free_port();
    let mut command = Command::new(REPMD);
    command.args(["serve", "--address", "127.0.0.1", "--port", &port.to_string(), "--admin", "off"]);
    command.args(["--backend", &store.url(), "--host", "b", "--lease-ttl", "5s", "--log", "error"]);
    Daemon::spawn(command, port)
}

#[test]
fn other_hosts_find_the_nodes_all_the_time_by_the_same_leases() {
    let store = Store::redis();
    let (stage, other) = (on(&store), other(&store));
    let node = stage.register("n", 5000);
    wait_until("the other host finds it", SOON, || lookup_port(other.port(), "n@a").is_some());
    let before = stage.nodes();
    let longest = AtomicU32::new(0);
    beside(1, look_up_all_the_time(other.port(), "n@a", &longest), || {
        for _ in 0..5 {
            stage.upgrade();
            // A lease would be over, if nobody renewed it.
            std::thread::sleep(Duration::from_millis(1500));
        }
    });
    assert_eq!(stage.nodes(), before);
    drop(node);
    wait_until("it is gone everywhere", SOON, || lookup_port(other.port(), "n@a").is_none());
}

#[test]
fn neither_a_store_that_is_away_nor_a_registration_that_waits_for_it_is_in_the_way() {
    let mut store = Store::redis();
    let stage = on(&store);
    let _node = stage.register("n", 5000);
    store.pause();
    let mut waits = stage.connect();
    waits.send(&repmd_test_support::alive2("waits", 5001)).unwrap();
    beside(1, look_up_all_the_time(stage.port(), "n", &AtomicU32::new(0)), || drop(stage.upgrade()));
    assert_eq!(waits.read(6, SOON)[..2], [118, 0]);
    stage.upgrade();
    store.resume();
    let other = other(&store);
    for (name, port) in [("n@a", 5000), ("waits@a", 5001)] {
        wait_until("the other host finds both", SOON, || {
            lookup_port(other.port(), name).is_some_and(|found| found.port == port)
        });
    }
}

#[test]
fn nodes_that_leave_while_the_program_is_replaced_leave_the_store_too() {
    let store = Store::redis();
    let (stage, other) = (on(&store), other(&store));
    let left = AtomicU32::new(0);
    let come_and_go = |is_over: &AtomicBool| {
        while !is_over.load(Ordering::Relaxed) {
            let number = left.fetch_add(1, Ordering::Relaxed);
            drop(stage.register(&format!("n{number}"), 5000));
        }
    };
    beside(2, come_and_go, || (0..10).for_each(|_| drop(stage.upgrade())));
    let left = left.into_inner();
    assert!(50 < left, "{left} nodes");
    // Sooner than their leases would end.
    wait_until("none is found any more", Duration::from_secs(3), || {
        (0..left).all(|number| lookup_port(other.port(), &format!("n{number}@a")).is_none())
    });
}

#[test]
fn a_store_that_fails_over_meanwhile_keeps_every_name() {
    let mut store = Store::sentinel();
    let (stage, other) = (on(&store), other(&store));
    let nodes: Vec<_> = (0..100).map(|number| stage.register(&format!("n{number}"), 5000 + number)).collect();
    let before = stage.nodes();
    std::thread::scope(|scope| {
        let fails_over = scope.spawn(|| store.fail_over("repmd:{default}:x"));
        beside(1, look_up_all_the_time(stage.port(), "n50", &AtomicU32::new(0)), || {
            while !fails_over.is_finished() {
                assert!(stage.upgrade().contains("100 nodes kept, 0 lost"));
            }
            drop(stage.upgrade());
        });
    });
    wait_until("the other host finds all", 2 * SOON, || {
        (0..100).all(|number| {
            let found = lookup_port(other.port(), &format!("n{number}@a"));
            found.is_some_and(|found| found.port == 5000 + number)
        })
    });
    // Lives as before, though their leases may be on their way back.
    let creations =
        |nodes: &[serde_json::Value]| nodes.iter().map(|node| node["creation"].clone()).collect::<Vec<_>>();
    assert_eq!(creations(&stage.nodes()), creations(&before));
    assert!(nodes.iter().all(Peer::is_open));
}
