//! Questions on connections: for answers that fit no datagram.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::face::{Asker, Face, Step};
use crate::printable::in_words;
use crate::queue::Queue;

/// Connections at once. Whoever comes then takes the place of the oldest.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// The same for one address.
const CONNECTIONS_PER_PEER_MAX: usize = 16;

/// How long a question, or the reading of its answer, may take; and how long a connection may be idle.
const TIME: Duration = Duration::from_secs(5);

/// Questions on one connection.
const QUESTIONS_MAX: usize = 256;

/// How long not to accept when no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn queue() -> Queue {
    Queue::new(CONNECTIONS_MAX).with_places_per_peer_max(CONNECTIONS_PER_PEER_MAX)
}

/// Accepts for ever.
pub(super) async fn serve(listener: TcpListener, connections: Arc<Queue>, face: Arc<Face>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (connections, face) = (Arc::clone(&connections), Arc::clone(&face));
                tokio::spawn(async move {
                    let place = connections.join(Some(peer.ip().to_canonical()));
                    tokio::select! {
                        () = place.over() => {}
                        ended = answer_all(stream, &face) => {
                            if let Err(error) = ended {
                                debug!(%peer, error = %in_words(&error), "a connection for DNS failed");
                            }
                        }
                    }
                });
            }
            Err(error) => {
                debug!(error = %in_words(&error), "cannot accept for DNS");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer_all(mut stream: TcpStream, face: &Face) -> io::Result<()> {
    let asker = Asker {
        peer: stream.peer_addr()?.ip().to_canonical(),
        local: stream.local_addr().ok().map(|address| address.ip().to_canonical()),
        by_tcp: true,
    };
    for _ in 0..QUESTIONS_MAX {
        let packet = timeout(TIME, read(&mut stream)).await??;
        let Some(packet) = packet else { return Ok(()) };
        let reply = match face.begin(&packet, asker) {
            Step::Reply(reply) => reply,
            Step::Wait(waiting) => face.finish(waiting).await,
            Step::Silence => return Ok(()),
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), &*reply].concat();
        timeout(TIME, stream.write_all(&framed)).await??;
    }
    Ok(())
}

/// One question; `None` where the connection has ended.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut packet = vec![0; length.into()];
    stream.read_exact(&mut packet).await?;
    Ok(Some(packet))
}
