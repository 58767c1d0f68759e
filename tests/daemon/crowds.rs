//! Thousands of connections that send nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use repmd_test_support::{Daemon, Peer, in_own_network, lookup_port, names, run, wait_until};

use super::{SOON, look_up, raise_open_files, register, start_with_descriptors};

const SILENT: usize = 5000;
/// A quarter of the daemon's descriptors.
const WAITING_MAX: usize = 2048;
const WAITING_PER_PEER_MAX: usize = WAITING_MAX / 4;

/// The daemon's address that is not loopback.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Plays a crowd of silent connections, and looks up all the while, from loopback and from `asker`. Each
/// of the crowd comes from the address that `source` gives for its number.
fn crowd(to: Ipv4Addr, source: fn(usize) -> Ipv4Addr, asker: Ipv4Addr, left: usize) {
    raise_open_files();
    in_own_network(|| {
        // Every address of the network is this machine's.
        run("ip", &["route", "add", "local", "10.77.0.0/16", "dev", "lo"]);
        let daemon = start_with_descriptors(4 * WAITING_MAX, &[]);
        let mut node = register(daemon.port(), "n");
        let before = daemon.open_files();
        let mut silent = Vec::new();
        for number in 0..SILENT {
            silent.push(connect(&daemon, source(number), to));
            if number % 50 == 0 {
                assert_is_answered(&daemon, asker, to);
            }
        }
        wait_until("the crowd is bounded", SOON, || daemon.open_files() == before + left);
        assert_is_answered(&daemon, asker, to);
        assert!(lookup_port(daemon.port(), "n").is_some());
        assert_eq!(names(daemon.port()).len(), 1);
        assert_eq!(node.read(1, Duration::from_millis(100)), b"");
        assert!(node.is_open());
        // Those that came last are left.
        assert_eq!(silent[0].read_to_end(SOON), b"");
        let last = silent.last_mut().unwrap();
        last.send(&look_up("n")).unwrap();
        assert_eq!(last.read(2, SOON), [119, 0]);
    });
}

fn connect(daemon: &Daemon, from: Ipv4Addr, to: Ipv4Addr) -> Peer {
    Peer::connect_from(Some(IpAddr::V4(from)), SocketAddr::from((to, daemon.port()))).unwrap()
}

fn assert_is_answered(daemon: &Daemon, asker: Ipv4Addr, to: Ipv4Addr) {
    let begin = Instant::now();
    let mut peer = connect(daemon, asker, to);
    peer.send(&look_up("n")).unwrap();
    assert_eq!(peer.read_to_end(SOON).get(..2), Some(&[119, 0][..]));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[test]
fn silent_connections_from_one_address_disturb_nobody_not_even_that_address() {
    const FLOODER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
    crowd(PUBLIC, |_| FLOODER, FLOODER, WAITING_PER_PEER_MAX);
}

#[test]
fn silent_connections_from_many_addresses_disturb_nobody() {
    let source = |number: usize| {
        let [high, low] = u16::try_from(number + 256).unwrap().to_be_bytes();
        Ipv4Addr::new(10, 77, high, low)
    };
    crowd(PUBLIC, source, Ipv4Addr::new(10, 77, 0, 9), WAITING_MAX);
}

/// Loopback has no bound of its own: all of a host's nodes come from there.
#[test]
fn silent_connections_from_loopback_disturb_nobody() {
    crowd(Ipv4Addr::LOCALHOST, |_| Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, WAITING_MAX);
}
