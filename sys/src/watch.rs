//! Readiness of a listening socket, without accepting through the event loop.

use std::io;
use std::net::TcpListener;

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
