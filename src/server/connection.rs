//! One connection, from its accept to its close, or to the hands of [`super::alive`].

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::field::{DisplayValue, display};
use tracing::{Instrument as _, debug, debug_span};

use super::alive;
use super::answer::{Answer, Asker, answer, answer_later, complain};
use super::carried::{Progress, UnderWay};
use super::daemon::Daemon;
use super::table::{AliveSocket, forget_unread};
use crate::printable::in_words;
use crate::protocol::{REQUEST_BYTES_MAX, split_frame};

/// Most bytes that are taken from a connection: the largest request, and one more, to notice a surplus.
const RECEIVED_BYTES_MAX: usize = 2 + REQUEST_BYTES_MAX + 1;

/// A connection's socket.
#[derive(Debug)]
enum Socket {
    /// As accepted. Most connections end before the event loop hears of them, which saves a fifth of
    /// what a look-up costs.
    Fresh(OwnedFd),
    /// Known to the event loop.
    Watched(Arc<TcpStream>),
}

impl Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Fresh(fd) => fd.as_fd(),
            Self::Watched(stream) => stream.as_fd(),
        }
    }

    fn watch(self) -> io::Result<Arc<TcpStream>> {
        match self {
            Self::Fresh(fd) => TcpStream::from_std(fd.into()).map(Arc::new),
            Self::Watched(stream) => Ok(stream),
        }
    }

    fn watch_for_its_end(self) -> io::Result<Arc<AliveSocket>> {
        repmd_sys::watch_peer(self.into_fd()?).map(Arc::new)
    }

    /// The socket alone, unknown to the event loop.
    fn into_fd(self) -> io::Result<OwnedFd> {
        match self {
            Self::Fresh(fd) => Ok(fd),
            Self::Watched(stream) => match Arc::try_unwrap(stream) {
                Ok(stream) => Ok(stream.into_std()?.into()),
                // Nobody else keeps it once its request is whole.
                Err(stream) => stream.as_fd().try_clone_to_owned(),
            },
        }
    }
}

/// A connection and where it came from.
#[derive(Debug)]
struct Connection {
    socket: Socket,
    peer: IpAddr,
    port: u16,
}

impl Connection {
    fn asker(&self) -> Asker<'_> {
        Asker { peer: self.peer, port: self.port, socket: self.socket.as_fd() }
    }

    /// Leaves the connection to whoever goes on in this daemon's place.
    fn leave(self, daemon: &Daemon, progress: Progress) {
        let Self { socket, peer, port } = self;
        match socket.into_fd() {
            Ok(socket) => daemon.leave(UnderWay { socket, port, progress }),
            Err(error) => debug!(%peer, %error, "cannot be carried over"),
        }
    }
}

/// Goes on with a connection that was left.
pub(super) fn resume(daemon: &Arc<Daemon>, UnderWay { socket, port, progress }: UnderWay) {
    // One that has no peer has ended meanwhile.
    let Some(peer) = alive::peer(&socket) else { return };
    let connection = Connection { socket: Socket::Fresh(socket), peer, port };
    match progress {
        Progress::Asked(received) => {
            daemon.requests.spawn(wait_for_request(Arc::clone(daemon), connection, received));
        }
        Progress::Told(reply, written) => write_on(daemon, connection, reply, written),
    }
}

/// Serves a connection that was just accepted: at once if its request is there already, else in a task.
/// `scratch` is for the reply, so that the accept loop allocates nothing for a look-up.
pub(super) fn serve(daemon: &Arc<Daemon>, fd: OwnedFd, peer: IpAddr, port: u16, scratch: &mut Vec<u8>) {
    let mut first = [0; RECEIVED_BYTES_MAX];
    let received = match recv(&fd, &mut first, RecvFlags::DONTWAIT) {
        Ok((0, _)) => return debug!(%peer, "closed without a request"),
        Ok((received, _)) => &first[..received],
        Err(Errno::AGAIN | Errno::INTR) => &first[..0],
        Err(error) => return debug!(%peer, error = %in_words(&error), "read failed"),
    };
    let connection = Connection { socket: Socket::Fresh(fd), peer, port };
    match split_frame(received) {
        Ok(Some(body)) if daemon.limits.delay_write.is_zero() => {
            let _span = debug_span!("request", %peer, tag = tag(body)).entered();
            scratch.clear();
            let answer = answer(daemon, body, connection.asker(), scratch);
            deliver(daemon, connection, received, answer, scratch);
        }
        Ok(_) => {
            let wait = wait_for_request(Arc::clone(daemon), connection, received.to_vec());
            daemon.requests.spawn(wait);
        }
        Err(error) => {
            daemon.stats.malformed.add();
            complain(daemon, connection.asker(), &error);
        }
    }
}

/// The first byte of a request, which says what it asks for: a letter.
fn tag(body: &[u8]) -> Option<DisplayValue<char>> {
    body.first().map(|tag| display(char::from(*tag)))
}

/// Reads until the request is whole, then answers it.
async fn wait_for_request(daemon: Arc<Daemon>, connection: Connection, mut received: Vec<u8>) {
    let Connection { socket, peer, port } = connection;
    let Ok(stream) = socket.watch() else { return };
    let member = daemon.waiting.join(peer, &stream);
    let asker = || Asker { peer, port, socket: stream.as_fd() };
    loop {
        match split_frame(&received) {
            Ok(Some(_)) => break,
            Ok(None) => {}
            Err(error) => {
                daemon.stats.malformed.add();
                return complain(&daemon, asker(), &error);
            }
        }
        let more = tokio::select! {
            biased;
            () = daemon.frozen() => {
                drop(member);
                let connection = Connection { socket: Socket::Watched(stream), peer, port };
                return connection.leave(&daemon, Progress::Asked(received));
            }
            more = read_more(&daemon, &stream, &mut received) => more,
        };
        match more {
            Ok(0) => return debug!(%peer, bytes = received.len(), "closed before its request was whole"),
            Ok(_) => {}
            Err(error) => {
                return debug!(%peer, bytes = received.len(), error = %in_words(&error), "no whole request");
            }
        }
    }
    drop(member);
    sleep_if(daemon.limits.delay_write).await;
    let body = &received[2..];
    let _span = debug_span!("request", %peer, tag = tag(body)).entered();
    let mut out = Vec::new();
    let answer = answer(&daemon, body, asker(), &mut out);
    deliver(&daemon, Connection { socket: Socket::Watched(stream), peer, port }, &received, answer, &out);
}

/// Appends what the peer sends next. A daemon that ends waits for the rest of a request, and for a first byte
/// only from those who have just connected: from others it may never come.
async fn read_more(daemon: &Daemon, stream: &TcpStream, received: &mut Vec<u8>) -> io::Result<usize> {
    let now = Instant::now();
    let deadline = now + daemon.limits.packet_timeout;
    let stopped = async {
        daemon.stop().cancelled().await;
        sleep_until(now + daemon.limits.first_byte).await;
    };
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            readable = timeout_at(deadline, stream.readable()) => readable??,
            () = &mut stopped, if received.is_empty() => return Ok(0),
        }
        let mut chunk = [0; RECEIVED_BYTES_MAX];
        let room = RECEIVED_BYTES_MAX - received.len();
        match stream.try_read(&mut chunk[..room]) {
            Ok(bytes) => {
                received.extend(&chunk[..bytes]);
                return Ok(bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Does what was answered to `request`. `out` is the encoded reply, if the answer has one.
fn deliver(daemon: &Arc<Daemon>, connection: Connection, request: &[u8], answer: Answer, out: &[u8]) {
    match answer {
        Answer::Silence => {}
        Answer::Reply => {
            if let Some(written) = write_some(&connection, out) {
                write_on(daemon, connection, Arc::new(out.to_vec()), written);
            }
        }
        Answer::List(list) => {
            if let Some(written) = write_some(&connection, &list) {
                write_on(daemon, connection, list, written);
            }
        }
        Answer::Later(later) => {
            let (waits, request) = (Arc::clone(daemon), request.to_vec());
            let answering = async move {
                let mut out = Vec::new();
                let answer = tokio::select! {
                    biased;
                    () = waits.frozen() => None,
                    answer = answer_later(&waits, later, &request[2..], connection.asker(), &mut out) => Some(answer),
                };
                match answer {
                    Some(answer) => deliver(&waits, connection, &request, answer, &out),
                    None => connection.leave(&waits, Progress::Asked(request)),
                }
            };
            daemon.requests.spawn(answering.in_current_span());
        }
        Answer::Register(node, place) => match connection.socket.watch_for_its_end() {
            Ok(socket) => {
                let asked = alive::Asked {
                    request: request.to_vec(),
                    port: connection.port,
                    _under_way: daemon.requests.token(),
                };
                daemon.nodes.spawn(alive::register_and_hold(Arc::clone(daemon), socket, node, place, asked));
            }
            Err(error) => {
                debug!(peer = %connection.peer, error = %in_words(&error), "cannot watch the connection");
            }
        },
        Answer::Kill => {
            write_some(&connection, out);
            daemon.kill();
        }
    }
}

/// Writes a reply. `Some`: the peer's window is full after so many bytes.
fn write_some(connection: &Connection, reply: &[u8]) -> Option<usize> {
    match write_now(connection.socket.as_fd(), reply, Then::Close) {
        Ok(written) => (written < reply.len()).then_some(written),
        Err(Errno::AGAIN) => Some(0),
        Err(error) => {
            debug!(peer = %connection.peer, error = %in_words(&error), "the reply cannot be written");
            None
        }
    }
}

/// What follows a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The connection is closed at once. The kernel holds the end of the reply back until then, and sends it
    /// in one packet with the FIN: a look-up costs one packet less.
    Close,
    /// The connection stays open.
    Hold,
}

/// Offers all of a reply to the kernel in one write, because some clients read it with one read. It does
/// not ask the event loop first, which knows nothing yet of a socket that was just accepted.
pub(super) fn write_now(socket: BorrowedFd<'_>, reply: &[u8], then: Then) -> Result<usize, Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    send(socket, reply, if then == Then::Close { flags | SendFlags::MORE } else { flags })
}

/// Leaves a reply that its peer reads slowly to a task, so that nobody else waits for that peer.
fn write_on(daemon: &Arc<Daemon>, connection: Connection, reply: Arc<Vec<u8>>, mut written: usize) {
    let daemon = Arc::clone(daemon);
    daemon.clone().requests.spawn(async move {
        let Connection { socket, peer, port } = connection;
        let Ok(stream) = socket.watch() else { return };
        let member = daemon.slow_readers.join_with(peer, &stream, &reply);
        while written < reply.len() {
            let writable = tokio::select! {
                biased;
                () = daemon.frozen() => {
                    drop(member);
                    let connection = Connection { socket: Socket::Watched(stream), peer, port };
                    return connection.leave(&daemon, Progress::Told(reply, written));
                }
                writable = timeout(daemon.limits.packet_timeout, stream.writable()) => writable,
            };
            match writable {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    forget_unread(&stream);
                    return debug!(%peer, written, "gave up a reply");
                }
            }
            match stream.try_write(&reply[written..]) {
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return debug!(%peer, written, error = %in_words(&error), "gave up a reply"),
            }
        }
    });
}

/// Sleeps without a timer when there is nothing to sleep.
pub(super) async fn sleep_if(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}
