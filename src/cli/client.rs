//! One question to an EPMD, for the commands that ask one.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::printable::in_words;
use crate::protocol::{ReplyError, Request, decode_names_reply, encode_request};

/// How long an answer may take in all: a list of a shared registry has four seconds for its store.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(5);

/// The same where the stock program asks: what an Erlang node allows a daemon.
pub(super) const STOCK_ANSWER_TIME: Duration = Duration::from_secs(10);

/// The longest answer that is read: far beyond the names of as many nodes as a host can have.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// What went wrong with a question.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("cannot connect: {}", in_words(.0))]
    Connect(io::Error),
    #[error("cannot write: {}", in_words(.0))]
    Write(io::Error),
    #[error("cannot read: {}", in_words(.error))]
    Read {
        error: io::Error,
        /// What came before.
        reply: Vec<u8>,
    },
    #[error("{place} takes connections and gives no whole answer")]
    Silent {
        place: SocketAddr,
        /// What came of it.
        reply: Vec<u8>,
    },
}

/// Asks this machine's EPMD, at `::1` or else at `127.0.0.1`, and reads until it closes, `within` that time.
pub(super) fn ask_local(port: u16, request: &Request<'_>, within: Duration) -> Result<Vec<u8>, AskError> {
    let places = [SocketAddr::from((Ipv6Addr::LOCALHOST, port)), (Ipv4Addr::LOCALHOST, port).into()];
    ask(&places, request, Instant::now() + within)
}

/// Asks the host that is named so, or this one, and takes what `read` makes of the answer.
///
/// # Errors
/// What is wrong there, in words.
pub(super) fn ask_at<T>(
    at: Option<&str>,
    port: u16,
    request: &Request<'_>,
    within: Duration,
    read: impl FnOnce(&[u8]) -> Result<T, ReplyError>,
) -> Result<T, String> {
    let at = at.map(|at| host_and_port(at, port));
    let reply = match at {
        Some((host, port)) => ask_host(host, port, request, within),
        None => ask_local(port, request, within),
    };
    let (place, port) = at.unwrap_or(("this host", port));
    let reply = reply.map_err(|error| match error {
        AskError::Connect(error) if at.is_none() && error.kind() == io::ErrorKind::ConnectionRefused => {
            format!("no EPMD at {place}, port {port}: nothing listens there; `repmd serve` starts one")
        }
        AskError::Connect(error) => format!("no EPMD at {place}, port {port}: {}", in_words(&error)),
        AskError::Silent { place, .. } => {
            // A script's time is what is left of it: a little less than somebody said.
            let tenths = within.as_millis().div_ceil(100);
            let within = Duration::from_millis(u64::try_from(tenths * 100).unwrap_or(u64::MAX));
            format!(
                "no answer from {place} within {within:?}: what listens there is no EPMD, or stands still"
            )
        }
        error => format!("the EPMD at {place}, port {port}: {error}"),
    })?;
    read(&reply).map_err(|error| match error {
        ReplyError::Malformed => format!("what listens at {place}, port {port} is no EPMD"),
        ReplyError::TooShort { bytes: 0 } => format!(
            "what listens at {place}, port {port} has closed the connection without an answer: it is no EPMD, or \
             answers others only"
        ),
        error @ ReplyError::TooShort { .. } => format!("the EPMD at {place}, port {port}: {error}"),
    })
}

/// The nodes that a NAMES reply lists, and nothing that another program says.
pub(super) fn read_names(reply: &[u8]) -> Result<Vec<(String, u16)>, ReplyError> {
    let names = decode_names_reply(reply)?;
    if u32::from(u16::MAX) < names.port {
        return Err(ReplyError::Malformed);
    }
    Ok(names.nodes().map(|(name, port)| (name.to_owned(), port)).collect())
}

/// Asks the EPMD of `host`.
fn ask_host(host: &str, port: u16, request: &Request<'_>, within: Duration) -> Result<Vec<u8>, AskError> {
    let until = Instant::now() + within;
    ask(&resolve(host, port, until).map_err(AskError::Connect)?, request, until)
}

/// The host and port that a person means: `hostb`, `hostb:4370`, `192.0.2.1`, `2001:db8::1`, `[2001:db8::1]` or
/// `[2001:db8::1]:4370`. Without a port it is `port`.
fn host_and_port(text: &str, port: u16) -> (&str, u16) {
    let number = |text: &str| text.parse().ok();
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return match rest.strip_prefix(':').and_then(number) {
            Some(port) => (host, port),
            None if rest.is_empty() => (host, port),
            None => (text, port),
        };
    }
    match text.split_once(':').map(|(host, rest)| (host, number(rest))) {
        Some((host, Some(port))) if !host.is_empty() => (host, port),
        _ => (text, port),
    }
}

/// The addresses of `host`. The resolver has a patience of its own, so it is left behind when time is over.
pub(super) fn resolve(host: &str, port: u16, until: Instant) -> io::Result<Vec<SocketAddr>> {
    let (sender, resolved) = mpsc::channel();
    let place = (host.to_owned(), port);
    thread::spawn(move || sender.send(place.to_socket_addrs().map(Iterator::collect)));
    resolved.recv_timeout(left(until)?).unwrap_or_else(|_| Err(silent()))
}

fn ask(places: &[SocketAddr], request: &Request<'_>, until: Instant) -> Result<Vec<u8>, AskError> {
    let mut refused = io::Error::other("the host has no address");
    for place in places {
        match left(until).and_then(|left| TcpStream::connect_timeout(place, left)) {
            Ok(stream) => return exchange(stream, request, until),
            Err(error) => refused = error,
        }
    }
    Err(AskError::Connect(refused))
}

/// Sends the request, and reads until the other side closes.
pub(super) fn exchange(
    mut stream: TcpStream,
    request: &Request<'_>,
    until: Instant,
) -> Result<Vec<u8>, AskError> {
    let place = stream.peer_addr().map_err(AskError::Connect)?;
    let is_silence =
        |error: &io::Error| [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock].contains(&error.kind());
    let write = left(until).and_then(|left| stream.set_write_timeout(Some(left)));
    match write.and_then(|()| stream.write_all(&encode_request(request))) {
        Err(error) if is_silence(&error) => return Err(AskError::Silent { place, reply: Vec::new() }),
        written => written.map_err(AskError::Write)?,
    }
    let mut reply = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        // Anew each time: the whole is bounded, not each of its pieces.
        let read = left(until).and_then(|left| stream.set_read_timeout(Some(left)));
        match read.and_then(|()| stream.read(&mut buffer)) {
            Ok(0) => return Ok(reply),
            Ok(count) if reply.len() + count <= REPLY_BYTES_MAX => reply.extend(&buffer[..count]),
            Ok(_) => {
                let error = io::Error::other(format!("more than {} MiB", REPLY_BYTES_MAX >> 20));
                return Err(AskError::Read { error, reply });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_silence(&error) => return Err(AskError::Silent { place, reply }),
            Err(error) => return Err(AskError::Read { error, reply }),
        }
    }
}

/// How long it is until then; an error when that is over.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(silent()) } else { Ok(left) }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn a_place_is_a_host_with_or_without_a_port() {
        for (text, place) in [
            ("hostb", ("hostb", 4369)),
            ("hostb:5000", ("hostb", 5000)),
            ("192.0.2.1:5000", ("192.0.2.1", 5000)),
            ("::1", ("::1", 4369)),
            ("2001:db8::1", ("2001:db8::1", 4369)),
            ("[::1]", ("::1", 4369)),
            ("[::1]:5000", ("::1", 5000)),
            // None of these is a place, and the resolver says so of the whole.
            (":5000", (":5000", 4369)),
            ("hostb:", ("hostb:", 4369)),
            ("hostb:70000", ("hostb:70000", 4369)),
            ("[::1]5000", ("[::1]5000", 4369)),
        ] {
            assert_eq!(host_and_port(text, 4369), place, "{text}");
        }
    }
}
