//! Readiness of a socket to be read, without reading through the event loop.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tells the event loop of the current runtime to report when `listener` has connections to accept.
///
/// # Errors
/// When the event loop takes no more descriptors.
pub fn watch_listener(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: a TcpListener owns its descriptor, which stays open and the same until it is dropped, and
    // AsyncFd drops it only after it has told the event loop.
    unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }.map_err(Into::into)
}

/// The same for what a connection's peer sends. That it can be written to is not reported, which would be
/// an event for each new connection.
///
/// # Errors
/// When the event loop takes no more descriptors. The connection is shut down then, whoever has copies of it.
pub fn watch_peer(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above; an OwnedFd owns its descriptor as a TcpListener does.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(|refused| {
        let (socket, error) = refused.into_parts();
        // It fails when the peer has hung up first, which is as good.
        let _ = TcpStream::from(socket).shutdown(Shutdown::Both);
        error
    })
}
