//! One registered node: from its ALIVE2 request to the end of its connection.

use std::future::ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;

use repmd_backend_api::{AliveName, Lease, LeaseToken, Node, NodeName};
use rustix::io::Errno;
use rustix::net::{RecvFlags, getpeername, recv};
use socket2::SockRef;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, info};

use super::answer::tell_of_refusal;
use super::carried::{CarriedNode, Progress, UnderWay};
use super::connection::{Then, sleep_if, write_now};
use super::daemon::Daemon;
use super::table::{AliveSocket, ClaimId, hang_up};
use crate::printable::in_words;
use crate::protocol::Response;
use crate::registry::What;
use crate::telemetry::{AUDIT, REQUESTS};

/// Registers a node and holds its connection, which is the registration: any byte or end from the peer
/// unregisters it. A refused one is closed. `place` is the node's for as long.
///
/// A block, because an `async fn` keeps its arguments twice, and this is held for each node. Registering is
/// boxed, because it needs more room than the hours of holding that follow.
pub(super) fn register_and_hold(
    daemon: Arc<Daemon>,
    socket: Arc<AliveSocket>,
    node: Node,
    place: OwnedSemaphorePermit,
    asked: Asked,
) -> impl Future<Output = ()> + Send + 'static {
    let registering = Box::pin(register_unless_frozen(daemon, Arc::clone(&socket), node, asked));
    hold(socket, registering, Some(place))
}

/// Holds a node once it is registered, until its peer ends the connection.
#[expect(clippy::manual_async_fn, reason = "as above")]
fn hold<F>(
    socket: Arc<AliveSocket>,
    registering: Pin<Box<F>>,
    place: Option<OwnedSemaphorePermit>,
) -> impl Future<Output = ()> + Send + 'static
where
    F: Future<Output = Option<(Claim, Lease)>> + Send + 'static,
{
    async move {
        if let Some((claim, lease)) = registering.await {
            let end = until_the_peer_ends(&socket).await;
            let_go(&claim.daemon, claim.id, &socket);
            Box::pin(unregister(claim, lease, end)).await;
        }
        drop(place);
    }
}

/// How a node asked, and that it waits for an answer.
pub(super) struct Asked {
    pub(super) request: Vec<u8>,
    pub(super) port: u16,
    pub(super) _under_way: TaskTrackerToken,
}

/// Goes on holding a node of the program or the run before. `false`: another one has its name, or its connection cannot be watched.
pub(super) fn resume(daemon: &Arc<Daemon>, node: CarriedNode<OwnedFd>) -> bool {
    let CarriedNode { claim, socket, registration } = node;
    let Ok(socket) = repmd_sys::watch_peer(socket).map(Arc::new) else { return false };
    let (id, name) = (ClaimId(claim), registration.node.name.clone());
    if !daemon.table().resume(&socket, id, Arc::clone(&registration)) {
        // Somebody else may keep a copy of it.
        hang_up(&*socket);
        return false;
    }
    // Where there are fewer places than before, none is left for others until enough of these are gone.
    let place = Arc::clone(&daemon.places).try_acquire_owned().ok();
    let lease =
        Lease { token: LeaseToken { instance: registration.instance.id, number: claim }, registration };
    let claim = Claim { daemon: Arc::clone(daemon), name, id };
    daemon.nodes.spawn(hold(socket, Box::pin(ready(Some((claim, lease)))), place));
    true
}

/// A node that has no answer yet is left to whoever goes on in this daemon's place. The store may have registered it: it
/// is asked again by the same daemon, with a later claim.
async fn register_unless_frozen(
    daemon: Arc<Daemon>,
    socket: Arc<AliveSocket>,
    node: Node,
    asked: Asked,
) -> Option<(Claim, Lease)> {
    let registered = tokio::select! {
        biased;
        () = daemon.frozen() => None,
        registered = register(&daemon, &socket, node) => Some(registered),
    };
    if let Some(registered) = registered {
        return registered;
    }
    let Asked { request, port, .. } = asked;
    match socket.as_fd().try_clone_to_owned() {
        Ok(socket) => daemon.leave(UnderWay { socket, port, progress: Progress::Asked(request) }),
        Err(error) => debug!(%error, "a node that asked cannot be carried over"),
    }
    None
}

/// Whoever keeps a copy of a connection keeps it open until it is shut down.
fn let_go(daemon: &Daemon, claim: ClaimId, socket: &AliveSocket) {
    if let Some(node_keeper) = &daemon.node_keeper {
        hang_up(socket);
        node_keeper.left(claim.0);
    }
}

async fn unregister(claim: Claim, lease: Lease, end: &'static str) {
    let daemon = claim.end();
    let name = &lease.registration.node.name;
    info!(target: AUDIT, %name, creation = %lease.creation(), end, "unregistered");
    daemon.stats.unregistered.add();
    daemon.registry.events().tell(What::Released { node: lease.registration.node_name() });
    daemon.registry.release(&lease).await;
}

/// `None`: the node was refused, or did not wait for its answer; nothing of it is left.
async fn register(daemon: &Arc<Daemon>, socket: &Arc<AliveSocket>, node: Node) -> Option<(Claim, Lease)> {
    let highest_version = node.highest_version;
    let Some(claim) = Claim::new(daemon, &node.name, socket).await else {
        return refuse(daemon, socket, &node, None).await;
    };
    let port = daemon.topology.advertised_port(node.port);
    let lease = match daemon.registry.register(claim.id.0, node.clone(), port).await {
        Ok(lease) => lease,
        Err(taken) => {
            drop(claim);
            return refuse(daemon, socket, &node, Some(&taken.holder)).await;
        }
    };
    let creation = lease.creation();
    let granted = daemon.table().grant(claim.id, Arc::clone(&lease.registration));
    if granted {
        daemon.is_back(&lease.registration.node.name);
        if let Some(node_keeper) = &daemon.node_keeper {
            let (socket, registration) = (Arc::clone(socket), Arc::clone(&lease.registration));
            node_keeper.registered(&CarriedNode { claim: claim.id.0, socket, registration });
        }
        // A kernel that refuses leaves the node as it is on the stock daemon.
        let _ = SockRef::from(socket.get_ref()).set_keepalive(true);
        sleep_if(daemon.limits.delay_write).await;
        match answer(socket, Response::Alive2Granted { highest_version, creation }, Then::Hold) {
            Ok(()) => {
                let Node { name, port, .. } = &node;
                // The peer is asked for only where the line is wanted.
                info!(target: AUDIT, %name, port, %creation, peer = peer(socket).map(display), "registered");
                debug!(target: REQUESTS, %name, peer = peer(socket).map(display), "** sent ALIVE2_RESP for {:?}", name.as_str());
                daemon.stats.granted.add();
                let node = lease.registration.node_name();
                let port = Some(lease.registration.node.port);
                daemon.registry.events().tell(What::Registered { node, port });
                return Some((claim, lease));
            }
            Err(error) => {
                debug!(name = %node.name, error = %in_words(&error), "the node did not wait for its answer");
                let_go(daemon, claim.id, socket);
            }
        }
    }
    drop(claim);
    daemon.registry.release(&lease).await;
    None
}

/// `holder`: the other daemon that has the name; without one it is a node of this daemon.
async fn refuse<T>(daemon: &Daemon, socket: &AliveSocket, node: &Node, holder: Option<&str>) -> Option<T> {
    tell_of_refusal(daemon, node, holder, peer(socket));
    let me = daemon.registry.instance();
    match holder {
        Some(_) => daemon.stats.refused_elsewhere.add(),
        None => daemon.stats.refused_here.add(),
    }
    daemon.registry.events().tell(What::Refused {
        node: NodeName { alive: node.name.clone(), host: me.host.clone() },
        holder: holder.unwrap_or(&me.name).to_owned(),
    });
    sleep_if(daemon.limits.delay_write).await;
    // Whether or not it can be written: the refusal ends this connection and nobody else's.
    let _ = answer(socket, Response::Alive2Refused { highest_version: node.highest_version }, Then::Close);
    None
}

/// Writes a reply, which is short enough for an empty socket buffer.
fn answer(socket: &AliveSocket, response: Response<'_>, then: Then) -> io::Result<()> {
    let mut reply = Vec::with_capacity(6);
    response.encode(&mut reply);
    let written = write_now(socket.as_fd(), &reply, then)?;
    if written == reply.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Where a connection comes from, while its peer is connected.
pub(super) fn peer(socket: &impl AsFd) -> Option<IpAddr> {
    let address = SocketAddr::try_from(getpeername(socket).ok()??).ok()?;
    Some(address.ip().to_canonical())
}

/// Waits for a FIN, a reset, an error, or any byte; says which.
async fn until_the_peer_ends(socket: &AliveSocket) -> &'static str {
    loop {
        let Ok(mut ready) = socket.readable().await else { return "error" };
        let mut byte = [0];
        match recv(socket, &mut byte, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return "closed",
            Ok(_) => return "garbage",
            Err(Errno::AGAIN | Errno::INTR) => ready.clear_ready(),
            Err(_) => return "reset",
        }
    }
}

/// A name in the table that is ours until this value goes.
struct Claim {
    daemon: Arc<Daemon>,
    name: AliveName,
    id: ClaimId,
}

impl Claim {
    /// `None`: somebody holds the name and stays.
    ///
    /// A node that closes its old connection and registers anew at once does these on two threads. When the
    /// one that closes is held up, the request is here before the end of its own last life.
    async fn new(daemon: &Arc<Daemon>, name: &AliveName, socket: &Arc<AliveSocket>) -> Option<Self> {
        let deadline = Instant::now() + daemon.limits.holder_leaves;
        let mut place = None;
        loop {
            let claimed = daemon.table().claim(name, socket);
            match claimed {
                Ok(id) => return Some(Self { daemon: Arc::clone(daemon), name: name.clone(), id }),
                Err(holder) => {
                    let place = place.get_or_insert_with(|| daemon.holder_waits.join(None));
                    tokio::select! {
                        ready = timeout_at(deadline, holder.readable()) => drop(ready.ok()?.ok()?),
                        () = place.over() => return None,
                    }
                    // If nothing is there after all, the holder's own task finds out and says so.
                    yield_now().await;
                }
            }
        }
    }

    /// Frees the name, and returns whose it was.
    fn end(self) -> Arc<Daemon> {
        Arc::clone(&self.daemon)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.daemon.table().remove(&self.name, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::register_and_hold;

    fn size_of_future<A, B, C, D, E, F: Future>(_of: impl FnOnce(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// Each node has one for as long as it lives. It is the greatest part of what `repmd-bench --only memory` measures.
    #[test]
    fn the_future_of_a_node_is_small() {
        let size = size_of_future(register_and_hold);
        assert!(size <= 352, "{size} bytes");
    }
}
