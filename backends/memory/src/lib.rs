//! The reference registry: one process, one mutex, one map, and a clock that it is given.
//!
//! Every call is over when it is first polled: nothing in it waits. The daemon without a shared store
//! counts on that, and registers a node without leaving its thread.

mod kind;

pub use kind::MemoryKind;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use repmd_backend_api::{
    AliveName, BackendError, Change, Claim, Creation, Creations, Found, Holdings, HostId, Instance,
    InstanceId, Lease, LeaseToken, Note, Promises, Registration, RegistryBackend, Renewal, Renewed, Scope,
    Search, Seen, liveness,
};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Changes that a slow watcher may be behind before it is told that it missed some.
const CHANGES_MAX: usize = 1024;

/// Leases that one call renews: the thread that renews also serves the wire.
const RENEWALS_MAX: usize = 500;

/// The time since the Unix epoch, as the registry sees it.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// A registry in this process. Clones share it, as daemons share a store.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

/// One daemon's handle to a [`Memory`].
#[derive(Debug)]
pub struct Handle {
    memory: Memory,
    /// The daemon, as it last said.
    instance: Mutex<Arc<Instance>>,
}

struct Shared {
    registry: Mutex<Registry>,
    changes: broadcast::Sender<Change>,
    lease_ttl: Option<Duration>,
    clock: Clock,
}

#[derive(Default)]
struct Registry {
    /// The holders of each name, one a host: nearly always one in all.
    names: HashMap<AliveName, Vec<Held>>,
    /// When which lease runs out. Empty without leases.
    expiries: BTreeMap<(Duration, LeaseToken), (HostId, AliveName)>,
    creations: Creations<(HostId, AliveName)>,
    /// The daemons that have registered or renewed, and until when they count as alive.
    daemons: BTreeMap<InstanceId, (Arc<Instance>, Option<Duration>)>,
    /// The notes of daemons, and until when they last.
    notes: BTreeMap<InstanceId, (Box<[u8]>, Option<Duration>)>,
}

struct Held {
    lease: Lease,
    expires: Option<Duration>,
}

impl Memory {
    /// A registry for one daemon: registrations last until they are released.
    #[must_use]
    pub fn new() -> Self {
        Self::build(None, Arc::new(system_clock))
    }

    /// A registry that several daemons of one process share: a registration lasts for `ttl` after its
    /// last renewal, by `clock`.
    #[must_use]
    pub fn with_leases(ttl: Duration, clock: Clock) -> Self {
        Self::build(Some(ttl), clock)
    }

    fn build(lease_ttl: Option<Duration>, clock: Clock) -> Self {
        let registry = Mutex::default();
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        Self { shared: Arc::new(Shared { registry, changes, lease_ttl, clock }) }
    }

    /// A handle for one run of one daemon.
    #[must_use]
    pub fn attach(&self, instance: Arc<Instance>) -> Handle {
        Handle { memory: self.clone(), instance: Mutex::new(instance) }
    }

    /// Forgets everything, as a store does that restarts empty.
    pub fn lose_everything(&self) {
        *self.lock() = Registry::default();
    }

    /// The registry without the leases that have run out.
    fn current(&self) -> (MutexGuard<'_, Registry>, Duration) {
        let now = (self.shared.clock)();
        let mut registry = self.lock();
        while let Some(expired) = registry.expiries.first_entry().filter(|first| first.key().0 <= now) {
            let ((_, token), (host, name)) = expired.remove_entry();
            registry.remove(&host, &name, token);
            self.tell(Change::Expired(name, host));
        }
        registry.daemons.retain(|_, (_, until)| until.is_none_or(|until| now < until));
        registry.notes.retain(|_, (_, until)| until.is_none_or(|until| now < until));
        (registry, now)
    }

    /// When a lease that is renewed now runs out.
    fn expiry(&self, now: Duration) -> Option<Duration> {
        self.shared.lease_ttl.map(|ttl| now + ttl)
    }

    /// Where a name that is not known is counted on from.
    fn creations_clock(&self, now: Duration) -> Creation {
        if self.shared.lease_ttl.is_none() { Creation::from_seconds(now) } else { Creation::from_ticks(now) }
    }

    /// Until when a daemon that renews now counts as alive.
    fn alive_until(&self, now: Duration) -> Option<Duration> {
        self.shared.lease_ttl.map(|ttl| now + liveness(ttl))
    }

    /// Writes a lease where it is its own or absent, and extends it.
    fn keep_one(&self, registry: &mut Registry, lease: Lease, now: Duration) -> Renewal {
        let Registration { node, instance, .. } = &*lease.registration;
        let key = (instance.host.clone(), node.name.clone());
        if let Some(held) = registry.held(&key.0, &key.1) {
            let holder = &held.lease;
            if holder.token == lease.token {
                registry.extend(lease, self.expiry(now));
                return Renewal::Held;
            }
            if !holder.is_past_of(&lease, registry.daemons.contains_key(&holder.token.instance)) {
                return Renewal::Conflict { holder: holder.registration.instance.name.clone() };
            }
            let past = holder.token;
            registry.remove(&key.0, &key.1, past);
        }
        // What else was known of the name may be lost with it, so count on from the clock.
        registry.creations.spend(&key, self.creations_clock(now));
        registry.put(lease, self.expiry(now));
        self.tell(Change::Registered(key.1, key.0));
        Renewal::Held
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: Change) {
        // It fails when nobody watches.
        let _ = self.shared.changes.send(change);
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("lease_ttl", &self.shared.lease_ttl).finish_non_exhaustive()
    }
}

fn system_clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

impl Registry {
    fn held(&self, host: &HostId, name: &AliveName) -> Option<&Held> {
        self.names.get(name)?.iter().find(|held| held.host() == host)
    }

    fn keep_alive(&mut self, instance: &Arc<Instance>, until: Option<Duration>) {
        self.daemons.insert(instance.id, (Arc::clone(instance), until));
    }

    /// Writes a lease where nothing is.
    fn put(&mut self, lease: Lease, expires: Option<Duration>) {
        let name = lease.registration.node.name.clone();
        if let Some(expires) = expires {
            let host = lease.registration.instance.host.clone();
            self.expiries.insert((expires, lease.token), (host, name.clone()));
        }
        let holders = self.names.entry(name).or_insert_with(|| Vec::with_capacity(1));
        holders.push(Held { lease, expires });
    }

    /// Writes a lease over itself, and lets it run for longer.
    fn extend(&mut self, lease: Lease, expires: Option<Duration>) {
        let Registration { node, instance, .. } = &*lease.registration;
        let mut holders = self.names.get_mut(&node.name).into_iter().flatten();
        let Some(held) = holders.find(|held| held.lease.token == lease.token) else { return };
        let old = std::mem::replace(&mut held.expires, expires);
        if let (Some(old), Some(new)) = (old, expires) {
            self.expiries.remove(&(old, lease.token));
            self.expiries.insert((new, lease.token), (instance.host.clone(), node.name.clone()));
        }
        held.lease = lease;
    }

    /// Removes the registration that `token` proves, and no other.
    fn remove(&mut self, host: &HostId, name: &AliveName, token: LeaseToken) -> Option<Held> {
        let holders = self.names.get_mut(name)?;
        let at = holders.iter().position(|held| held.host() == host && held.lease.token == token)?;
        let held = holders.swap_remove(at);
        if holders.is_empty() {
            self.names.remove(name);
        }
        if let Some(expires) = held.expires {
            self.expiries.remove(&(expires, token));
        }
        self.creations.spend(&(host.clone(), name.clone()), held.lease.creation());
        Some(held)
    }
}

impl Held {
    fn found(&self, now: Duration) -> Found {
        let registration = Arc::clone(&self.lease.registration);
        Found { registration, left: self.expires.map(|expires| expires.saturating_sub(now)) }
    }

    fn host(&self) -> &HostId {
        &self.lease.registration.instance.host
    }
}

impl Handle {
    fn instance(&self) -> MutexGuard<'_, Arc<Instance>> {
        self.instance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is the daemon's own or absent, and extends it.
    fn keep(&self, leases: Vec<Lease>) -> Vec<Renewed> {
        let Self { memory, .. } = self;
        let (mut registry, now) = memory.current();
        registry.keep_alive(&self.instance(), memory.alive_until(now));
        let mut renewed = Vec::with_capacity(leases.len());
        for lease in leases {
            let renewal = memory.keep_one(&mut registry, lease.clone(), now);
            renewed.push(Renewed { lease, renewal });
        }
        renewed
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryBackend for Handle {
    fn promises(&self) -> Promises {
        self.memory.shared.lease_ttl.map_or(Promises::LOCAL, Promises::leases)
    }

    fn update(&self, instance: Arc<Instance>) {
        *self.instance() = instance;
    }

    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        let Self { memory, .. } = self;
        let (node, instance) = (&claim.node, Arc::clone(&self.instance()));
        let (mut registry, now) = memory.current();
        registry.keep_alive(&instance, memory.alive_until(now));
        if let Some(held) = registry.held(&instance.host, &node.name) {
            if held.lease.token == claim.token(instance.id) {
                return Ok(held.lease.clone());
            }
            let holder = &held.lease.registration.instance;
            let is_late = holder.id == instance.id && claim.number < held.lease.token.number;
            let is_anothers = holder.name != instance.name && registry.daemons.contains_key(&holder.id);
            if is_late || is_anothers {
                let name = held.lease.registration.node_name();
                return Err(BackendError::NameTaken { name, holder: holder.name.clone() });
            }
            let token = held.lease.token;
            registry.remove(&instance.host, &node.name, token);
        }
        let key = (instance.host.clone(), node.name.clone());
        let clock = memory.creations_clock(now);
        let lease = claim.granted(instance, registry.creations.next(&key, claim.last, clock));
        registry.put(lease.clone(), memory.expiry(now));
        memory.tell(Change::Registered(key.1, key.0));
        Ok(lease)
    }

    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        Ok(self.keep(held.take(RENEWALS_MAX)))
    }

    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        Ok(self.keep(leases.to_vec()))
    }

    async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        let Registration { node, instance, .. } = &*lease.registration;
        if self.memory.current().0.remove(&instance.host, &node.name, lease.token).is_some() {
            self.memory.tell(Change::Released(node.name.clone(), instance.host.clone()));
        }
        Ok(())
    }

    async fn retire(&self) -> Result<(), BackendError> {
        let id = self.instance().id;
        let (mut registry, _) = self.memory.current();
        registry.daemons.remove(&id);
        registry.notes.remove(&id);
        Ok(())
    }

    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        let (registry, now) = self.memory.current();
        let holders = registry.names.get(search.name).map(Vec::as_slice).unwrap_or_default();
        let covered = holders.iter().filter(|held| search.scope.covers(&held.lease.registration.instance));
        let mut covered: Vec<_> = covered.collect();
        let first = match search.scope {
            Scope::Host(host) => host,
            Scope::Cluster => search.near,
        };
        covered.sort_by_key(|held| held.host() != first);
        covered.truncate(search.most);
        Ok(covered.into_iter().map(|held| held.found(now)).collect::<Vec<_>>().into())
    }

    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        let (registry, now) = self.memory.current();
        let held = registry.names.values().flatten();
        let covered = held.filter(|held| scope.covers(&held.lease.registration.instance));
        Ok(covered.map(|held| held.found(now)).collect::<Vec<_>>().into())
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        let (registry, _) = self.memory.current();
        let daemons = registry.daemons.values().map(|(instance, _)| instance);
        Ok(daemons.filter(|instance| scope.covers(instance)).cloned().collect::<Vec<_>>().into())
    }

    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        let id = self.instance().id;
        let (mut registry, now) = self.memory.current();
        let until = self.memory.alive_until(now);
        registry.notes.insert(id, (note.into(), until));
        Ok(())
    }

    async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        let (registry, _) = self.memory.current();
        let living = registry.notes.iter().filter(|(id, _)| registry.daemons.contains_key(id));
        let notes = living.map(|(id, (text, _))| Note { instance: *id, text: text.clone() });
        Ok(notes.collect::<Vec<_>>().into())
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        Box::pin(stream::unfold(self.memory.shared.changes.subscribe(), |mut changes| async {
            match changes.recv().await {
                Ok(change) => Some((change, changes)),
                Err(RecvError::Lagged(_)) => Some((Change::Missed, changes)),
                Err(RecvError::Closed) => None,
            }
        }))
    }

    fn local_address(&self) -> Option<IpAddr> {
        None
    }
}
