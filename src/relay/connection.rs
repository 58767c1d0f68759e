//! One relayed connection: who dialled, the node, and the bytes between them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use repmd_backend_api::{NodeName, Registration};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::debug;

use super::pipe::move_all;
use super::{Door, Relay};
use crate::listen::KEEPALIVE;
use crate::registry::{Answer, Question};

/// How long an address of a node has to answer. A node gives up after 7 s.
const DIAL_TIME: Duration = Duration::from_secs(2);

/// Why something is not relayed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{node} is in none of the networks that may be dialled")]
    Network { node: NodeName },
    #[error("as many connections as may be are relayed")]
    Connections,
    #[error("{} may not look up", .0)]
    Peer(IpAddr),
    #[error("no such node any longer")]
    Gone,
    #[error("cannot dial {address}: {source}")]
    Unreachable { address: SocketAddr, source: io::Error },
    #[error("as many nodes as may be are listened for")]
    Listeners,
    #[error("cannot listen: {0}")]
    Listen(#[source] io::Error),
}

/// Relays a connection that was dialled at `door`, until its end.
pub(super) async fn serve(
    relay: Arc<Relay>,
    door: Arc<Door>,
    dialler: TcpStream,
    _permit: OwnedSemaphorePermit,
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
        debug!(%door, %error, "a relayed connection broke");
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
    for address in relay.targets(&registration) {
        let dialled = timeout(DIAL_TIME, TcpStream::connect(address)).await;
        match dialled.unwrap_or_else(|elapsed| Err(elapsed.into())) {
            Ok(stream) => return Ok(stream),
            Err(source) => refusal = Refusal::Unreachable { address, source },
        }
    }
    Err(refusal)
}

/// Where a node may be dialled.
pub(super) fn targets(registration: &Registration, networks: &[IpNet]) -> Vec<SocketAddr> {
    let addresses = registration.instance.addresses.iter().map(IpAddr::to_canonical);
    let may_be_dialled = |address: &IpAddr| networks.iter().any(|network| network.contains(address));
    addresses
        .filter(may_be_dialled)
        .map(|address| SocketAddr::new(address, registration.advertised_port))
        .collect()
}

/// Moves bytes both ways until both have sent their last.
async fn join(relay: &Relay, dialler: &TcpStream, node: &TcpStream) -> io::Result<()> {
    let Relay { pipes, stats, .. } = relay;
    for stream in [dialler, node] {
        stream.set_nodelay(true)?;
        SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE)?;
    }
    let both_ways = async {
        tokio::try_join!(
            move_all(dialler, node, pipes, &stats.bytes_to_nodes),
            move_all(node, dialler, pipes, &stats.bytes_from_nodes),
        )
    };
    tokio::select! {
        ended = both_ways => ended.map(|_| ()),
        // Seen though its bytes are not read, because the other side's window is full.
        error = failure(dialler) => Err(error),
        error = failure(node) => Err(error),
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
