//! The end of the daemon by a signal.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use repmd_test_support::{Daemon, Ended, Peer, wait_until};
use rustix::process::Signal;

use super::{SOON, look_up, register, start, start_with};

const FOUND: &[u8] = b"\x77\x00\x04\xd2\x4d\x00\x00\x06\x00\x05\x00\x01n\x00\x00";

/// Lets the daemon find a SIGTERM together with what is done.
fn terminate_together_with(daemon: &Daemon, something: impl FnOnce()) {
    daemon.while_halted(|| {
        something();
        daemon.signal(Signal::TERM);
    });
}

#[test]
fn a_stopping_daemon_answers_what_is_on_its_way() {
    let mut daemon = start(&[]);
    let mut node = register(daemon.port(), "n");
    let request = look_up("n");
    let before = daemon.open_files();
    let mut cut = Peer::connect(daemon.port());
    cut.send(&request[..3]).unwrap();
    let mut silent = Peer::connect(daemon.port());
    wait_until("both are accepted", SOON, || before + 2 == daemon.open_files());

    daemon.signal(Signal::TERM);
    assert_eq!(silent.read_to_end(SOON), b"", "it has asked for nothing");
    wait_until("nobody can connect", SOON, || {
        TcpStream::connect(("127.0.0.1", daemon.port()))
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert_eq!(node.read(1, Duration::from_millis(100)), b"");
    assert!(node.is_open(), "nodes go last");
    cut.send(&request[3..]).unwrap();
    assert_eq!(cut.read_to_end(SOON), FOUND);
    assert_eq!(node.read_to_end(SOON), b"");
    assert_eq!(node.ended(), Some(Ended::Fin));
    assert_eq!(daemon.wait(SOON).code(), Some(0));
}

#[test]
fn a_look_up_whose_answer_is_being_written_finds_the_node_until_the_end() {
    let mut daemon = start(&["-delay_write", "1"]);
    let _node = register(daemon.port(), "n");
    let before = daemon.open_files();
    let mut asker = Peer::connect(daemon.port());
    asker.send(&look_up("n")).unwrap();
    wait_until("it is accepted", SOON, || before < daemon.open_files());
    daemon.signal(Signal::TERM);
    assert_eq!(asker.read_to_end(SOON), FOUND);
    assert_eq!(daemon.wait(SOON).code(), Some(0));
}

/// The kernel has accepted them already, so their clients believe that they are served.
#[test]
fn every_look_up_in_the_backlog_is_answered_before_the_end() {
    let mut daemon = start(&[]);
    let _node = register(daemon.port(), "n");
    let mut askers = Vec::new();
    terminate_together_with(&daemon, || {
        for _ in 0..500 {
            let mut asker = Peer::connect(daemon.port());
            asker.send(&look_up("n")).unwrap();
            askers.push(asker);
        }
    });
    for (number, asker) in askers.iter_mut().enumerate() {
        assert_eq!(asker.read_to_end(SOON), FOUND, "{number}");
    }
    assert_eq!(daemon.wait(SOON).code(), Some(0));
}

#[test]
fn a_request_that_arrives_together_with_the_signal_is_answered() {
    let mut daemon = start(&[]);
    let _node = register(daemon.port(), "n");
    let before = daemon.open_files();
    let mut askers: Vec<_> = (0..50).map(|_| Peer::connect(daemon.port())).collect();
    wait_until("all are accepted", SOON, || daemon.open_files() == before + askers.len());
    terminate_together_with(&daemon, || {
        askers.iter_mut().for_each(|asker| asker.send(&look_up("n")).unwrap());
    });
    for (number, asker) in askers.iter_mut().enumerate() {
        assert_eq!(asker.read_to_end(SOON), FOUND, "{number}");
    }
    assert_eq!(daemon.wait(SOON).code(), Some(0));
}

/// Whoever has connected just before the signal is about to ask.
#[test]
fn a_request_that_arrives_a_moment_after_the_signal_is_answered() {
    let mut daemon = start(&[]);
    let _node = register(daemon.port(), "n");
    let before = daemon.open_files();
    let mut asker = Peer::connect(daemon.port());
    wait_until("it is accepted", SOON, || daemon.open_files() == before + 1);
    daemon.signal(Signal::TERM);
    wait_until("the daemon stops", SOON, || TcpStream::connect(("127.0.0.1", daemon.port())).is_err());
    asker.send(&look_up("n")).unwrap();
    assert_eq!(asker.read_to_end(SOON), FOUND);
    assert_eq!(daemon.wait(SOON).code(), Some(0));
}

#[test]
fn a_request_that_is_never_whole_delays_the_end_by_the_drain_time_at_most() {
    let mut daemon = start_with(&[("REPMD_DRAIN_TIME", "1s")], &[]);
    let mut cut = Peer::connect(daemon.port());
    cut.send(b"\0").unwrap();
    let mut node = register(daemon.port(), "n");
    let begin = Instant::now();
    // What the tests ignore, such as in the background of a script, the daemon ignores too.
    let interrupt = Signal::INT;
    let is_ignored = repmd_sys::is_ignored(interrupt.as_raw());
    daemon.signal(if is_ignored { Signal::TERM } else { interrupt });
    assert_eq!(daemon.wait(SOON).code(), Some(0));
    assert!(Duration::from_secs(1) <= begin.elapsed() && begin.elapsed() < Duration::from_secs(4));
    assert_eq!((node.read_to_end(SOON), cut.read_to_end(SOON)), (vec![], vec![]));
}
