//! One relayed connection: who dialled, the node, and the bytes between them.

use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::{NodeName, Registration, is_reachable};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::door::Guest;
use super::pipe::move_all;
use super::{Door, Limits, Relay};
use crate::listen::KEEPALIVE;
use crate::metrics::Counter;
use crate::printable::in_words;
use crate::registry::{Answer, Question};

/// How long an address of a node has to answer. A node gives up after 7 s.
const DIAL_TIME: Duration = Duration::from_secs(2);

/// Why something is not relayed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{node} is in none of the networks and at none of the ports that may be dialled")]
    Network { node: NodeName },
    #[error("as many connections as may be are relayed")]
    Connections,
    #[error("as many connections of {} as may be are relayed", .0)]
    PeerConnections(IpAddr),
    #[error("{} may not look up", .0)]
    Peer(IpAddr),
    #[error("no such node any longer")]
    Gone,
    #[error("cannot dial {address}: {}", in_words(source))]
    Unreachable { address: SocketAddr, source: io::Error },
    #[error("as many nodes as may be are listened for")]
    Listeners,
    #[error("cannot listen: {}", in_words(.0))]
    Listen(#[source] io::Error),
}

/// A connection of one address, counted until this value goes.
pub(super) struct Place {
    relay: Arc<Relay>,
    peer: IpAddr,
}

impl Place {
    /// `None`: this address has as many as it may.
    pub(super) fn take(relay: &Arc<Relay>, peer: IpAddr) -> Option<Self> {
        let mut peers = relay.peers();
        let connections = peers.entry(peer).or_insert(0);
        if relay.options.limits.connections_per_peer_max <= *connections {
            return None;
        }
        *connections += 1;
        Some(Self { relay: Arc::clone(relay), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.relay.peers();
        if let Entry::Occupied(mut connections) = peers.entry(self.peer) {
            *connections.get_mut() -= 1;
            if *connections.get() == 0 {
                connections.remove();
            }
        }
    }
}

/// Relays a connection that was dialled at `door`, until its end.
pub(super) async fn serve(
    relay: Arc<Relay>,
    door: Arc<Door>,
    dialler: TcpStream,
    _permits: (OwnedSemaphorePermit, Place, Guest),
) {
    let node = match dial(&relay, &door).await {
        Ok(node) => node,
        Err(refusal) => {
            relay.refuse(&door, &refusal);
            return reset(&dialler);
        }
    };
    relay.stats.connections.add();
    if let Err(error) = join(&relay, &dialler, &node).await {
        debug!(%door, error = %in_words(&error), "a relayed connection broke");
        // Whoever is left must not wait for what will not come.
        reset(&dialler);
        reset(&node);
    }
}

/// Looks the node up for this one connection, because it may have restarted on another port.
async fn dial(relay: &Relay, door: &Door) -> Result<TcpStream, Refusal> {
    let question = Question::On(door.host.clone(), door.alive.clone());
    let Answer::Node(registration) = relay.registry.look_up(&question, None).await.answer else {
        return Err(Refusal::Gone);
    };
    let mut refusal = Refusal::Network { node: registration.node_name() };
    let targets = relay.targets(&registration);
    for address in targets.into_iter().filter(|target| (relay.options.may_dial)(target.ip())) {
        let dialled = timeout(DIAL_TIME, TcpStream::connect(address)).await;
        match dialled.unwrap_or_else(|elapsed| Err(elapsed.into())) {
            Ok(stream) => return Ok(stream),
            Err(source) => refusal = Refusal::Unreachable { address, source },
        }
    }
    Err(refusal)
}

/// Where a node may be dialled. Any process of its host chooses the port, and whoever writes to the store the
/// addresses.
pub(super) fn targets(registration: &Registration, limits: &Limits) -> Vec<SocketAddr> {
    let port = registration.advertised_port;
    if !limits.target_ports.contains(&port) {
        return Vec::new();
    }
    let addresses = registration.instance.addresses.iter().map(IpAddr::to_canonical);
    let may_be_dialled = |address: &IpAddr| limits.networks.iter().any(|network| network.contains(address));
    addresses.filter(may_be_dialled).map(|address| SocketAddr::new(address, port)).collect()
}

/// Whether an address is one of another machine. Only the routes are asked: no packet is sent. A route to an address
/// of this machine leads from that very address.
pub(crate) fn is_elsewhere(address: IpAddr) -> bool {
    let source = || {
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, 9))?;
        Ok::<_, io::Error>(socket.local_addr()?.ip())
    };
    is_reachable(address) && source().is_ok_and(|source| source != address)
}

/// Moves bytes both ways until both have sent their last.
async fn join(relay: &Relay, dialler: &TcpStream, node: &TcpStream) -> io::Result<()> {
    let Relay { pipes, stats, .. } = relay;
    let moved = Counter::default();
    for stream in [dialler, node] {
        stream.set_nodelay(true)?;
        SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE)?;
    }
    let both_ways = async {
        tokio::try_join!(
            move_all(dialler, node, pipes, [&stats.bytes_to_nodes, &moved]),
            move_all(node, dialler, pipes, [&stats.bytes_from_nodes, &moved]),
        )
    };
    tokio::select! {
        ended = both_ways => ended.map(|_| ()),
        // Seen though its bytes are not read, because the other side's window is full.
        error = failure(dialler) => Err(error),
        error = failure(node) => Err(error),
        () = until_idle(&moved, relay.options.limits.idle_time) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was sent for too long"))
        }
    }
}

/// Waits until nothing has moved for `time`, or up to twice as long.
async fn until_idle(moved: &Counter, time: Duration) {
    let mut before = None;
    while before != Some(moved.get()) {
        before = Some(moved.get());
        sleep(time).await;
    }
}

/// Waits until a socket fails.
async fn failure(stream: &TcpStream) -> io::Error {
    match stream.ready(Interest::ERROR).await {
        Ok(_) => stream.take_error().ok().flatten().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        Err(error) => error,
    }
}

/// Lets the peer see a reset once the socket is closed.
pub(super) fn reset(stream: &TcpStream) {
    // It fails for a socket whose connection is over, and then nobody is left to be told.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_of_this_machine_is_elsewhere() {
        let any = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        for address in ["0.0.0.0", "127.0.0.1", "127.9.9.9", "224.0.0.1", "255.255.255.255", "::1", "ff02::1"]
        {
            assert!(!is_elsewhere(address.parse().unwrap()), "{address}");
        }
        // Addresses for documentation: where there is a route, there is an address of this machine at its begin.
        if any.connect(("192.0.2.1", 9)).is_ok() {
            assert!(!is_elsewhere(any.local_addr().unwrap().ip()));
            assert!(is_elsewhere([192, 0, 2, 1].into()));
        }
    }
}
