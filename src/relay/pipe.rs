//! Bytes from one socket to another, without a copy of them in this process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::yield_now;

use crate::metrics::Counter;

/// What a pipe may hold, and so the most that is moved at once. Where the kernel allows less, it is less.
const PIPE_BYTES: usize = 1 << 20;

/// Pipes that are kept for the next who needs one.
const SPARE_MAX: usize = 16;

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Where bytes are between two sockets. The kernel moves them from a socket to a socket only by way of one.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Empty pipes. A connection has one only while bytes of it are on their way: idle ones cost two
/// descriptors, not six.
#[derive(Debug, Default)]
pub(super) struct Pipes(Mutex<Vec<Pipe>>);

impl Pipes {
    fn take(&self) -> io::Result<Pipe> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.map_or_else(Pipe::new, Ok)
    }

    fn give_back(&self, empty: Pipe) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.push(empty);
        }
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one works as well, only slower.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Self { read, write })
    }
}

/// Moves what `from` sends to `to`, up to and with the end of it. Both of `bytes` count them.
///
/// # Errors
/// When either socket fails. Then bytes may be lost.
pub(super) async fn move_all(
    from: &TcpStream,
    to: &TcpStream,
    pipes: &Pipes,
    bytes: [&Counter; 2],
) -> io::Result<()> {
    loop {
        from.readable().await?;
        let pipe = pipes.take()?;
        let fill = || Ok(splice(from, None, &pipe.write, None, PIPE_BYTES, FLAGS)?);
        match from.try_io(Interest::READABLE, fill) {
            Ok(0) => {
                pipes.give_back(pipe);
                return Ok(shutdown(to, Shutdown::Write)?);
            }
            Ok(filled) => {
                bytes.iter().for_each(|counter| counter.add_many(filled as u64));
                empty(&pipe, filled, to).await?;
                pipes.give_back(pipe);
                // One who sends without an end must not keep the others waiting.
                yield_now().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => pipes.give_back(pipe),
            Err(error) => return Err(error),
        }
    }
}

async fn empty(pipe: &Pipe, mut filled: usize, to: &TcpStream) -> io::Result<()> {
    while 0 < filled {
        let pour = || Ok(splice(&pipe.read, None, to, None, filled, FLAGS)?);
        match to.try_io(Interest::WRITABLE, pour) {
            Ok(poured) => filled -= poured,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
