//! The daemon's view of the registry behind it: what it holds there, and what it knows of the rest.
//!
//! A daemon's own nodes are served from its own table, whatever happens here. This module keeps them
//! published, and answers for names elsewhere. No call waits for a store longer than a deadline, and none
//! waits at all while the store is known to be away. It knows no backend by name, no wire and no socket,
//! so that a simulation can run many of it on a clock of its own.

mod daemons;
mod events;
mod health;
mod history;
mod identity;
mod keeper;
mod leases;
mod me;
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
pub use identity::default_instance_name;
pub use leases::{Held, LeaseCounts, State};
pub use me::{InstanceAt, NO_ADDRESS};
pub use past::CarriedPast;
pub use question::{Lookup, Question};
pub use stats::{Stats, VERBS};
pub use store::NobodyKnows;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use quick_cache::sync::Cache;
use repmd_backend_api::{
    AliveName, BackendError, Claim, Found, HostId, Instance, Lease, LeaseToken, Node, Note, Registration,
    RegistryBackend, Scope, Search,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use crate::throttle::Throttle;
use identity::Identity;
use leases::Leases;
use me::Me;
use past::Past;
use question::{Choice, choose};
use slot::{Known, Slot};
use store::Store;

/// How long the answer that there is no such node counts as fresh, whatever the store says: just enough that a flood of
/// such look-ups is few requests, and a node that has started is found at once.
const FRESH_ABSENCE: Duration = Duration::from_millis(25);

/// Answers that are remembered at most.
const ANSWERS_MAX: usize = 16_384;

/// Registrations of one name that are enough: this host's own, and more than one elsewhere, some of which a log
/// line names.
const FOUND_MAX: usize = 4;

/// Hosts whose lists of nodes are remembered at most.
const LISTS_MAX: usize = 1024;

/// Names of which all holders are remembered at most.
const HOLDERS_LISTS_MAX: usize = 4096;

/// Nodes of one name, on all hosts, of which those are told who ask for all.
const HOLDERS_MAX: usize = 1024;

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

/// What is known of a name elsewhere.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This is where the node listens.
    Node(Arc<Registration>),
    /// This is where the host's daemon listens.
    Daemon(Arc<Instance>),
    /// No such node, or none that the question tells apart from others.
    Absent,
}

/// Where an answer is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From this daemon itself: nobody else had to be asked.
    Here,
    /// From the registry, which was asked just now.
    Registry,
    /// From what the registry said a moment ago.
    Cache,
    /// From what the registry last said, if it said anything: it is away.
    Stale,
}

/// An answer, and where it is known from.
#[derive(Clone, Debug)]
pub struct Told {
    /// What is known.
    pub answer: Answer,
    /// Where from.
    pub source: Source,
    /// When the registry was asked for it; `None` where it was not.
    pub asked: Option<Instant>,
}

impl Source {
    /// In one word, as the API and the log say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Registry => "registry",
            Self::Cache => "cache",
            Self::Stale => "stale",
        }
    }
}

/// A node is refused, because another daemon of this host holds its name.
#[derive(Debug, thiserror::Error)]
#[error("{name} is registered by {holder}")]
pub struct Taken {
    /// The name, with this host.
    pub name: String,
    /// The instance name of the daemon that holds it.
    pub holder: String,
}

/// Whether the registry is whole, for operators and service managers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What is wrong; empty when all is well.
    pub complaints: Vec<String>,
    /// What costs single names alone: entries of the store that cannot be read.
    pub notes: Vec<String>,
}

/// The nodes of the whole cluster that other daemons hold, as far as they are known.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What the store last listed.
    pub nodes: Arc<Vec<Found>>,
    /// When it was asked for that; `None`: it never answered, or there is no shared one.
    pub asked: Option<Instant>,
    /// Whether the store did not answer when it should have: the list may be out of date.
    pub is_stale: bool,
}

/// What a daemon's view is made of that its next program cannot learn by itself, beside its nodes.
#[derive(Debug, Default)]
pub struct Carried {
    /// How long ago the store kept what is held, by the number of the claim.
    pub renewed: HashMap<u64, Duration>,
    /// What was let go, and the store may not know it yet.
    pub releasing: Vec<Lease>,
    /// Nodes that were on this host.
    pub past: CarriedPast,
}

/// One daemon's view of one registry.
#[derive(Debug)]
pub struct Registry {
    store: Store,
    leases: Leases,
    /// What was let go, and the store is being told so.
    releasing: Mutex<BTreeMap<u64, Lease>>,
    past: Mutex<Past>,
    answers: Cache<Question, Arc<Slot<Remembered>>>,
    /// Nodes that other daemons hold, by their host.
    lists: Cache<HostId, Arc<Slot<Arc<Vec<Found>>>>>,
    /// Nodes that other daemons hold, by their name.
    holders: Cache<AliveName, Arc<Slot<Arc<Vec<Found>>>>>,
    /// The same of all hosts.
    cluster: Slot<Arc<Vec<Found>>>,
    /// All daemons: one list for every question that is about them.
    daemons: Slot<Arc<Daemons>>,
    /// What all daemons tell of the links of their nodes.
    notes: Slot<Arc<Vec<Note>>>,
    identity: Identity,
    readiness: watch::Sender<Readiness>,
    hands_over: AtomicBool,
    /// Somebody else has registered a name of this host.
    has_company: AtomicBool,
    ambiguities: Throttle,
    events: Arc<Events>,
}

/// An answer, and how long the store vouches for it.
#[derive(Clone, Debug)]
struct Remembered {
    answer: Answer,
    left: Option<Duration>,
    fresh_for: Duration,
}

impl Registry {
    /// A view of `backend`, the handle of the daemon `instance`. It needs [`Registry::keep`] to run beside it.
    #[must_use]
    pub fn new(backend: Arc<dyn RegistryBackend>, instance: Arc<Instance>, options: Options) -> Self {
        let events = Arc::new(Events::new(Arc::clone(&options.clock)));
        Self {
            past: Mutex::new(Past::new(instance.id.0)),
            store: Store::new(backend, Me::new(instance), options, Arc::clone(&events)),
            leases: Leases::new(Arc::clone(&events)),
            releasing: Mutex::default(),
            answers: Cache::new(ANSWERS_MAX),
            lists: Cache::new(LISTS_MAX),
            holders: Cache::new(HOLDERS_LISTS_MAX),
            cluster: Slot::default(),
            daemons: Slot::default(),
            notes: Slot::default(),
            identity: Identity::default(),
            readiness: watch::Sender::default(),
            hands_over: AtomicBool::new(false),
            has_company: AtomicBool::new(false),
            ambiguities: Throttle::default(),
            events,
        }
    }

    /// The same view, of a daemon that was told no address: `instance_at` makes it anew for this machine's address on
    /// the connection to the store, if one is open. Asked again for each new connection.
    #[must_use]
    pub fn with_addresses_of_the_connection(self, instance_at: InstanceAt) -> Self {
        self.store.follow_addresses_by(instance_at);
        self
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

    /// Whether other daemons use the same registry.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.store.is_shared()
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

    /// Since when and why the store does not answer, if it does not.
    #[must_use]
    pub fn away(&self) -> Option<StoreAway> {
        self.store.away()
    }

    /// How long a registration outlives its last renewal; `None` where the registry is not shared.
    #[must_use]
    pub fn lease_ttl(&self) -> Option<Duration> {
        self.store.lease_ttl()
    }

    /// What this daemon holds in a shared registry, oldest first.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        self.leases.all()
    }

    /// How much of that is in which state.
    #[must_use]
    pub fn lease_counts(&self) -> LeaseCounts {
        self.leases.counts()
    }

    /// The nodes that other daemons hold, on all hosts. For people who look: it does not take part in
    /// look-ups, and that it takes long says nothing of the store's health.
    pub async fn cluster(&self) -> Cluster {
        if !self.is_shared() {
            return Cluster { nodes: Arc::default(), asked: None, is_stale: false };
        }
        let load = async {
            if self.store.is_away() {
                return None;
            }
            let seen = self.store.patiently(|backend| backend.list(&Scope::Cluster)).await.ok()?;
            let mut found = self.store.unreadable.note(seen);
            found.retain(|found| !self.store.me.holds(&found.registration));
            newest_first(&mut found);
            Some(Arc::new(found))
        };
        let is_current = self.cluster.fresh_or(self.store.is_fresh_list(), load).await.is_some();
        let is_stale = !is_current || self.store.is_away();
        match self.cluster.last() {
            Some(Known { value, asked }) => Cluster { nodes: value, asked: Some(asked), is_stale },
            None => Cluster { nodes: Arc::default(), asked: None, is_stale },
        }
    }

    /// [`Registry::cluster`] where that is no burden to the store, else as it was last listed.
    pub async fn cluster_at_leisure(&self) -> Arc<Vec<Found>> {
        if self.store.is_slow() {
            return self.cluster.last().map_or_else(Arc::default, |known| known.value);
        }
        self.cluster().await.nodes
    }

    /// Leaves a note for all daemons. As with [`Registry::cluster`], how that goes says nothing of the store's health.
    ///
    /// # Errors
    /// When it was not left: the store is away, or refuses it.
    pub async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        if let Some(away) = self.store.away() {
            return Err(BackendError::Unavailable { waited: Duration::ZERO, source: away.reason.into() });
        }
        if self.store.is_slow() {
            return Err(BackendError::Unavailable { waited: Duration::ZERO, source: "it is slow".into() });
        }
        self.store.patiently(|backend| backend.leave_note(note)).await
    }

    /// The notes of all daemons, as of a second ago, or as they were before the store was slow or away.
    pub async fn notes(&self) -> Arc<Vec<Note>> {
        if !self.is_shared() || self.store.is_away() || self.store.is_slow() {
            return self.notes.last().map_or_else(Arc::default, |known| known.value);
        }
        let load = async {
            Some(Arc::new(
                self.store.unreadable.note(self.store.patiently(|backend| backend.notes()).await.ok()?),
            ))
        };
        self.notes
            .fresh_or(self.store.is_fresh_list(), load)
            .await
            .map_or_else(Arc::default, |known| known.value)
    }

    /// Registers a node whose connection is open, under the number of its claim. The store being slow or
    /// away refuses nobody: the node is accepted, and published later.
    ///
    /// # Errors
    /// [`Taken`]: another daemon of this host holds the name, and is alive.
    pub async fn register(&self, number: u64, node: Node, advertised_port: u16) -> Result<Lease, Taken> {
        let now = (self.store.options.clock)();
        let last = self.past().last_creation(&node.name);
        let instance = self.instance();
        let registered_at = SystemTime::UNIX_EPOCH + now;
        let claim = Claim { number, node, advertised_port, registered_at, last };
        let lease = match self.store.ask("register", |backend| backend.register(&claim)).await {
            Ok(granted) => {
                // All else is what the node said: a store may hold anything under this claim's token.
                let lease = claim.granted(instance, granted.creation());
                self.hold(&lease, true);
                lease
            }
            Err(Some(BackendError::NameTaken { name, holder })) => {
                return Err(Taken { name: name.to_string(), holder });
            }
            Err(_) => {
                // Not the time before the wait: what was given out in seconds that are over by now is forgotten.
                let now = (self.store.options.clock)();
                let creation = self.past().offline_creation(&claim.node.name, now);
                let lease = claim.granted(instance, creation);
                self.hold(&lease, false);
                self.store.nudge();
                lease
            }
        };
        Ok(lease)
    }

    /// A registry of this process alone needs no renewals.
    fn hold(&self, lease: &Lease, is_published: bool) {
        if !self.is_shared() {
            return;
        }
        // The daemon may have got other addresses while the store was asked.
        let registration = self.with_addresses_of_now(Arc::clone(&lease.registration));
        let is_current = Arc::ptr_eq(&registration, &lease.registration);
        self.leases.hold(Lease { registration, ..lease.clone() }, is_published && is_current);
        if !is_current {
            self.store.nudge();
        }
    }

    /// Ends the registration of a node whose connection has ended.
    pub async fn release(&self, lease: &Lease) {
        if self.hands_over.load(Ordering::Relaxed) {
            return;
        }
        let name = &lease.registration.node.name;
        if self.is_shared() {
            self.leases.let_go(lease);
            self.past().departed(name, lease.creation());
            self.releasing().insert(lease.token.number, lease.clone());
        } else {
            self.past().spent(name, lease.creation());
        }
        // If the store cannot be told, the registration ends with its lease: nobody renews it.
        let _ = self.store.ask("release", |backend| backend.release(lease)).await;
        if self.is_shared() {
            self.releasing().remove(&lease.token.number);
        }
    }

    /// Has others told of a node of an earlier run of this daemon, which nobody is connected for. `number`: of a claim.
    #[must_use]
    pub fn adopt(&self, number: u64, registration: Arc<Registration>) -> Lease {
        let token = LeaseToken { instance: self.store.me.id(), number };
        let lease = Lease { token, registration };
        // No later life gets its creation.
        self.past().departed(&lease.registration.node.name, lease.creation());
        self.hold(&lease, false);
        self.store.nudge();
        lease
    }

    /// Renews the lease no longer, because a later one has taken its place.
    pub fn forget(&self, lease: &Lease) {
        self.leases.let_go(lease);
    }

    /// What [`Registry::resume`] goes on from.
    #[must_use]
    pub fn carried(&self) -> Carried {
        let held = self.leases.all().into_iter();
        let renewed = held.filter_map(|held| {
            let renewed = held.renewed.filter(|_| held.state == State::Published)?;
            Some((held.lease.token.number, renewed.elapsed()))
        });
        Carried {
            renewed: renewed.collect(),
            releasing: self.releasing().values().cloned().collect(),
            past: self.past().carried(),
        }
    }

    /// Goes on from what the program or the run before had. `nodes`: what it held, oldest first, by the numbers of
    /// its claims.
    pub async fn resume(&self, nodes: Vec<(u64, Arc<Registration>)>, carried: Carried) {
        let Carried { renewed, releasing, past } = carried;
        self.past().resume(past);
        let lease = |(number, registration): (u64, Arc<Registration>)| Lease {
            token: LeaseToken { instance: registration.instance.id, number },
            registration,
        };
        let leases: Vec<_> = nodes.into_iter().map(lease).collect();
        if !self.is_shared() {
            // It has begun empty, and is given everything at once.
            if let Err(error) = self.store.patiently(|backend| backend.publish(&leases)).await {
                warn!(%error, "the registry does not take what was held before");
            }
            return;
        }
        for lease in leases {
            let renewed = renewed.get(&lease.token.number).copied();
            self.leases.resume(lease, renewed);
        }
        self.releasing().extend(releasing.into_iter().map(|lease| (lease.token.number, lease)));
    }

    /// Tells the store what the program or the run before had no time to tell it.
    pub async fn release_the_rest(&self) {
        let left: Vec<_> = self.releasing().values().cloned().collect();
        for lease in left {
            let _ = self.store.ask("release", |backend| backend.release(&lease)).await;
            self.releasing().remove(&lease.token.number);
        }
    }

    fn releasing(&self) -> MutexGuard<'_, BTreeMap<u64, Lease>> {
        self.releasing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The daemon ends, and its nodes live on: what it holds is left for its next run, which answers for
    /// them until they are back.
    pub fn hand_over(&self) {
        self.hands_over.store(self.is_shared(), Ordering::Relaxed);
    }

    /// Tells the store that this run of the daemon is over.
    pub async fn retire(&self) {
        if self.is_shared() {
            let _ = self.store.ask("retire", |backend| backend.retire()).await;
        }
    }

    /// The answer to `question`, if it is known without waiting.
    #[must_use]
    pub fn known(&self, question: &Question) -> Option<Told> {
        let here = |answer| Some(Told { answer, source: Source::Here, asked: None });
        match question {
            Question::Daemon(host) if self.instance().answers_to(host) => {
                return here(Answer::Daemon(self.instance()));
            }
            _ if !self.is_shared() => return here(Answer::Absent),
            Question::Daemon(host) => return self.known_daemon(host),
            Question::Bare(_) | Question::On(..) => {}
        }
        let slot = self.answers.get(question);
        let fresh = slot.as_ref().and_then(|slot| slot.fresh(Remembered::is_fresh));
        match fresh {
            Some(Known { value, asked }) => {
                self.store.stats.remembered.add();
                Some(Told { answer: value.answer, source: Source::Cache, asked: Some(asked) })
            }
            None if self.store.is_away() => Some(self.stale(slot.as_deref())),
            None => None,
        }
    }

    /// The answer to `question`, from memory or from the store. `asker`: for whom it is, if not for this daemon
    /// itself. Where too much is asked of the store, the answer is as if it were away.
    pub async fn look_up(&self, question: &Question, asker: Option<IpAddr>) -> Told {
        if let Some(told) = self.known(question) {
            return told;
        }
        let (scope, name) = match question {
            Question::Daemon(host) => return self.look_up_daemon(host).await,
            Question::Bare(name) => (self.scope_of(name), name),
            Question::On(host, name) => (Scope::Host(host.clone()), name),
        };
        let slot = slot_of(&self.answers, question);
        match slot.fresh_or(Remembered::is_fresh, self.load(question, name, &scope, asker)).await {
            Some(Known { value, asked }) => {
                self.store.stats.loaded.add();
                Told { answer: value.answer, source: Source::Registry, asked: Some(asked) }
            }
            None => self.stale(Some(&slot)),
        }
    }

    /// Whether the store knows that `host` has no such node. While it does not answer, or has an entry of that name
    /// that cannot be read, nobody knows.
    pub async fn has_left(&self, host: &HostId, name: &AliveName) -> bool {
        let (question, scope) = (Question::On(host.clone(), name.clone()), Scope::Host(host.clone()));
        let slot = slot_of(&self.answers, &question);
        let known = slot.fresh_or(Remembered::is_fresh, self.load(&question, name, &scope, None)).await;
        known.is_some_and(|known| matches!(known.value.answer, Answer::Absent))
    }

    /// The last known answer, while it may serve.
    fn stale(&self, slot: Option<&Slot<Remembered>>) -> Told {
        self.store.stats.stale.add();
        let last = slot.and_then(Slot::last).filter(|last| self.store.may_serve(last.asked, last.value.left));
        let asked = last.as_ref().map(|last| last.asked);
        let answer = last.map_or(Answer::Absent, |last| last.value.answer);
        Told { answer, source: Source::Stale, asked }
    }

    /// How far a bare name reaches.
    fn scope_of(&self, name: &AliveName) -> Scope {
        if self.store.options.lookup == Lookup::Cluster && !self.past().had(name) {
            Scope::Cluster
        } else {
            Scope::Host(self.store.me.host().clone())
        }
    }

    /// Asks the store. `None`: it did not answer, what it has cannot be read, or too much is asked of it.
    async fn load(
        &self,
        question: &Question,
        name: &AliveName,
        scope: &Scope,
        asker: Option<IpAddr>,
    ) -> Option<Remembered> {
        if self.store.is_away() {
            return None;
        }
        let search = Search { name, scope, near: self.store.me.host(), most: FOUND_MAX };
        let seen = self.store.find(&search, asker).await?;
        self.store.unreadable.note_of(&seen);
        match choose(question, &seen, &self.store.me) {
            Choice::One(found) => {
                // Its nodes are about to come back here; until then this daemon answers for those that live.
                let is_gone = self.is_ours_of_before(&found.registration)
                    && !(self.store.options.probe)(
                        found.registration.node.port,
                        self.instance().addresses.clone(),
                    )
                    .await;
                Some(if is_gone {
                    Remembered::absent(FRESH_ABSENCE)
                } else {
                    Remembered::node(found, self.store.fresh_for())
                })
            }
            Choice::None => Some(Remembered::absent(FRESH_ABSENCE)),
            Choice::Unknown => None,
            Choice::Several(candidates) => {
                self.store.stats.ambiguous.add();
                if let Some(left_out) = self.ambiguities.pass() {
                    let candidates =
                        candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    warn!(%name, candidates, left_out, "not found: more than one node is meant");
                }
                // As long as a node's: it is known who has the name, and changes there are heard of.
                Some(Remembered::absent(self.store.fresh_for()))
            }
        }
    }

    /// The daemons that count as alive, as the store said within the last second. `None`: it does not say, or there
    /// is no shared one.
    pub async fn daemons(&self) -> Option<Arc<Daemons>> {
        if !self.is_shared() {
            return None;
        }
        let load = async {
            let seen = self.store.ask("daemons", |backend| backend.daemons(&Scope::Cluster)).await.ok()?;
            Some(Arc::new(Daemons::new(self.store.unreadable.note(seen))))
        };
        Some(self.daemons.fresh_or(self.store.is_fresh_list(), load).await?.value)
    }

    /// Whether a daemon of the cluster is at `address`, if that is known without waiting.
    #[must_use]
    pub fn is_known_of_the_cluster(&self, address: IpAddr) -> Option<bool> {
        // One that was a moment ago may ask for as long as its names are answered.
        if self.last_daemons().is_ok_and(|last| last.value.has(address)) {
            return Some(true);
        }
        self.known_daemons().map(|daemons| daemons.is_ok_and(|daemons| daemons.has(address)))
    }

    /// Whether a daemon of the cluster is at `address`. If nobody knows, it is not.
    pub async fn is_of_the_cluster(&self, address: IpAddr) -> bool {
        self.current_daemons().await.is_ok_and(|daemons| daemons.has(address))
    }

    /// The daemons that count as alive, if that is known without waiting: as the store said within the last second,
    /// or last before it went away.
    #[must_use]
    pub fn known_daemons(&self) -> Option<Result<Arc<Daemons>, NobodyKnows>> {
        if !self.is_shared() {
            return Some(Ok(Arc::default()));
        }
        match self.daemons.fresh(self.store.is_fresh_list()) {
            Some(known) => Some(Ok(known.value)),
            None if self.store.is_away() => Some(self.last_daemons().map(|known| known.value)),
            None => None,
        }
    }

    /// The same, from the store where it has to be asked.
    ///
    /// # Errors
    /// [`NobodyKnows`].
    pub async fn current_daemons(&self) -> Result<Arc<Daemons>, NobodyKnows> {
        match self.known_daemons() {
            Some(known) => known,
            None => match self.daemons().await {
                Some(daemons) => Ok(daemons),
                None => self.last_daemons().map(|known| known.value),
            },
        }
    }

    /// The last list of daemons, while it may serve.
    fn last_daemons(&self) -> Result<Known<Arc<Daemons>>, NobodyKnows> {
        let last = self.daemons.last().filter(|last| self.store.may_serve(last.asked, self.lease_ttl()));
        last.ok_or(NobodyKnows)
    }

    /// The nodes called `name` that other daemons hold, on all hosts, if they are known without waiting. Those of an
    /// earlier run of this daemon are left out: whether they live nobody knows.
    #[must_use]
    pub fn known_holders(&self, name: &AliveName) -> Option<Result<Arc<Vec<Found>>, NobodyKnows>> {
        if !self.is_shared() {
            return Some(Ok(Arc::default()));
        }
        let slot = self.holders.get(name);
        match slot.as_ref().and_then(|slot| slot.fresh(self.store.is_fresh_list())) {
            Some(known) => Some(Ok(known.value)),
            None if self.store.is_away() => Some(self.last_holders(slot.as_deref())),
            None => None,
        }
    }

    /// The same, from the store where it has to be asked.
    ///
    /// # Errors
    /// [`NobodyKnows`].
    pub async fn holders(&self, name: &AliveName, asker: IpAddr) -> Result<Arc<Vec<Found>>, NobodyKnows> {
        if let Some(known) = self.known_holders(name) {
            return known;
        }
        let slot = slot_of(&self.holders, name);
        let load = async {
            let search =
                Search { name, scope: &Scope::Cluster, near: self.store.me.host(), most: HOLDERS_MAX };
            let mut found = self.store.unreadable.note(self.store.find(&search, Some(asker)).await?);
            found.retain(|found| found.registration.instance.name != self.store.me.name());
            Some(Arc::new(found))
        };
        match slot.fresh_or(self.store.is_fresh_list(), load).await {
            Some(known) => Ok(known.value),
            None => self.last_holders(Some(&slot)),
        }
    }

    fn last_holders(&self, slot: Option<&Slot<Arc<Vec<Found>>>>) -> Result<Arc<Vec<Found>>, NobodyKnows> {
        let Known { value, asked } = slot.and_then(Slot::last).ok_or(NobodyKnows)?;
        // That nobody had the name is known no longer than that somebody had it.
        let ttl = self.lease_ttl();
        let living: Vec<_> =
            value.iter().filter(|found| self.store.may_serve(asked, found.left)).cloned().collect();
        if living.is_empty() && !(value.is_empty() && self.store.may_serve(asked, ttl)) {
            return Err(NobodyKnows);
        }
        Ok(Arc::new(living))
    }

    fn known_daemon(&self, host: &HostId) -> Option<Told> {
        match self.daemons.fresh(self.store.is_fresh_list()) {
            Some(known) => {
                self.store.stats.remembered.add();
                Some(daemon_of(&known, host, Source::Cache))
            }
            None if self.store.is_away() => Some(self.stale_daemon(host)),
            None => None,
        }
    }

    async fn look_up_daemon(&self, host: &HostId) -> Told {
        match self.daemons().await.and_then(|_| self.daemons.last()) {
            Some(known) => {
                self.store.stats.loaded.add();
                daemon_of(&known, host, Source::Registry)
            }
            None => self.stale_daemon(host),
        }
    }

    fn stale_daemon(&self, host: &HostId) -> Told {
        self.store.stats.stale.add();
        match self.last_daemons() {
            Ok(known) => daemon_of(&known, host, Source::Stale),
            Err(NobodyKnows) => Told { answer: Answer::Absent, source: Source::Stale, asked: None },
        }
    }

    /// Whether an earlier run of this daemon registered the node, which has not come back yet.
    #[must_use]
    pub fn is_ours_of_before(&self, registration: &Registration) -> bool {
        self.store.me.held_before(registration)
    }

    /// The nodes of `host` that other daemons hold, newest first, if they are known without waiting.
    #[must_use]
    pub fn known_nodes(&self, host: &HostId) -> Option<Arc<Vec<Found>>> {
        if !self.is_shared() {
            return Some(Arc::default());
        }
        let slot = self.lists.get(host);
        let fresh =
            slot.as_ref().and_then(|slot| slot.fresh(self.store.is_fresh_list())).map(|known| known.value);
        fresh.or_else(|| self.store.is_away().then(|| self.stale_nodes(slot.as_deref())))
    }

    /// The nodes of `host` that other daemons hold, newest first.
    pub async fn nodes(&self, host: &HostId) -> Arc<Vec<Found>> {
        if let Some(known) = self.known_nodes(host) {
            return known;
        }
        let slot = slot_of(&self.lists, host);
        let scope = Scope::Host(host.clone());
        let load = async {
            let mut found = self
                .store
                .unreadable
                .note(self.store.ask("list", |backend| backend.list(&scope)).await.ok()?);
            // Whether the nodes of an earlier run live nobody knows: they may have died with it. A node that finds
            // its own name in a list refuses to boot, and those that live are back within seconds.
            found.retain(|found| found.registration.instance.name != self.store.me.name());
            newest_first(&mut found);
            Some(Arc::new(found))
        };
        let fresh = slot.fresh_or(self.store.is_fresh_list(), load).await;
        fresh.map_or_else(|| self.stale_nodes(Some(&slot)), |known| known.value)
    }

    fn stale_nodes(&self, slot: Option<&Slot<Arc<Vec<Found>>>>) -> Arc<Vec<Found>> {
        let Some(Known { value, asked }) = slot.and_then(Slot::last) else { return Arc::default() };
        let may_live = |found: &&Found| self.store.may_serve(asked, found.left);
        Arc::new(value.iter().filter(may_live).cloned().collect())
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first daemon of `host` in a list.
fn daemon_of(known: &Known<Arc<Daemons>>, host: &HostId, source: Source) -> Told {
    let first = known.value.of(host).first();
    let answer = first.map_or(Answer::Absent, |daemon| Answer::Daemon(Arc::clone(daemon)));
    Told { answer, source, asked: Some(known.asked) }
}

/// As the stock daemon lists its nodes. A store has no order, and daemons of one host have one clock.
fn newest_first(found: &mut [Found]) {
    let age = |found: &Found| std::cmp::Reverse(found.registration.registered_at);
    found.sort_by(|a, b| {
        let by_name = || a.registration.node.name.cmp(&b.registration.node.name);
        age(a).cmp(&age(b)).then_with(by_name)
    });
}

/// The slot of `key`, which is made if there is none.
fn slot_of<K: Clone + Eq + Hash, T: Clone>(slots: &Cache<K, Arc<Slot<T>>>, key: &K) -> Arc<Slot<T>> {
    slots.get(key).unwrap_or_else(|| {
        let slot = Arc::default();
        slots.insert(key.clone(), Arc::clone(&slot));
        slot
    })
}

impl Remembered {
    /// `fresh_for`: how long the store vouches for what it says.
    fn node(found: &Found, fresh_for: Duration) -> Self {
        let fresh_for = found.left.map_or(fresh_for, |left| left.min(fresh_for));
        Self { answer: Answer::Node(Arc::clone(&found.registration)), left: found.left, fresh_for }
    }

    /// `fresh_for`: how long that counts. Nothing that lives speaks for it longer.
    fn absent(fresh_for: Duration) -> Self {
        Self { answer: Answer::Absent, left: None, fresh_for }
    }

    fn is_fresh(known: &Known<Self>) -> bool {
        known.asked.elapsed() < known.value.fresh_for
    }
}
