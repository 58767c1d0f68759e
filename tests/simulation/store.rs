//! The store of the simulation: the reference registry, and entries in it that not everybody can read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use repmd_backend_api::{
    AliveName, BackendError, Change, Claim, Creation, Found, Holdings, HostId, Instance, InstanceId, Lease,
    Note, Promises, Registration, RegistryBackend, Renewal, Renewed, Scope, Search, Seen,
};
use repmd_backend_memory::{Handle, Memory};
use tokio::time::Instant;

/// Where a registration stands.
pub(crate) type Key = (HostId, AliveName);

pub(crate) struct Store {
    memory: Memory,
    /// A handle of nobody who ever calls as a daemon.
    pub(crate) seen: Handle,
    entries: Mutex<Entries>,
    rules: Rules,
}

/// The rules of the contract, and of daemons, that can be taken out, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// A renewal takes what a daemon itself left behind for no other owner.
    pub(crate) own_past: bool,
    /// Neither a claim nor a renewal takes a name from another daemon that counts as alive.
    pub(crate) owner_test: bool,
    /// A release ends the lease of its own token alone.
    pub(crate) token_test: bool,
    /// A list shows what earlier runs of the daemon left behind as theirs, so that it can leave that out.
    pub(crate) past_is_known: bool,
    /// A change is told.
    pub(crate) tells_changes: bool,
}

impl Rules {
    pub(crate) const ALL: Self =
        Self { own_past: true, owner_test: true, token_test: true, past_is_known: true, tells_changes: true };
}

#[derive(Default)]
struct Entries {
    /// Who wrote last, in which version's format.
    written: BTreeMap<Key, (Lease, u8)>,
    daemons: BTreeMap<InstanceId, u8>,
    /// Where something stands that nobody can read.
    foreign: BTreeSet<Key>,
    /// When somebody last met an entry there that it could not read.
    met: BTreeMap<Key, Instant>,
}

impl Store {
    pub(crate) fn new(memory: Memory, rules: Rules) -> Self {
        let nobody = Instance {
            id: InstanceId(0),
            name: String::new(),
            host: HostId::parse("nobody").unwrap(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            port: 0,
        };
        let seen = memory.attach(Arc::new(nobody));
        Self { memory, seen, entries: Mutex::default(), rules }
    }

    pub(crate) fn lose_everything(&self) {
        self.memory.lose_everything();
        *self.entries() = Entries::default();
    }

    /// Somebody else writes over a registration, or where one would be. Returns what was there.
    pub(crate) async fn write_over(&self, key: Key) -> Option<Lease> {
        let held = self.entries().written.remove(&key).map(|(lease, _)| lease);
        if let Some(lease) = &held {
            self.seen.release(lease).await.unwrap();
        }
        let mut entries = self.entries();
        entries.met.insert(key.clone(), Instant::now());
        entries.foreign.insert(key);
        held
    }

    /// The changes that somebody hears of who is never cut off.
    pub(crate) fn watch(&self) -> BoxStream<'static, Change> {
        let tells = self.rules.tells_changes;
        let changes = self.seen.watch();
        Box::pin(changes.filter(move |change| {
            let is_told = match change {
                Change::Registered(name, _) => tells || name.as_str() != "db",
                Change::Released(..) | Change::Expired(..) | Change::Missed => true,
            };
            std::future::ready(is_told)
        }))
    }

    /// What others wrote is deleted.
    pub(crate) fn clear(&self) {
        let mut entries = self.entries();
        for key in std::mem::take(&mut entries.foreign) {
            entries.met.insert(key, Instant::now());
        }
    }

    /// When something that not everybody can read last stood there.
    pub(crate) fn last_unreadable(&self, key: &Key) -> Option<Instant> {
        let entries = self.entries();
        if entries.foreign.contains(key) { Some(Instant::now()) } else { entries.met.get(key).copied() }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap()
    }
}

/// The store as a daemon of one version sees it: entries of later versions it cannot read.
pub(crate) struct View {
    store: Arc<Store>,
    handle: Handle,
    version: Arc<AtomicU8>,
    of: Arc<Instance>,
}

impl View {
    pub(crate) fn new(store: &Arc<Store>, version: Arc<AtomicU8>, of: Arc<Instance>) -> Self {
        Self { store: Arc::clone(store), handle: store.memory.attach(Arc::clone(&of)), version, of }
    }

    fn version(&self) -> u8 {
        self.version.load(Ordering::Relaxed)
    }

    fn can_read(&self, registration: &Registration) -> bool {
        let key = (registration.instance.host.clone(), registration.node.name.clone());
        let mut entries = self.store.entries();
        let can_read = entries.written.get(&key).is_none_or(|(_, version)| *version <= self.version());
        if !can_read {
            entries.met.insert(key, Instant::now());
        }
        can_read
    }

    /// What holds a name now.
    async fn holder(&self, wanted: &Registration) -> Option<Arc<Registration>> {
        let (name, near) = (&wanted.node.name, &wanted.instance.host);
        let scope = Scope::Host(near.clone());
        let found = self.handle.find(&Search { name, scope: &scope, near, most: 1 }).await;
        found.unwrap().items.pop().map(|found| found.registration)
    }

    /// Whether an entry that cannot be read is in the way.
    async fn is_blocked(&self, wanted: &Registration) -> bool {
        let key = (wanted.instance.host.clone(), wanted.node.name.clone());
        if self.store.entries().foreign.contains(&key) {
            return true;
        }
        match self.holder(wanted).await {
            Some(holder) => holder.instance.id != wanted.instance.id && !self.can_read(&holder),
            None => false,
        }
    }

    /// Ends the lease on a name, whosever it is.
    async fn take_away(&self, wanted: &Registration) {
        let key = (wanted.instance.host.clone(), wanted.node.name.clone());
        let held = self.store.entries().written.get(&key).map(|(lease, _)| lease.clone());
        if let Some(lease) = held {
            self.handle.release(&lease).await.unwrap();
        }
    }

    fn wrote(&self, lease: &Lease) {
        let Registration { node, instance, .. } = &*lease.registration;
        let mut entries = self.store.entries();
        entries.written.insert((instance.host.clone(), node.name.clone()), (lease.clone(), self.version()));
    }

    fn readable(&self, seen: Seen<Found>, is_asked_for: impl Fn(&HostId, &AliveName) -> bool) -> Seen<Found> {
        let mut readable = Seen::default();
        for found in seen.items {
            let can_read = self.can_read(&found.registration);
            let at = || format!("node:{}", found.registration.node_name());
            readable.add(at, can_read.then(|| found.clone()).ok_or("of a later version"));
        }
        for (host, name) in &self.store.entries().foreign {
            if is_asked_for(host, name) {
                readable.add(|| format!("node:{name}@{host}"), Err("not ours"));
            }
        }
        readable
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View of version {}", self.version())
    }
}

fn covers(scope: &Scope, host: &HostId) -> bool {
    match scope {
        Scope::Host(asked) => asked == host,
        Scope::Cluster => true,
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryBackend for View {
    fn promises(&self) -> Promises {
        self.handle.promises()
    }

    fn update(&self, instance: Arc<Instance>) {
        self.handle.update(instance);
    }

    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        self.store.entries().daemons.insert(self.of.id, self.version());
        let wanted = claim.granted(Arc::clone(&self.of), Creation::FIRST).registration;
        if self.is_blocked(&wanted).await {
            self.handle.publish(&[]).await?;
            let key = format!("node:{}", wanted.node_name());
            return Err(BackendError::Corrupt { key, source: "cannot be read".into() });
        }
        if !self.store.rules.owner_test {
            self.take_away(&wanted).await;
        }
        let lease = self.handle.register(claim).await?;
        self.wrote(&lease);
        Ok(lease)
    }

    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        self.publish(&held.take(500)).await
    }

    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        self.store.entries().daemons.insert(self.of.id, self.version());
        self.handle.publish(&[]).await?;
        let mut all = Vec::new();
        for lease in leases {
            if self.is_blocked(&lease.registration).await {
                all.push(Renewed {
                    lease: lease.clone(),
                    renewal: Renewal::Failed { reason: "cannot be read".to_owned() },
                });
                continue;
            }
            if !self.store.rules.own_past {
                let holder = self.holder(&lease.registration).await;
                if let Some(holder) = holder.filter(|holder| *holder != lease.registration) {
                    let holder = holder.instance.name.clone();
                    all.push(Renewed { lease: lease.clone(), renewal: Renewal::Conflict { holder } });
                    continue;
                }
            }
            let renewed = self.handle.publish(std::slice::from_ref(lease)).await?;
            if renewed.iter().all(|renewed| renewed.renewal == Renewal::Held) {
                self.wrote(lease);
            }
            all.extend(renewed);
        }
        Ok(all)
    }

    async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        if !self.store.rules.token_test {
            self.take_away(&lease.registration).await;
        }
        self.handle.release(lease).await
    }

    async fn retire(&self) -> Result<(), BackendError> {
        self.handle.retire().await
    }

    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        let found = self.handle.find(search).await?;
        Ok(self.readable(found, |host, name| name == search.name && covers(search.scope, host)))
    }

    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        let mut found = self.handle.list(scope).await?;
        if !self.store.rules.past_is_known {
            for found in &mut found.items {
                let registration = Arc::make_mut(&mut found.registration);
                if registration.instance.name == self.of.name {
                    Arc::make_mut(&mut registration.instance).name += "?";
                }
            }
        }
        Ok(self.readable(found, |host, _| covers(scope, host)))
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        let mut readable = Seen::default();
        for daemon in self.handle.daemons(scope).await?.items {
            let version = self.store.entries().daemons.get(&daemon.id).copied().unwrap_or(1);
            let at = || format!("instance:{}", daemon.id);
            readable.add(
                at,
                (version <= self.version()).then(|| Arc::clone(&daemon)).ok_or("of a later version"),
            );
        }
        Ok(readable)
    }

    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        self.handle.leave_note(note).await
    }

    async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        self.handle.notes().await
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        self.handle.watch()
    }

    fn local_address(&self) -> Option<IpAddr> {
        None
    }
}
