//! One question to an EPMD, for the commands that ask one.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::protocol::{Request, encode_request};

/// How long each step may take: what an Erlang node allows a daemon.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// What went wrong with a question.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("cannot write: {0}")]
    Write(io::Error),
    #[error("cannot read: {error}")]
    Read {
        error: io::Error,
        /// What came before.
        reply: Vec<u8>,
    },
}

/// Asks this machine's EPMD, at `::1` or else at `127.0.0.1`, and reads until it closes.
pub(super) fn ask_local(port: u16, request: &Request<'_>) -> Result<Vec<u8>, AskError> {
    let places = [SocketAddr::from((Ipv6Addr::LOCALHOST, port)), (Ipv4Addr::LOCALHOST, port).into()];
    ask(&places, request)
}

/// Asks the EPMD of `host`.
pub(super) fn ask_host(host: &str, port: u16, request: &Request<'_>) -> Result<Vec<u8>, AskError> {
    let places: Vec<_> = (host, port).to_socket_addrs().map_err(AskError::Connect)?.collect();
    ask(&places, request)
}

fn ask(places: &[SocketAddr], request: &Request<'_>) -> Result<Vec<u8>, AskError> {
    let mut refused = io::Error::other("the host has no address");
    for place in places {
        match TcpStream::connect_timeout(place, STEP_TIMEOUT) {
            Ok(stream) => return exchange(stream, request),
            Err(error) => refused = error,
        }
    }
    Err(AskError::Connect(refused))
}

/// Sends the request, and reads until the other side closes.
pub(super) fn exchange(mut stream: TcpStream, request: &Request<'_>) -> Result<Vec<u8>, AskError> {
    let timeouts = stream.set_read_timeout(Some(STEP_TIMEOUT));
    timeouts.and_then(|()| stream.set_write_timeout(Some(STEP_TIMEOUT))).map_err(AskError::Connect)?;
    stream.write_all(&encode_request(request)).map_err(AskError::Write)?;
    let mut reply = Vec::new();
    match stream.read_to_end(&mut reply) {
        Ok(_) => Ok(reply),
        Err(error) => Err(AskError::Read { error, reply }),
    }
}
