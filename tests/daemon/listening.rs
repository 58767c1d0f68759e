//! Where it listens, and for how long.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use repmd_test_support::{Daemon, Peer};

use super::{SOON, look_up, register, start, try_register};

fn connect_to(daemon: &Daemon, address: &str) -> Peer {
    let address: IpAddr = address.parse().unwrap();
    Peer::connect_from(None, SocketAddr::new(address, daemon.port())).unwrap()
}

fn finds(daemon: &Daemon, address: &str, name: &str) -> bool {
    let mut peer = connect_to(daemon, address);
    peer.send(&look_up(name)).unwrap();
    peer.read_to_end(SOON).starts_with(&[119, 0])
}

#[test]
fn a_node_of_one_family_is_found_over_the_other() {
    let daemon = start(&[]);
    let mut six = connect_to(&daemon, &Ipv6Addr::LOCALHOST.to_string());
    assert!(try_register(&mut six, "six"));
    let _four = register(daemon.port(), "four");
    for (address, name) in [("127.0.0.1", "six"), ("::1", "four")] {
        assert!(finds(&daemon, address, name), "{name} over {address}");
    }
    assert!(!try_register(&mut connect_to(&daemon, "::1"), "four"), "one name space for both");
}

#[test]
fn all_listeners_share_the_names() {
    let daemon = start(&["-address", "127.0.0.2,127.0.0.3"]);
    let _node = register(daemon.port(), "n");
    for address in ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"] {
        assert!(finds(&daemon, address, "n"), "{address}");
    }
}

/// The stock daemon is 1 to 6 s late.
#[test]
fn the_packet_timeout_is_exact_and_starts_anew_with_each_byte() {
    let daemon = start(&["-packet_timeout", "1"]);
    let about_a_second = Duration::from_millis(990)..Duration::from_millis(1900);
    let mut silent = Peer::connect(daemon.port());
    let begin = Instant::now();
    assert_eq!(silent.read_to_end(SOON), b"");
    assert!(about_a_second.contains(&begin.elapsed()), "{:?}", begin.elapsed());

    let mut slow = Peer::connect(daemon.port());
    let begin = Instant::now();
    for byte in [b"\0", b"\x02"] {
        assert!(!slow.fill(Instant::now() + Duration::from_millis(700)));
        slow.send(byte).unwrap();
    }
    let last = Instant::now();
    assert_eq!(slow.read_to_end(SOON), b"");
    assert!(Duration::from_millis(1400) < begin.elapsed());
    assert!(about_a_second.contains(&last.elapsed()), "{:?}", last.elapsed());
}
