//! A connection that notices when the other end is gone.

use std::io;
use std::time::Duration;

use futures_util::future::select_ok;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};

use crate::address::Address;

/// When the kernel gives up a peer that acknowledges nothing.
const VANISHED: Duration = Duration::from_secs(5);

/// Connects to the first of the server's addresses that answers. Whoever calls has a deadline of its own.
///
/// # Errors
/// When the host has no address, or none answers.
pub async fn connect(Address { host, port }: &Address) -> io::Result<TcpStream> {
    let attempts: Vec<_> =
        lookup_host((&**host, *port)).await?.map(|address| Box::pin(TcpStream::connect(address))).collect();
    if attempts.is_empty() {
        return Err(io::Error::other("the host has no address"));
    }
    let (stream, _) = select_ok(attempts).await?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(VANISHED).with_interval(Duration::from_secs(1));
    socket.set_tcp_keepalive(&keepalive.with_retries(3))?;
    socket.set_tcp_user_timeout(Some(VANISHED))?;
    Ok(stream)
}
