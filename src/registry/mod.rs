//! The daemon's view of the registry behind it: what it holds there, and what it knows of the rest.
//!
//! A daemon's own nodes are served from its own table, whatever happens here. This module keeps them
//! published, and answers for names elsewhere. No call waits for a store longer than a deadline, and none
//! waits at all while the store is known to be away. It knows no backend by name, no wire and no socket,
//! so that a simulation can run many of it on a clock of its own.
//!
//! Every part asks the store through `store`, which has the deadlines. Of the rest of the cluster know `look_ups` (the
//! rules of resolution: `question`), `daemons`, `lists` and `notes`; `changes` tells them what is out of date.
//! What this daemon holds is in `holding` (each of them: `leases`), and `keeper` renews it.

mod changes;
mod daemons;
mod events;
mod health;
mod history;
mod holding;
mod identity;
mod keeper;
mod leases;
mod lists;
mod look_ups;
mod me;
mod notes;
mod past;
mod question;
mod questions;
mod slot;
mod stats;
mod store;
mod unreadable;

pub use daemons::Daemons;
pub use events::{EVENTS_MAX, Event, Events, What};
pub use health::StoreAway;
pub use history::{LastHour, Minute};
pub use holding::{Carried, Taken};
pub use identity::default_instance_name;
pub use keeper::Readiness;
pub use leases::{Held, LeaseCounts, State};
pub use lists::{Cluster, place};
pub use look_ups::{Answer, Source, Told};
pub use me::{InstanceAt, NO_ADDRESS};
pub use past::CarriedPast;
pub use question::{Lookup, Question};
pub use stats::{Stats, VERBS};
pub use store::NobodyKnows;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use repmd_backend_api::{
    AliveName, BackendError, Found, HostId, Instance, Lease, Node, Note, Registration, RegistryBackend,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use changes::Changes;
use daemons::KnownDaemons;
use holding::Holding;
use identity::Identity;
use keeper::Keeper;
use lists::Lists;
use look_ups::LookUps;
use me::Me;
use notes::Notes;
use store::Store;

/// How this daemon uses its registry.
#[derive(Clone)]
pub struct Options {
    /// How far a bare name reaches.
    pub lookup: Lookup,
    /// How long names elsewhere are answered from memory after the store was last reachable. `None`: as
    /// long as a lease lasts.
    pub stale_for: Option<Duration>,
    /// The longest that a node or an asker waits for the store.
    pub deadline: Duration,
    /// The time since the Unix epoch.
    pub clock: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Whether something listens on a port of this host, at loopback or at one of these addresses.
    pub probe: Arc<dyn Fn(u16, Vec<IpAddr>) -> BoxFuture<'static, bool> + Send + Sync>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lookup, stale_for, deadline, .. } = self;
        write!(f, "Options {{ lookup: {lookup:?}, stale_for: {stale_for:?}, deadline: {deadline:?} }}")
    }
}

/// One daemon's view of one registry: its parts, and what others ask of them.
#[derive(Debug)]
pub struct Registry {
    store: Arc<Store>,
    look_ups: LookUps,
    daemons: KnownDaemons,
    lists: Lists,
    notes: Notes,
    holding: Holding,
    identity: Identity,
    readiness: watch::Sender<Readiness>,
    events: Arc<Events>,
}

/// What this daemon is and holds.
impl Registry {
    /// A view of `backend`, the handle of the daemon `instance`. It needs [`Registry::keep`] to run beside it.
    #[must_use]
    pub fn new(backend: Arc<dyn RegistryBackend>, instance: Arc<Instance>, options: Options) -> Self {
        let events = Arc::new(Events::new(Arc::clone(&options.clock)));
        let store = Arc::new(Store::new(backend, Me::new(instance), options, Arc::clone(&events)));
        Self {
            look_ups: LookUps::new(Arc::clone(&store)),
            daemons: KnownDaemons::new(Arc::clone(&store)),
            lists: Lists::new(Arc::clone(&store)),
            notes: Notes::new(Arc::clone(&store)),
            holding: Holding::new(Arc::clone(&store), Arc::clone(&events)),
            identity: Identity::default(),
            readiness: watch::Sender::default(),
            events,
            store,
        }
    }

    /// The same view, of a daemon that was told no address: `instance_at` makes it anew for this machine's address on
    /// the connection to the store, if one is open. Asked again for each new connection.
    #[must_use]
    pub fn with_addresses_of_the_connection(self, instance_at: InstanceAt) -> Self {
        self.store.follow_addresses_by(instance_at);
        self
    }

    /// Renews what this daemon holds, publishes what it could not, and follows the changes of others, until
    /// `stop` fires. Returns at once where the registry is not shared.
    pub async fn keep(&self, stop: &CancellationToken) {
        let Self { store, look_ups, daemons, lists, holding, identity, readiness, events, .. } = self;
        let Some(lease_ttl) = store.lease_ttl() else { return };
        let keeper = Keeper { store, holding, identity, readiness, lease_ttl };
        let changes = Changes { store, look_ups, daemons, lists, holding, identity, events };
        // In order, here and below, so that a simulation takes the same way each time.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = keeper.renew_for_ever() => {}
            () = changes.follow() => {}
            () = keeper.look_for_itself() => {}
        }
    }

    /// The daemon whose view this is, with its addresses and aliases of now.
    #[must_use]
    pub fn instance(&self) -> Arc<Instance> {
        self.store.me.now()
    }

    /// A node of this daemon, with the daemon's addresses of now.
    #[must_use]
    pub fn with_addresses_of_now(&self, registration: Arc<Registration>) -> Arc<Registration> {
        self.store.me.with_addresses_of_now(registration)
    }

    /// Whether an earlier run of this daemon registered the node, which has not come back yet.
    #[must_use]
    pub fn is_ours_of_before(&self, registration: &Registration) -> bool {
        self.store.me.held_before(registration)
    }

    /// Registers a node whose connection is open, under the number of its claim. The store being slow or
    /// away refuses nobody: the node is accepted, and published later.
    ///
    /// # Errors
    /// [`Taken`]: another daemon of this host holds the name, and is alive.
    pub async fn register(&self, number: u64, node: Node, advertised_port: u16) -> Result<Lease, Taken> {
        self.holding.register(number, node, advertised_port).await
    }

    /// Ends the registration of a node whose connection has ended.
    pub async fn release(&self, lease: &Lease) {
        self.holding.release(lease).await;
    }

    /// Has others told of a node of an earlier run of this daemon, which nobody is connected for. `number`: of a claim.
    #[must_use]
    pub fn adopt(&self, number: u64, registration: Arc<Registration>) -> Lease {
        self.holding.adopt(number, registration)
    }

    /// Renews the lease no longer, because a later one has taken its place.
    pub fn forget(&self, lease: &Lease) {
        self.holding.forget(lease);
    }

    /// What this daemon holds in a shared registry, oldest first.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        self.holding.leases.all()
    }

    /// How much of that is in which state.
    #[must_use]
    pub fn lease_counts(&self) -> LeaseCounts {
        self.holding.leases.counts()
    }

    /// What [`Registry::resume`] goes on from.
    #[must_use]
    pub fn carried(&self) -> Carried {
        self.holding.carried()
    }

    /// Goes on from what the program or the run before had. `nodes`: what it held, oldest first, by the numbers of
    /// its claims.
    pub async fn resume(&self, nodes: Vec<(u64, Arc<Registration>)>, carried: Carried) {
        self.holding.resume(nodes, carried).await;
    }

    /// Tells the store what the program or the run before had no time to tell it.
    pub async fn release_the_rest(&self) {
        self.holding.release_the_rest().await;
    }

    /// The daemon ends, and its nodes live on: what it holds is left for its next run, which answers for
    /// them until they are back.
    pub fn hand_over(&self) {
        self.holding.hand_over();
    }

    /// Tells the store that this run of the daemon is over.
    pub async fn retire(&self) {
        self.holding.retire().await;
    }
}

/// What is known of the rest of the cluster.
impl Registry {
    /// The answer to `question`, if it is known without waiting.
    #[must_use]
    pub fn known(&self, question: &Question) -> Option<Told> {
        self.look_ups.known(question, &self.daemons)
    }

    /// The answer to `question`, from memory or from the store. `asker`: for whom it is, if not for this daemon
    /// itself. Where too much is asked of the store, the answer is as if it were away.
    pub async fn look_up(&self, question: &Question, asker: Option<IpAddr>) -> Told {
        self.look_ups.look_up(question, asker, &self.daemons, &self.holding).await
    }

    /// Whether the store knows that `host` has no such node. While it does not answer, or has an entry of that name
    /// that cannot be read, nobody knows.
    pub async fn has_left(&self, host: &HostId, name: &AliveName) -> bool {
        self.look_ups.has_left(host, name).await
    }

    /// The daemons that count as alive, as the store said within the last second. `None`: it does not say, or there
    /// is no shared one.
    pub async fn daemons(&self) -> Option<Arc<Daemons>> {
        self.daemons.all().await
    }

    /// The daemons that count as alive, if that is known without waiting: as the store said within the last second,
    /// or last before it went away.
    #[must_use]
    pub fn known_daemons(&self) -> Option<Result<Arc<Daemons>, NobodyKnows>> {
        self.daemons.known()
    }

    /// The same, from the store where it has to be asked.
    ///
    /// # Errors
    /// [`NobodyKnows`].
    pub async fn current_daemons(&self) -> Result<Arc<Daemons>, NobodyKnows> {
        self.daemons.current().await
    }

    /// Whether a daemon of the cluster is at `address`, if that is known without waiting.
    #[must_use]
    pub fn is_known_of_the_cluster(&self, address: IpAddr) -> Option<bool> {
        self.daemons.is_known_at(address)
    }

    /// Whether a daemon of the cluster is at `address`. If nobody knows, it is not.
    pub async fn is_of_the_cluster(&self, address: IpAddr) -> bool {
        self.daemons.current().await.is_ok_and(|daemons| daemons.has(address))
    }

    /// The nodes of `host` that other daemons hold, newest first, if they are known without waiting.
    #[must_use]
    pub fn known_nodes(&self, host: &HostId) -> Option<Arc<Vec<Found>>> {
        self.lists.known_nodes(host)
    }

    /// The nodes of `host` that other daemons hold, newest first.
    pub async fn nodes(&self, host: &HostId) -> Arc<Vec<Found>> {
        self.lists.nodes(host).await
    }

    /// The nodes called `name` that other daemons hold, on all hosts, if they are known without waiting. Those of an
    /// earlier run of this daemon are left out: whether they live nobody knows.
    #[must_use]
    pub fn known_holders(&self, name: &AliveName) -> Option<Result<Arc<Vec<Found>>, NobodyKnows>> {
        self.lists.known_holders(name)
    }

    /// The same, from the store where it has to be asked.
    ///
    /// # Errors
    /// [`NobodyKnows`].
    pub async fn holders(&self, name: &AliveName, asker: IpAddr) -> Result<Arc<Vec<Found>>, NobodyKnows> {
        self.lists.holders(name, asker).await
    }

    /// The nodes that other daemons hold, on all hosts. For people who look: it does not take part in
    /// look-ups, and that it takes long says nothing of the store's health.
    pub async fn cluster(&self) -> Cluster {
        self.lists.cluster().await
    }

    /// [`Registry::cluster`] where that is no burden to the store, else as it was last listed.
    pub async fn cluster_at_leisure(&self) -> Arc<Vec<Found>> {
        self.lists.cluster_at_leisure().await
    }

    /// Leaves a note for all daemons. As with [`Registry::cluster`], how that goes says nothing of the store's health.
    ///
    /// # Errors
    /// When it was not left: the store is away, or refuses it.
    pub async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        self.notes.leave(note).await
    }

    /// The notes of all daemons, as of a second ago, or as they were before the store was slow or away.
    pub async fn notes(&self) -> Arc<Vec<Note>> {
        self.notes.all().await
    }
}

/// How the registry does.
impl Registry {
    /// Whether other daemons use the same registry.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// How long a registration outlives its last renewal; `None` where the registry is not shared.
    #[must_use]
    pub fn lease_ttl(&self) -> Option<Duration> {
        self.store.lease_ttl()
    }

    /// Since when and why the store does not answer, if it does not.
    #[must_use]
    pub fn away(&self) -> Option<StoreAway> {
        self.store.away()
    }

    /// Whether all is well with the registry; changes as that does.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// What happens in the registry and to this daemon's nodes.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// What is counted.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.store.stats
    }

    /// How often an entry of the store could not be read.
    #[must_use]
    pub fn unreadable_entries(&self) -> u64 {
        self.store.unreadable.count.get()
    }

    /// Questions that the store was not asked, because too many were under way.
    #[must_use]
    pub fn questions_left_out(&self) -> u64 {
        self.store.questions_left_out()
    }
}

#[cfg(test)]
mod tests;
