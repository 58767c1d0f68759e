//! A port at the address of a virtual host, behind which is one node of that host.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use repmd_backend_api::{AliveName, HostId};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tracing::{debug, error, info};

use super::Relay;
use super::connection::{self, Place, Refusal, reset};
use crate::listen::bind;

/// How often to look whether the node is still registered.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long not to accept when no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where it is, and which node is behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Door {
    pub(super) address: IpAddr,
    pub(super) host: HostId,
    pub(super) alive: AliveName,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.alive, self.host)
    }
}

/// How many ports are tried for one look-up, which everybody waits for. The next one goes on where this one ended.
const PORTS_TRIED_MAX: usize = 16;

/// The ports for nodes, which are tried in turn.
#[derive(Debug)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    next: AtomicUsize,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, next: AtomicUsize::new(0) }
    }

    /// The next one in turn.
    fn next(&self) -> u16 {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.range.len();
        self.range.start() + u16::try_from(turn).expect("there are no more ports than 16 bits count")
    }
}

/// Listens on a free port, of `ports` if they are given.
pub(super) fn listen(
    address: IpAddr,
    ports: Option<&Ports>,
    is_used: impl Fn(u16) -> bool,
) -> io::Result<TcpListener> {
    let Some(ports) = ports else { return bind(SocketAddr::new(address, 0)) };
    let mut last = io::ErrorKind::AddrInUse.into();
    let in_turn = ports.range.clone().map(|_| ports.next());
    for port in in_turn.filter(|port| !is_used(*port)).take(PORTS_TRIED_MAX) {
        match bind(SocketAddr::new(address, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            listener => return listener,
        }
    }
    Err(last)
}

/// Accepts until the node has left the registry.
pub(super) async fn serve(relay: Arc<Relay>, door: Arc<Door>, listener: TcpListener) {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => {
            tokio::select! {
                () = accept_all(&relay, &door, &listener) => {}
                () = until_the_node_left(&relay, &door) => info!(node = %door, "no longer relayed"),
            }
        }
        Err(error) => error!(node = %door, %error, "cannot watch a relay's port"),
    }
    relay.doors().remove(&*door);
}

fn admit(relay: &Arc<Relay>, door: &Door, peer: IpAddr) -> Result<(OwnedSemaphorePermit, Place), Refusal> {
    if !(relay.options.may_connect)(peer, door.address) {
        return Err(Refusal::Peer(peer));
    }
    let permit = Arc::clone(&relay.permits).try_acquire_owned().map_err(|_| Refusal::Connections)?;
    let place = Place::take(relay, peer).ok_or(Refusal::PeerConnections(peer))?;
    Ok((permit, place))
}

async fn accept_all(relay: &Arc<Relay>, door: &Arc<Door>, listener: &tokio::net::TcpListener) {
    loop {
        match listener.accept().await {
            Ok((dialler, peer)) => {
                let peer = peer.ip().to_canonical();
                match admit(relay, door, peer) {
                    Ok(permits) => {
                        let (relay, door) = (Arc::clone(relay), Arc::clone(door));
                        tokio::spawn(connection::serve(relay, door, dialler, permits));
                    }
                    Err(refusal) => {
                        relay.refuse(door, &refusal);
                        // At once: one who dials waits for 7 s else.
                        reset(&dialler);
                    }
                }
            }
            Err(error) => {
                debug!(%error, "cannot accept at a relay's port");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A store that is away, or whose entry cannot be read, says nothing of the node.
async fn until_the_node_left(relay: &Relay, door: &Door) {
    loop {
        sleep(LOOK_INTERVAL).await;
        if relay.registry.has_left(&door.host, &door.alive).await {
            return;
        }
    }
}
