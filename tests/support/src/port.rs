//! Ports that nobody uses.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::{Domain, Socket, Type};

/// Below the range from which the kernel picks ports for clients.
const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

/// A port on which nothing listens, neither on IPv4 nor on IPv6, and which no other test gets as long as this
/// process lives: a test that finds another's daemon on its port may well kill it.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 37 % u32::from(COUNT)).expect("COUNT fits 16 bits");
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        // The UDP port of the same number is the sign for tests of other processes that this one is taken.
        let Ok(reserved) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        if is_free((Ipv4Addr::UNSPECIFIED, port).into()) && is_free((Ipv6Addr::UNSPECIFIED, port).into()) {
            std::mem::forget(reserved);
            return port;
        }
    }
    panic!("no port from {FIRST} to {} is free", FIRST + COUNT);
}

fn is_free(address: SocketAddr) -> bool {
    let Ok(socket) = Socket::new(Domain::for_address(address), Type::STREAM, None) else {
        // A machine without IPv6 has nothing on it either.
        return address.is_ipv6();
    };
    if address.is_ipv6() {
        socket.set_only_v6(true).expect("an IPv6 socket can be kept to IPv6");
    }
    socket.set_reuse_address(true).expect("an address can be reused");
    socket.bind(&address.into()).is_ok()
}
