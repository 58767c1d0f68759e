//! The kernel's floor: a server that does nothing but what the socket's life demands.
//!
//! It accepts, reads once, writes a canned reply and closes, one connection after the other, in blocking
//! calls on one thread: no event loop, no parsing, no look-up. To hold connections it needs the smallest
//! loop that can notice their ends.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use rustix::event::epoll;

/// What to answer, and whether to keep the connection.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Write this and close.
    Reply(Vec<u8>),
    /// Write this and wait for the peer to close, as for a registered node.
    Hold(Vec<u8>),
}

/// Serves `port` on loopback until it is killed.
pub(crate) fn serve(port: u16, work: Work) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    // std listens with a backlog of 4,096 or what the system allows.
    match work {
        Work::Reply(reply) => loop {
            let (stream, _) = listener.accept()?;
            // A client that gave up is no reason to stop.
            let _ = answer(&stream, &reply);
        },
        Work::Hold(reply) => hold(&listener, &reply),
    }
}

fn answer(mut stream: &TcpStream, reply: &[u8]) -> io::Result<()> {
    let mut request = [0; 1024];
    // However much of it came: the floor does not look at it.
    let _ = stream.read(&mut request)?;
    stream.write_all(reply)
}

fn hold(listener: &TcpListener, reply: &[u8]) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, epoll::EventData::new_u64(u64::MAX), epoll::EventFlags::IN)?;
    let mut held: Vec<Option<TcpStream>> = Vec::new();
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let fd = event.data.u64();
            if fd != u64::MAX {
                held[usize::try_from(fd).expect("descriptors are small")] = None;
                continue;
            }
            while let Ok((stream, _)) = listener.accept() {
                if answer(&stream, reply).is_err() {
                    continue;
                }
                let fd = usize::try_from(stream.as_raw_fd()).expect("descriptors are positive");
                let data = epoll::EventData::new_u64(fd as u64);
                epoll::add(&poll, stream.as_fd(), data, epoll::EventFlags::IN)?;
                if held.len() <= fd {
                    held.resize_with(fd + 1, || None);
                }
                held[fd] = Some(stream);
            }
        }
    }
}
