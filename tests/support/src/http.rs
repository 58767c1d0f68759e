//! HTTP as far as tests need it: one request a connection, and streams of events.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::wait_for;

/// The longest that an answer may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// Its body as text.
    pub body: String,
}

impl Reply {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
}

/// Asks 127.0.0.1 for `path`.
#[must_use]
pub fn get(port: u16, path: &str, headers: &[(&str, &str)]) -> Reply {
    request("GET", port, path, headers, "")
}

/// Sends any request to 127.0.0.1.
#[must_use]
pub fn request(method: &str, port: u16, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let (status, headers, mut reader) = send(method, port, path, headers, body);
    let mut body = Vec::new();
    // The connection ends with the answer, but for those servers that do not hear of it.
    let read = match header(&headers, "content-length").and_then(|length| length.parse().ok()) {
        _ if method == "HEAD" => Ok(0),
        Some(length) => reader.by_ref().take(length).read_to_end(&mut body),
        None => reader.read_to_end(&mut body),
    };
    read.unwrap_or_else(|error| panic!("{method} {path}: the body breaks off: {error}"));
    let body = String::from_utf8(body).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    Reply { status, headers, body }
}

type Head = (u16, Vec<(String, String)>, BufReader<TcpStream>);

fn send(method: &str, port: u16, path: &str, headers: &[(&str, &str)], body: &str) -> Head {
    // A daemon takes connections on the wire a moment before it listens for operators.
    let connect = || TcpStream::connect(("127.0.0.1", port)).ok();
    let mut stream = wait_for(&format!("somebody listens on port {port}"), DEADLINE, connect);
    stream.set_read_timeout(Some(DEADLINE)).expect("the time-out is not zero");
    let mut text =
        format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        text += &format!("Host: 127.0.0.1:{port}\r\n");
    }
    headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{text}\r\n{body}").as_bytes()).expect("the server reads");
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap_or_else(|error| panic!("{method} {path}: no answer: {error}"));
        line.trim_end().to_owned()
    };
    let first = line();
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("{method} {path}: {first:?} has no status"));
    let mut headers = Vec::new();
    while let Some((name, value)) = line().split_once(':') {
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    (status, headers, reader)
}

/// An event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEvent {
    /// Where to go on from.
    pub id: String,
    /// Of which kind it is.
    pub kind: String,
    /// What it says, as JSON.
    pub data: String,
}

/// A stream of events.
#[derive(Debug)]
pub struct EventStream(BufReader<TcpStream>);

impl EventStream {
    /// Follows the events at `path`, from `last` if it is given.
    #[must_use]
    pub fn open(port: u16, path: &str, headers: &[(&str, &str)]) -> Self {
        let (status, headers, reader) = send("GET", port, path, headers, "");
        assert_eq!((status, header(&headers, "content-type")), (200, Some("text/event-stream")));
        Self(reader)
    }

    /// The next event. `None`: the stream has ended.
    pub fn next_event(&mut self) -> Option<StreamEvent> {
        let mut event = StreamEvent { id: String::new(), kind: String::new(), data: String::new() };
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).expect("an event comes in time, or the end") == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("event", kind)) => event.kind = kind.to_owned(),
                Some(("data", data)) => event.data = data.to_owned(),
                // Empty, and there was an event before; the rest are lengths of chunks and signs of life.
                None if line == "\n" && !event.kind.is_empty() => return Some(event),
                _ => {}
            }
        }
    }
}
