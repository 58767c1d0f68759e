//! Many nodes, and too many.

use std::time::Duration;

use repmd_test_support::{Daemon, Peer, alive2, lookup_port, names, wait_until};

use super::{SOON, look_up, raise_open_files, register, start, start_with_descriptors};

const FEW: usize = 32;

/// How many of [`FEW`] descriptors a daemon has left. It may have inherited others that are above the limit.
fn free_descriptors(daemon: &Daemon) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let number =
        |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().to_str()?.parse().ok();
    FEW - open.filter_map(number).filter(|number: &usize| *number < FEW).count()
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
    let mut daemon = start_with_descriptors(FEW, &[]);
    let mut nodes = vec![register(daemon.port(), "first")];
    while 0 < free_descriptors(&daemon) {
        nodes.push(register(daemon.port(), &format!("node{}", nodes.len())));
    }
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
    let daemon = start_with_descriptors(FEW, &[]);
    let mut nodes = Vec::new();
    while 6 < free_descriptors(&daemon) {
        nodes.push(register(daemon.port(), &format!("node{}", nodes.len())));
    }
    // So that it finds them all at once, and then nobody else, when it has no descriptor even to look.
    let mut silent = Vec::new();
    daemon.while_halted(|| silent.extend((0..6).map(|_| Peer::connect(daemon.port()))));
    wait_until("all are accepted", SOON, || free_descriptors(&daemon) == 0);
    assert_eq!(silent[0].read(1, Duration::from_millis(200)), b"");
    assert_eq!(silent[0].ended(), None, "nobody needs its descriptor yet");
    assert!(lookup_port(daemon.port(), "node0").is_some());
    assert_eq!(silent.remove(0).read_to_end(SOON), b"");
    for mut younger in silent {
        younger.send(&look_up("node0")).unwrap();
        assert_eq!(younger.read(2, SOON), [119, 0]);
    }
}

#[test]
fn nodes_leave_descriptors_for_look_ups() {
    let daemon = start_with_descriptors(1024, &[]);
    let nodes: Vec<_> = (0..960).map(|number| register(daemon.port(), &format!("node{number}"))).collect();
    let mut one_too_many = Peer::connect(daemon.port());
    one_too_many.send(&alive2("another", 1)).unwrap();
    assert_eq!(one_too_many.read_to_end(SOON), b"", "a refusal would read as a duplicate name");
    let _silent: Vec<_> = (0..100).map(|_| Peer::connect(daemon.port())).collect();
    assert!(lookup_port(daemon.port(), "node0").is_some());
    assert_eq!(names(daemon.port()).len(), nodes.len());
}
