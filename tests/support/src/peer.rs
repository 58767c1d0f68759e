//! A raw connection to an EPMD.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use repmd::protocol::{PortReply, Request, decode_names_reply, decode_port_reply, encode_request};
use repmd_backend_api::{AliveName, Node};
use socket2::{Domain, SockRef, Socket, Type};

/// How the daemon ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// In order.
    Fin,
    /// By a reset.
    Reset,
}

/// One connection, and the bytes that came and were not taken yet.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
    ended: Option<Ended>,
}

impl Peer {
    /// Registers a node at port 5000 of its own, and returns its connection.
    #[must_use]
    pub fn registered(port: u16, name: &str) -> Self {
        Self::registered_at(port, name, 5000)
    }

    /// The same for a node that listens on `at`.
    #[must_use]
    pub fn registered_at(port: u16, name: &str, at: u16) -> Self {
        let mut node = Self::connect(port);
        node.register(name, at);
        node
    }

    /// Registers a node that listens on `at` over this connection, which must succeed. Returns its creation.
    pub fn register(&mut self, name: &str, at: u16) -> u32 {
        self.send(&alive2(name, at)).expect("it is connected");
        match *self.read(6, Duration::from_secs(30)) {
            [118, 0, a, b, c, d] => u32::from_be_bytes([a, b, c, d]),
            ref reply => panic!("{name}: {reply:02x?}, {:?}", self.ended()),
        }
    }

    /// Connects to 127.0.0.1.
    #[must_use]
    pub fn connect(port: u16) -> Self {
        Self::connect_from(None, ([127, 0, 0, 1], port).into()).expect("the daemon takes connections")
    }

    /// Connects, from a chosen address if there is one.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn connect_from(source: Option<IpAddr>, to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        socket.set_tcp_nodelay(true)?;
        Ok(Self { stream: socket.into(), received: Vec::new(), ended: None })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads once. `false`: nothing came by then, or the daemon has ended the connection.
    pub fn fill(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
        if self.ended.is_some() {
            return false;
        }
        self.stream.set_read_timeout(Some(left)).expect("the time-out is not zero");
        let mut chunk = [0; 65_536];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.ended = Some(Ended::Fin),
            Ok(count) => {
                self.received.extend(&chunk[..count]);
                return true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // By a signal to the tests, which is not the daemon's doing.
            Err(error) if error.kind() == ErrorKind::Interrupted => return self.fill(deadline),
            Err(_) => self.ended = Some(Ended::Reset),
        }
        false
    }

    /// What came and was not taken.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// How the daemon ended the connection, if it did as far as was read.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Whether the daemon leaves the connection open, as far as that has arrived.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket can be told not to wait");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("a socket can be told to wait");
        match peeked {
            Ok(count) => 0 < count,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// Takes the first `count` bytes that came.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        self.received.drain(..count).collect()
    }

    /// Reads `count` bytes, or fewer if no more come within `deadline`.
    pub fn read(&mut self, count: usize, deadline: Duration) -> Vec<u8> {
        let deadline = Instant::now() + deadline;
        while self.received.len() < count && self.fill(deadline) {}
        let count = count.min(self.received.len());
        self.take(count)
    }

    /// Reads until the daemon ends the connection.
    pub fn read_to_end(&mut self, deadline: Duration) -> Vec<u8> {
        let end = Instant::now() + deadline;
        while self.fill(end) {}
        assert!(self.ended.is_some(), "not closed within {deadline:?}, got {:02x?}", self.received);
        std::mem::take(&mut self.received)
    }

    /// Closes our side and leaves the other open.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("lingering can be set");
    }

    /// The socket, for what this type does not do.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// The bytes of an ALIVE2 request of an ordinary node of version 6.
#[must_use]
pub fn alive2(name: &str, port: u16) -> Vec<u8> {
    encode_request(&Request::Alive2(Node::ordinary(
        AliveName::parse(name.as_bytes()).expect("the test's name is one"),
        port,
    )))
}

/// Asks the daemon on `port` where `name` listens.
#[must_use]
pub fn lookup_port(port: u16, name: &str) -> Option<PortReply> {
    let mut peer = Peer::connect(port);
    peer.send(&encode_request(&Request::PortPlease2(name))).expect("the daemon reads");
    let reply = peer.read_to_end(Duration::from_secs(10));
    decode_port_reply(&reply).unwrap_or_else(|error| panic!("look-up of {name}: {error}, got {reply:02x?}"))
}

/// Asks the daemon on `port` for all names.
#[must_use]
pub fn names(port: u16) -> Vec<(String, u16)> {
    let mut peer = Peer::connect(port);
    peer.send(&encode_request(&Request::Names)).expect("the daemon reads");
    let reply = peer.read_to_end(Duration::from_secs(10));
    let names = decode_names_reply(&reply).expect("the reply has a port");
    names.nodes().map(|(name, port)| (name.to_owned(), port)).collect()
}
