//! The life of a registration.

use std::fs::read_to_string;

use repmd_test_support::{Ended, Peer, alive2, lookup_port, names, wait_until};

use super::{REFUSED, SOON, register, start, try_register};

/// A node that comes back to a taken name every two seconds must not leak connections here.
#[test]
fn a_refused_connection_is_closed() {
    let daemon = start(&[]);
    let mut holder = register(daemon.port(), "n");
    let before = daemon.open_files();
    let mut refused = Vec::new();
    for _ in 0..50 {
        let mut peer = Peer::connect(daemon.port());
        peer.send(&alive2("n", 5)).unwrap();
        refused.push(peer);
    }
    for peer in &mut refused {
        assert_eq!(peer.read_to_end(SOON), REFUSED);
        assert_eq!(peer.ended(), Some(Ended::Fin));
    }
    assert_eq!(daemon.open_files(), before, "while all refused peers keep their side open");
    assert_eq!(holder.read(1, std::time::Duration::from_millis(100)), b"");
    assert!(holder.is_open());
    assert_eq!(lookup_port(daemon.port(), "n").unwrap().port, 1234);
}

#[test]
fn a_refusal_that_cannot_be_written_evicts_nobody() {
    let slow = start(&["-delay_write", "1"]);
    let mut holder = register(slow.port(), "n");
    let before = slow.open_files();
    let mut peer = Peer::connect(slow.port());
    peer.send(&alive2("n", 5)).unwrap();
    wait_until("the request is read", SOON, || before < slow.open_files());
    peer.reset();
    wait_until("the refusal is given up", SOON, || slow.open_files() == before);
    assert_eq!(lookup_port(slow.port(), "n").unwrap().port, 1234);
    assert_eq!(holder.read(1, std::time::Duration::from_millis(100)), b"");
    assert!(holder.is_open());

    let quick = start(&[]);
    let _holder = register(quick.port(), "n");
    for _ in 0..200 {
        let mut peer = Peer::connect(quick.port());
        peer.send(&alive2("n", 5)).unwrap();
        peer.reset();
    }
    assert_eq!(lookup_port(quick.port(), "n").unwrap().port, 1234);
}

/// `net_kernel:stop` and `start`: the end of the old connection and the new request become readable
/// together. The daemon is halted meanwhile, so that this happens each time.
#[test]
fn a_name_is_free_as_soon_as_its_holder_has_hung_up() {
    let stray_byte = |mut peer: Peer| {
        peer.send(b"x").unwrap();
        // Its end must not be what frees the name.
        std::mem::forget(peer);
    };
    let ends = [("a FIN", drop as fn(Peer)), ("a reset", Peer::reset), ("a stray byte", stray_byte)];
    let daemon = start(&[]);
    for (what, end) in ends {
        for (order, request_first) in [("before", false), ("after", true)] {
            let holder = register(daemon.port(), "n");
            let mut newcomer = Peer::connect(daemon.port());
            daemon.while_halted(|| {
                if request_first {
                    newcomer.send(&alive2("n", 1234)).unwrap();
                    end(holder);
                } else {
                    end(holder);
                    newcomer.send(&alive2("n", 1234)).unwrap();
                }
            });
            let reply = newcomer.read(6, SOON);
            assert_eq!(reply.get(..2), Some(&[118, 0][..]), "{what} came {order} the request: {reply:02x?}");
            drop(newcomer);
            wait_until("the name is free", SOON, || lookup_port(daemon.port(), "n").is_none());
        }
    }
}

/// `net_kernel:stop` and `start` on a busy machine: the threads of the node get to the end of the old
/// connection after they have sent the new request.
#[test]
fn a_name_is_free_when_its_holder_leaves_just_after_the_request() {
    let daemon = start(&[]);
    let holder = register(daemon.port(), "n");
    let mut newcomer = Peer::connect(daemon.port());
    newcomer.send(&alive2("n", 1234)).unwrap();
    assert_eq!(newcomer.read(6, std::time::Duration::from_millis(100)), b"", "no refusal yet");
    drop(holder);
    let reply = newcomer.read(6, SOON);
    assert_eq!(reply.get(..2), Some(&[118, 0][..]), "{reply:02x?}");
}

#[test]
fn a_node_that_leaves_and_returns_at_once_is_never_refused() {
    let daemon = start(&[]);
    for round in 0..500 {
        let mut node = Peer::connect(daemon.port());
        assert!(try_register(&mut node, "n"), "round {round}");
    }
}

#[test]
fn a_stray_byte_a_fin_or_a_reset_unregisters() {
    let daemon = start(&[]);
    let (mut stray, half_closed, reset) = (
        register(daemon.port(), "stray"),
        register(daemon.port(), "half-closed"),
        register(daemon.port(), "reset"),
    );
    stray.send(b"x").unwrap();
    assert_eq!(stray.read_to_end(SOON), b"");
    half_closed.shutdown_write().unwrap();
    reset.reset();
    wait_until("all are unregistered", SOON, || names(daemon.port()).is_empty());
}

/// The kernel tells of its timer in the column `tr tm->when`: `02` is keep-alive, then hundredths of
/// seconds.
#[test]
fn alive_connections_have_tcp_keep_alive() {
    let daemon = start(&[]);
    let node = register(daemon.port(), "n");
    let silent = Peer::connect(daemon.port());
    let timer = |peer: &Peer| {
        let address = |port: u16| format!("0100007F:{port:04X}");
        let peer = peer.stream().local_addr().unwrap().port();
        let table = read_to_string("/proc/net/tcp").unwrap();
        let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut ours = columns.filter(|row| row[1] == address(daemon.port()) && row[2] == address(peer));
        let (kind, when) = ours.next().expect("the daemon's side")[5].split_once(':').unwrap();
        (kind.to_owned(), u64::from_str_radix(when, 16).unwrap())
    };
    let (kind, hundredths) = timer(&node);
    assert_eq!(kind, "02");
    assert!((5000..=6000).contains(&hundredths), "{hundredths}");
    // The packet timeout ends those that have not registered.
    assert_eq!(timer(&silent).0, "00");
}
