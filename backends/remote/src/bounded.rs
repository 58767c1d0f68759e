//! A stream whose messages are bounded. A client library keeps a message until it is whole, and believes what lengths
//! it announces: a store that is broken or hostile, or whoever is on the way to it, would fill this machine's memory.
//! So what comes in is counted first, and a stream that breaks the bound ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads the lengths in what comes in.
pub trait Count: Default + Unpin {
    /// Takes note of more bytes.
    ///
    /// # Errors
    /// When a message is too large, or is none.
    fn count(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// The stream.
#[derive(Debug)]
pub struct Bounded<S, C> {
    stream: S,
    counted: C,
}

impl<S, C: Count> Bounded<S, C> {
    /// One on which nothing has come in yet.
    #[must_use]
    pub fn new(stream: S) -> Self {
        Self { stream, counted: C::default() }
    }
}

impl<S: AsyncRead + Unpin, C: Count> AsyncRead for Bounded<S, C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.counted.count(&buf.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin, C: Count> AsyncWrite for Bounded<S, C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
