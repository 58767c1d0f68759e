//! A port at the address of a virtual host, behind which is one node of that host.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use repmd_backend_api::{AliveName, HostId};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::Relay;
use super::connection::{self, Place, Refusal, reset};
use crate::listen::bind;
use crate::printable::in_words;

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

/// What is kept of a door while it is open.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) port: u16,
    /// When a look-up was last answered with it.
    pub(super) asked: Instant,
    pub(super) way_in: WayIn,
}

impl Open {
    pub(super) fn new(port: u16) -> Self {
        Self { port, asked: Instant::now(), way_in: WayIn::default() }
    }
}

/// What a door shares with its task.
#[derive(Clone, Debug, Default)]
pub(super) struct WayIn {
    /// The connections that were dialled there and go on. It rises only while the doors are held.
    connections: Arc<AtomicUsize>,
    /// Fires, while the doors are held, when the door goes for the sake of another one.
    closed: CancellationToken,
}

/// A connection of one door, counted until this value goes.
pub(super) struct Guest(Arc<AtomicUsize>);

impl Guest {
    /// `None`: the door was closed while somebody dialled.
    fn enter(relay: &Relay, WayIn { connections, closed }: &WayIn) -> Option<Self> {
        let _doors = relay.doors();
        if closed.is_cancelled() {
            return None;
        }
        connections.fetch_add(1, Ordering::Relaxed);
        Some(Self(Arc::clone(connections)))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes the door that was asked for least recently of those without a connection. `false`: all have one.
pub(super) fn close_one(doors: &mut HashMap<Door, Open>) -> bool {
    let without = doors.iter().filter(|(_, open)| open.way_in.connections.load(Ordering::Relaxed) == 0);
    let Some(door) = without.min_by_key(|(_, open)| open.asked).map(|(door, _)| door.clone()) else {
        return false;
    };
    if let Some(open) = doors.remove(&door) {
        open.way_in.closed.cancel();
    }
    true
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

/// Accepts until the node has left the registry, or the door is closed for the sake of another one.
pub(super) async fn serve(relay: Arc<Relay>, door: Arc<Door>, way_in: WayIn, listener: TcpListener) {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => {
            tokio::select! {
                () = accept_all(&relay, &door, &way_in, &listener) => {}
                () = until_the_node_left(&relay, &door) => info!(node = %door, "no longer relayed"),
                () = way_in.closed.cancelled() => {
                    info!(node = %door, "no longer listened for: others are asked for");
                }
            }
        }
        Err(error) => error!(node = %door, error = %in_words(&error), "cannot watch a relay's port"),
    }
    let mut doors = relay.doors();
    // What is there after it was closed is the node's next door.
    if !way_in.closed.is_cancelled() {
        doors.remove(&*door);
    }
}

fn admit(
    relay: &Arc<Relay>,
    door: &Door,
    way_in: &WayIn,
    peer: IpAddr,
) -> Result<(OwnedSemaphorePermit, Place, Guest), Refusal> {
    if !(relay.options.may_connect)(peer, door.address) {
        return Err(Refusal::Peer(peer));
    }
    let permit = Arc::clone(&relay.permits).try_acquire_owned().map_err(|_| Refusal::Connections)?;
    let place = Place::take(relay, peer).ok_or(Refusal::PeerConnections(peer))?;
    let guest = Guest::enter(relay, way_in).ok_or(Refusal::Listeners)?;
    Ok((permit, place, guest))
}

async fn accept_all(
    relay: &Arc<Relay>,
    door: &Arc<Door>,
    way_in: &WayIn,
    listener: &tokio::net::TcpListener,
) {
    loop {
        match listener.accept().await {
            Ok((dialler, peer)) => {
                let peer = peer.ip().to_canonical();
                match admit(relay, door, way_in, peer) {
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
                debug!(error = %in_words(&error), "cannot accept at a relay's port");
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
