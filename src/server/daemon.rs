//! What the connections of one daemon share.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use repmd_backend_api::{AliveName, Registration};
use rustix::net::{SocketAddrAny, getpeername, getsockname};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::FAULTS;
use super::carried::{Carried, NodeKeeper, UnderWay};
use super::crowd::Crowd;
use super::limits::Limits;
use super::policy::{May, Policy, Verb, is_local};
use super::stats::Stats;
use super::table::{AliveSocket, Table};
use super::topology::Topology;
use super::{alive, connection};
use crate::queue::Queue;
use crate::rate::Rate;
use crate::registry::Registry;
use crate::relay::Relay;
use crate::throttle::{Throttle, Throttles};

/// The longest that freezing takes: no task goes on beyond its next step, and none of these waits.
const FREEZING_TIME: Duration = Duration::from_millis(500);

/// One EPMD: its nodes, its rules, and the registry behind it.
#[derive(Debug)]
pub struct Daemon {
    pub(super) registry: Arc<Registry>,
    pub(super) policy: Policy,
    pub(super) topology: Topology,
    pub(super) relay: Option<Arc<Relay>>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) node_keeper: Option<Arc<dyn NodeKeeper>>,
    pub(super) limits: Limits,
    /// Connections whose request is not whole.
    pub(super) waiting: Crowd,
    /// Connections that read a long reply slowly.
    pub(super) slow_readers: Crowd,
    /// Nodes that wait whether the holder of their name leaves.
    pub(super) holder_waits: Queue,
    /// A permit for each node that may yet come.
    pub(super) places: Arc<Semaphore>,
    /// Tasks between a request's first byte and its reply's last.
    pub(super) requests: TaskTracker,
    /// Tasks that hold an ALIVE connection.
    pub(super) nodes: TaskTracker,
    /// Logs of what goes wrong here.
    pub(super) complaints: Throttle,
    /// Of what peers do wrong, by kind and peer.
    pub(super) faults: Throttles<FAULTS>,
    /// How fast strangers ask, if that is bounded.
    rate: Option<Mutex<Rate>>,
    pub(super) stats: Stats,
    table: Mutex<Table>,
    /// Whether nothing may go on, because another program is about to.
    frozen: watch::Sender<bool>,
    /// What was under way when that began.
    left: Mutex<Vec<UnderWay>>,
    stop: CancellationToken,
    killed: AtomicBool,
}

impl Daemon {
    /// A daemon without nodes. `stop` ends it in order; see [`super::serve`].
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        policy: Policy,
        topology: Topology,
        limits: Limits,
        stop: CancellationToken,
    ) -> Self {
        Self {
            registry,
            policy,
            topology,
            relay: None,
            admin: None,
            node_keeper: None,
            waiting: Crowd::new(limits.waiting_max, limits.waiting_per_peer_max),
            slow_readers: Crowd::new(limits.slow_readers_max, limits.slow_readers_max)
                .with_bytes_max(limits.slow_reply_bytes_max),
            holder_waits: Queue::new(limits.holder_waits_max),
            places: Arc::new(Semaphore::new(limits.nodes_max)),
            limits,
            requests: TaskTracker::new(),
            nodes: TaskTracker::new(),
            complaints: Throttle::default(),
            faults: Throttles::new(),
            rate: limits.requests_per_peer_rate.map(|a_second| Mutex::new(Rate::new(a_second))),
            stats: Stats::default(),
            table: Mutex::default(),
            frozen: watch::Sender::new(false),
            left: Mutex::default(),
            stop,
            killed: AtomicBool::new(false),
        }
    }

    /// The same daemon, with a relay for those who ask at the addresses of virtual hosts.
    #[must_use]
    pub fn with_relay(self, relay: Option<Arc<Relay>>) -> Self {
        Self { relay, ..self }
    }

    /// The same daemon, with an admin API at this address, of which it tells those of its own machine who ask.
    #[must_use]
    pub fn with_admin(self, admin: Option<SocketAddr>) -> Self {
        Self { admin, ..self }
    }

    /// The same daemon, whose nodes are kept for its next run.
    #[must_use]
    pub fn with_node_keeper(self, node_keeper: Option<Arc<dyn NodeKeeper>>) -> Self {
        Self { node_keeper, ..self }
    }

    /// Whether `peer`, who came to the address `local`, may do something.
    pub fn may(&self, verb: Verb, peer: IpAddr, local: impl FnOnce() -> Option<IpAddr>) -> May {
        self.policy.may(verb, peer, local, |peer| self.registry.is_known_of_the_cluster(peer))
    }

    /// The same, where nobody waits for the registry: who is not known to be of the cluster is not.
    pub fn may_now(&self, verb: Verb, peer: IpAddr, local: impl FnOnce() -> Option<IpAddr>) -> bool {
        self.may(verb, peer, local) == May::Yes
    }

    /// Whether `peer` has asked more than it may in this second. This machine is never too fast.
    pub(super) fn is_too_fast(&self, peer: IpAddr, local: impl FnOnce() -> Option<IpAddr>) -> bool {
        let Some(rate) = &self.rate else { return false };
        let excess =
            rate.lock().unwrap_or_else(PoisonError::into_inner).excess(peer, std::time::Instant::now());
        0 < excess && !is_local(peer, local)
    }

    /// Whether other name servers are asked for `peer`.
    pub fn may_recurse(&self, peer: IpAddr, local: impl FnOnce() -> Option<IpAddr>) -> bool {
        self.policy.may_recurse(peer, local)
    }

    /// The relay, if it has one.
    #[must_use]
    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_deref()
    }

    /// The registry behind it.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What is counted.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The nodes that are registered with this daemon, oldest first.
    #[must_use]
    pub fn registered(&self) -> Vec<Arc<Registration>> {
        let registered = self.table().registered();
        registered.into_iter().map(|node| self.registry.with_addresses_of_now(node)).collect()
    }

    /// The same, each with the two ends of its connection, the daemon's first. `None`: it has just ended.
    #[must_use]
    pub fn registered_with_ends(&self) -> Vec<(Arc<Registration>, Option<[SocketAddr; 2]>)> {
        let served = self.table().served();
        let ends = |socket: &AliveSocket| {
            let address = |address: SocketAddrAny| SocketAddr::try_from(address).ok();
            Some([address(getsockname(socket).ok()?)?, address(getpeername(socket).ok()??)?])
        };
        served.into_iter().map(|node| (node.registration, ends(&node.socket))).collect()
    }

    /// The node of this name that is registered with this daemon.
    #[must_use]
    pub fn registered_as(&self, name: &AliveName) -> Option<Arc<Registration>> {
        let registered = self.table().find(name.as_str()).cloned();
        registered.map(|node| self.registry.with_addresses_of_now(node))
    }

    /// Its bounds.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many nodes are registered with this daemon, or about to be.
    #[must_use]
    pub fn nodes_count(&self) -> usize {
        self.table().len()
    }

    /// How many connections wait for the rest of their request, and how many read a long reply slowly.
    #[must_use]
    pub fn crowd_counts(&self) -> (usize, usize) {
        (self.waiting.len(), self.slow_readers.len())
    }

    /// How many connections have read a long reply slowly since the start.
    #[must_use]
    pub fn slow_readers_total(&self) -> u64 {
        self.slow_readers.joined()
    }

    /// How many connections were ended to make room for others.
    #[must_use]
    pub fn crowded_out(&self) -> u64 {
        self.waiting.ended() + self.slow_readers.ended() + self.holder_waits.ended()
    }

    /// The nodes that are registered here. Held for a few instructions, never over an await.
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        // A panic leaves the table whole: each of its methods changes it in steps that cannot fail.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is registered here, with nothing that is under way.
    #[must_use]
    pub fn carried(&self) -> Carried<Arc<AliveSocket>> {
        let table = self.table();
        let (departed, next_claim) = table.past();
        Carried { nodes: table.served(), departed, next_claim, under_way: Vec::new() }
    }

    /// Goes on from what the program or the run before left. Returns how many of its nodes could not be held.
    pub fn resume(self: &Arc<Self>, carried: Carried<OwnedFd>) -> usize {
        self.table().resume_past(carried.departed, carried.next_claim);
        let lost =
            carried.nodes.into_iter().filter_map(|node| (!alive::resume(self, node)).then_some(())).count();
        carried.under_way.into_iter().for_each(|under_way| connection::resume(self, under_way));
        lost
    }

    /// Ends all that is under way at its next step, and returns it once it is all left. `None`: something goes on for
    /// longer than it may.
    pub(super) async fn freeze(&self) -> Option<Vec<UnderWay>> {
        self.frozen.send_replace(true);
        self.requests.close();
        let ended = timeout(FREEZING_TIME, self.requests.wait()).await;
        self.requests.reopen();
        let left = std::mem::take(&mut *self.left());
        match ended {
            Ok(()) => Some(left),
            Err(_) => {
                *self.left() = left;
                None
            }
        }
    }

    /// Goes on as before.
    pub(super) fn thaw(self: &Arc<Self>, under_way: Vec<UnderWay>) {
        self.frozen.send_replace(false);
        let left = std::mem::take(&mut *self.left());
        under_way.into_iter().chain(left).for_each(|under_way| connection::resume(self, under_way));
    }

    /// Ready when nothing may go on.
    pub(super) async fn frozen(&self) {
        // It fails when the sender is gone, which is in `self`.
        let _ = self.frozen.subscribe().wait_for(|is_frozen| *is_frozen).await;
    }

    /// Leaves a connection to whoever goes on.
    pub(super) fn leave(&self, under_way: UnderWay) {
        self.left().push(under_way);
    }

    fn left(&self) -> MutexGuard<'_, Vec<UnderWay>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fires when the daemon is to end.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Ends the daemon at once, because a KILL was granted.
    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
        self.stop.cancel();
    }

    /// Whether a KILL ended the daemon.
    pub(super) fn was_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }
}
