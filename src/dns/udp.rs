//! Questions in datagrams.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::debug;

use super::face::{Asker, Face, Step};
use crate::printable::in_words;

/// Datagrams that are received at once.
const BATCH: usize = 8;

/// How long not to receive after an error.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);

/// The kernel may hand over several datagrams of one sender as one.
const BUFFER_BYTES: usize = 1 << 16;

/// A socket whose datagrams say at which address of this machine they came in: answers leave from there.
#[derive(Debug)]
pub(super) struct Socket {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self { socket: tokio::net::UdpSocket::from_std(socket)?, state })
    }

    fn receive(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> io::Result<usize> {
        self.socket
            .try_io(Interest::READABLE, || self.state.recv(UdpSockRef::from(&self.socket), buffers, metas))
    }

    /// Sends an answer, or loses it where the network takes no more: whoever asked asks again.
    fn send(&self, contents: &[u8], to: &RecvMeta) {
        let transmit =
            Transmit { destination: to.addr, ecn: None, contents, segment_size: None, src_ip: to.dst_ip };
        let _ = self
            .socket
            .try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.socket), &transmit));
    }
}

/// Answers for ever.
pub(super) async fn serve(socket: Arc<Socket>, face: Arc<Face>) -> io::Result<()> {
    let mut storage = vec![0; BATCH * BUFFER_BYTES];
    let mut metas = [RecvMeta::default(); BATCH];
    loop {
        socket.socket.readable().await?;
        let mut buffers: Vec<_> = storage.chunks_mut(BUFFER_BYTES).map(IoSliceMut::new).collect();
        let received = match socket.receive(&mut buffers, &mut metas) {
            Ok(received) => received,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    // Also what an earlier answer brought back. It may last, and a bare retry would spin.
                    debug!(error = %in_words(&error), "cannot receive questions");
                    sleep(RECEIVE_PAUSE).await;
                }
                continue;
            }
        };
        drop(buffers);
        for (meta, bytes) in metas[..received].iter().zip(storage.chunks(BUFFER_BYTES)) {
            let asker = Asker {
                peer: meta.addr.ip().to_canonical(),
                local: meta.dst_ip.map(|ip| ip.to_canonical()),
                by_tcp: false,
            };
            for packet in bytes[..meta.len].chunks(meta.stride.max(1)) {
                match face.begin(packet, asker) {
                    Step::Reply(reply) => socket.send(&reply, meta),
                    Step::Silence => {}
                    Step::Wait(waiting) => {
                        let (socket, face, meta) = (Arc::clone(&socket), Arc::clone(&face), *meta);
                        tokio::spawn(async move { socket.send(&face.finish(waiting).await, &meta) });
                    }
                }
            }
        }
        yield_now().await;
    }
}
