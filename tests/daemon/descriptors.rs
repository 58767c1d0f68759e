//! Many nodes, and too many.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use repmd_test_support::{Daemon, Peer, alive2, beside, lookup_port, names, wait_until};
use rustix::process::{Resource, Rlimit, prlimit};

use super::{SOON, look_up, raise_open_files, register, start, start_with_descriptors};

/// Leaves a running daemon so many descriptors that it may yet open.
fn leave_descriptors(daemon: &Daemon, free: usize) -> usize {
    let open = open_descriptors(daemon);
    let mut limits = (0..).scan(0, |seen, number| {
        *seen += usize::from(!open.contains(&number));
        Some((number, *seen))
    });
    let (limit, _) = limits.find(|(_, seen)| free < *seen).unwrap();
    let pid = rustix::process::Pid::from_raw(daemon.pid().as_raw_nonzero().get());
    let limits = Rlimit { current: Some(limit as u64), maximum: Some(4096) };
    prlimit(pid, Resource::Nofile, limits).unwrap();
    limit
}

fn open_descriptors(daemon: &Daemon) -> Vec<usize> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    open.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
}

/// How many of its descriptors below `limit` a daemon has left.
fn free_descriptors(daemon: &Daemon, limit: usize) -> usize {
    limit - open_descriptors(daemon).iter().filter(|number| **number < limit).count()
}

#[test]
fn four_thousand_nodes_are_held_and_found() {
    raise_open_files();
    let daemon = start(&[]);
    let name = |number| format!("node{number}");
    let nodes: Vec<_> = (0..4000).map(|number| register(daemon.port(), &name(number))).collect();
    for number in 0..nodes.len() {
        assert!(lookup_port(daemon.port(), &name(number)).is_some(), "{number}");
    }
    assert_eq!(names(daemon.port()).len(), nodes.len());
    drop(nodes);
    wait_until("all are unregistered", SOON, || names(daemon.port()).is_empty());
}

/// The stock daemon exits with 1, and all names are lost.
#[test]
fn running_out_of_descriptors_pauses_accepting_and_recovers() {
    let mut daemon = start_with_descriptors(4096, &[]);
    let mut nodes: Vec<_> = ["first", "last"].map(|name| register(daemon.port(), name)).into();
    leave_descriptors(&daemon, 0);
    let mut waiting = Peer::connect(daemon.port());
    waiting.send(&look_up("first")).unwrap();
    let before = daemon.cpu();
    assert_eq!(waiting.read(1, Duration::from_secs(1)), b"", "there is no descriptor for it");
    let busy = daemon.cpu() - before;
    assert!(busy < Duration::from_millis(200), "{busy:?} of the processor in one second of waiting");
    assert_eq!((waiting.ended(), daemon.ended()), (None, None));

    nodes.pop();
    assert_eq!(waiting.read(2, SOON), [119, 0]);
    assert_eq!(names(daemon.port()).len(), nodes.len());
}

#[test]
fn the_oldest_silent_connection_and_no_other_gives_way_when_descriptors_run_out() {
    let daemon = start_with_descriptors(4096, &[]);
    let _node = register(daemon.port(), "node0");
    let limit = leave_descriptors(&daemon, 6);
    // So that it finds them all at once, and then nobody else, when it has no descriptor even to look.
    let mut silent = Vec::new();
    daemon.while_halted(|| silent.extend((0..6).map(|_| Peer::connect(daemon.port()))));
    wait_until("all are accepted", SOON, || free_descriptors(&daemon, limit) == 0);
    assert_eq!(silent[0].read(1, Duration::from_millis(200)), b"");
    assert!(silent[0].is_open(), "nobody needs its descriptor yet");
    assert!(lookup_port(daemon.port(), "node0").is_some());
    assert_eq!(silent.remove(0).read_to_end(SOON), b"");
    for mut younger in silent {
        younger.send(&look_up("node0")).unwrap();
        assert_eq!(younger.read(2, SOON), [119, 0]);
    }
}

/// Whatever has few descriptors: nodes, those that wait for a taken name, and silent connections together.
#[test]
fn nodes_leave_descriptors_for_look_ups() {
    for descriptors in [64, 256, 1024] {
        let daemon = start_with_descriptors(descriptors, &[]);
        // All at once, so that the daemon finds them together.
        let asks = |count: usize| (0..count).map(|_| Peer::connect(daemon.port())).collect::<Vec<_>>();
        let mut nodes = Vec::new();
        daemon.while_halted(|| {
            nodes = asks(descriptors.min(200));
            for (number, node) in nodes.iter_mut().enumerate() {
                node.send(&alive2(&format!("node{number}"), 1)).unwrap();
            }
        });
        // Those that come after the first one may be turned away, but it has its answer before anybody asks for it.
        assert_eq!(nodes[0].read(6, SOON).len(), 6);
        let mut number = nodes.len();
        // Until one is turned away: a refusal would read as a duplicate name.
        let turned_away = loop {
            let mut node = Peer::connect(daemon.port());
            node.send(&alive2(&format!("node{number}"), 1)).unwrap();
            if node.read(6, SOON).is_empty() {
                break node;
            }
            nodes.push(node);
            number += 1;
            assert!(number < descriptors, "nobody is turned away of {descriptors}");
        };
        drop(turned_away);
        let _silent = asks(descriptors / 2);
        let mut rivals = asks(descriptors / 2);
        rivals.iter_mut().for_each(|rival| rival.send(&alive2("node0", 2)).unwrap());
        for _ in 0..20 {
            assert!(lookup_port(daemon.port(), "node0").is_some(), "of {descriptors}");
        }
        assert!(!names(daemon.port()).is_empty());
    }
}

/// Each holds a descriptor for half a second, and a node gives up after ten.
#[test]
fn a_flood_of_claims_on_a_taken_name_makes_no_other_node_wait() {
    let daemon = start_with_descriptors(256, &[]);
    let _holder = register(daemon.port(), "taken");
    let claim = |is_over: &AtomicBool| {
        let mut rivals = std::collections::VecDeque::new();
        while !is_over.load(Ordering::Relaxed) {
            let mut rival = Peer::connect(daemon.port());
            let _ = rival.send(&alive2("taken", 1));
            rivals.push_back(rival);
            if 400 < rivals.len() {
                rivals.pop_front();
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    };
    let worst = beside(1, claim, || {
        std::thread::sleep(Duration::from_millis(500));
        let register_one = |number| {
            let started = Instant::now();
            drop(register(daemon.port(), &format!("node{number}")));
            started.elapsed()
        };
        (0..30).map(register_one).max().unwrap()
    });
    assert!(worst < Duration::from_secs(1), "a node waited for {worst:?}");
}
