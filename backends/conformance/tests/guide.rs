//! The backend of `docs/backends.md`, which quotes this file: a store that could hardly be simpler, with the
//! suite as its judge. Its time is real time.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use repmd_backend_api::{
    AliveName, BackendError, Change, Claim, Creation, Creations, Found, Holdings, HostId, Instance, Lease,
    Note, Promises, Registration, RegistryBackend, Renewal, Renewed, Scope, Search, Seen, liveness,
};
use repmd_backend_conformance::{Fixture, backend_conformance};
use tokio::sync::broadcast;

/// What the daemons share. A database, where yours has one.
#[derive(Debug)]
struct Store {
    rows: Mutex<Rows>,
    changes: broadcast::Sender<Change>,
}

#[derive(Debug, Default)]
struct Rows {
    held: Vec<(Lease, Instant)>,
    daemons: Vec<(Arc<Instance>, Instant)>,
    notes: Vec<(Note, Instant)>,
    creations: Creations<(HostId, AliveName)>,
}

/// One daemon's handle.
#[derive(Debug)]
struct Shelf {
    store: Arc<Store>,
    instance: Mutex<Arc<Instance>>,
    lease_ttl: Duration,
}

fn key(registration: &Registration) -> (HostId, AliveName) {
    (registration.instance.host.clone(), registration.node.name.clone())
}

impl Shelf {
    /// One atomic step: nobody else's comes between what it reads and what it writes.
    fn step(&self) -> MutexGuard<'_, Rows> {
        let mut rows = self.store.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let ended: Vec<_> = rows.held.extract_if(.., |(_, until)| *until <= now).collect();
        for (lease, _) in ended {
            rows.creations.spend(&key(&lease.registration), lease.creation());
        }
        rows.daemons.retain(|(_, until)| now < *until);
        rows.notes.retain(|(_, until)| now < *until);
        rows
    }

    fn instance(&self) -> Arc<Instance> {
        Arc::clone(&self.instance.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts the daemon as alive from now on.
    fn keep_alive(&self, rows: &mut Rows) -> Arc<Instance> {
        let instance = self.instance();
        rows.daemons.retain(|(daemon, _)| daemon.id != instance.id);
        rows.daemons.push((Arc::clone(&instance), Instant::now() + liveness(self.lease_ttl)));
        instance
    }

    /// Writes a lease where it is absent or its own, and extends it.
    fn keep(&self, rows: &mut Rows, lease: &Lease) -> Renewal {
        let until = Instant::now() + self.lease_ttl;
        if let Some(at) = rows.position(&key(&lease.registration)) {
            let held = &rows.held[at].0;
            if held.token == lease.token {
                rows.held[at] = (lease.clone(), until);
                return Renewal::Held;
            }
            let holder = &held.registration.instance;
            if !held.is_past_of(lease, rows.is_alive(holder)) {
                return Renewal::Conflict { holder: holder.name.clone() };
            }
            // What this daemon itself left there is no other owner.
            rows.remove(at);
        }
        // Absent: the store lost it, or it ran out, or it was granted without the store.
        rows.held.push((lease.clone(), until));
        let (host, name) = key(&lease.registration);
        self.tell(Change::Registered(name, host));
        Renewal::Held
    }

    fn tell(&self, change: Change) {
        // It fails when nobody watches.
        let _ = self.store.changes.send(change);
    }
}

impl Rows {
    fn position(&self, name: &(HostId, AliveName)) -> Option<usize> {
        self.held.iter().position(|(lease, _)| key(&lease.registration) == *name)
    }

    fn is_alive(&self, instance: &Instance) -> bool {
        self.daemons.iter().any(|(daemon, _)| daemon.id == instance.id)
    }

    fn remove(&mut self, at: usize) {
        let (lease, _) = self.held.remove(at);
        self.creations.spend(&key(&lease.registration), lease.creation());
    }

    fn within(&self, scope: &Scope) -> impl Iterator<Item = Found> {
        let covered = self.held.iter().filter(|(lease, _)| scope.covers(&lease.registration.instance));
        covered.map(|(lease, until)| Found {
            registration: Arc::clone(&lease.registration),
            left: Some(until.saturating_duration_since(Instant::now())),
        })
    }
}

#[async_trait]
impl RegistryBackend for Shelf {
    fn promises(&self) -> Promises {
        Promises::leases(self.lease_ttl)
    }

    fn update(&self, instance: Arc<Instance>) {
        *self.instance.lock().unwrap_or_else(PoisonError::into_inner) = instance;
    }

    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        let mut rows = self.step();
        let instance = self.keep_alive(&mut rows);
        let name = (instance.host.clone(), claim.node.name.clone());
        if let Some(at) = rows.position(&name) {
            let lease = &rows.held[at].0;
            // The answer to this claim was lost, and the daemon asks again.
            if lease.token == claim.token(instance.id) {
                return Ok(lease.clone());
            }
            // Only another daemon that is alive keeps a name. An earlier run of this one does not, unless
            // this claim comes late, after a newer one of the same run.
            let holder = &lease.registration.instance;
            let is_late = holder.id == instance.id && claim.number < lease.token.number;
            if is_late || holder.name != instance.name && rows.is_alive(holder) {
                let (name, holder) = (lease.registration.node_name(), holder.name.clone());
                return Err(BackendError::NameTaken { name, holder });
            }
            rows.remove(at);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let creation = rows.creations.next(&name, claim.last, Creation::from_ticks(now));
        let lease = claim.granted(instance, creation);
        rows.held.push((lease.clone(), Instant::now() + self.lease_ttl));
        self.tell(Change::Registered(name.1, name.0));
        Ok(lease)
    }

    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        self.publish(&held.take(100)).await
    }

    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        let mut rows = self.step();
        self.keep_alive(&mut rows);
        let mut keep = |lease: &Lease| Renewed { lease: lease.clone(), renewal: self.keep(&mut rows, lease) };
        Ok(leases.iter().map(&mut keep).collect())
    }

    async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        let mut rows = self.step();
        if let Some(at) = rows.held.iter().position(|(held, _)| held.token == lease.token) {
            rows.remove(at);
            let (host, name) = key(&lease.registration);
            self.tell(Change::Released(name, host));
        }
        Ok(())
    }

    async fn retire(&self) -> Result<(), BackendError> {
        let (mut rows, id) = (self.step(), self.instance().id);
        rows.daemons.retain(|(daemon, _)| daemon.id != id);
        rows.notes.retain(|(note, _)| note.instance != id);
        Ok(())
    }

    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        let rows = self.step();
        let named = rows.within(search.scope).filter(|found| found.registration.node.name == *search.name);
        let first = if let Scope::Host(host) = search.scope { host } else { search.near };
        let mut named: Vec<_> = named.collect();
        named.sort_by_key(|found| found.registration.instance.host != *first);
        named.truncate(search.most);
        Ok(named.into())
    }

    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        Ok(self.step().within(scope).collect::<Vec<_>>().into())
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        let rows = self.step();
        let daemons = rows.daemons.iter().map(|(instance, _)| instance);
        Ok(daemons.filter(|instance| scope.covers(instance)).cloned().collect::<Vec<_>>().into())
    }

    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        let (mut rows, id) = (self.step(), self.instance().id);
        rows.notes.retain(|(note, _)| note.instance != id);
        let until = Instant::now() + liveness(self.lease_ttl);
        rows.notes.push((Note { instance: id, text: note.into() }, until));
        Ok(())
    }

    async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        let rows = self.step();
        let lives = |note: &Note| rows.daemons.iter().any(|(daemon, _)| daemon.id == note.instance);
        let notes = rows.notes.iter().map(|(note, _)| note).filter(|note| lives(note));
        Ok(notes.cloned().collect::<Vec<_>>().into())
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        let changes = stream::unfold(self.store.changes.subscribe(), |mut changes| async {
            Some((changes.recv().await, changes))
        });
        // Whoever is too slow learns that it missed some; the end of the store ends the stream.
        let ends = changes.take_while(|change| {
            let goes_on = !matches!(change, Err(broadcast::error::RecvError::Closed));
            std::future::ready(goes_on)
        });
        Box::pin(ends.map(|change| change.unwrap_or(Change::Missed)))
    }

    fn local_address(&self) -> Option<IpAddr> {
        None
    }
}

/// An empty store for one test.
struct Shelves {
    store: Arc<Store>,
    lease_ttl: Duration,
}

impl Fixture for Shelves {
    async fn open(&self, instance: Arc<Instance>) -> Arc<dyn RegistryBackend> {
        let (store, instance) = (Arc::clone(&self.store), Mutex::new(instance));
        Arc::new(Shelf { store, instance, lease_ttl: self.lease_ttl })
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn lose_everything(&self) {
        *self.store.rows.lock().unwrap_or_else(PoisonError::into_inner) = Rows::default();
    }
}

async fn fresh(lease_ttl: Duration) -> Shelves {
    let (changes, _) = broadcast::channel(1024);
    Shelves { store: Arc::new(Store { rows: Mutex::default(), changes }), lease_ttl }
}

backend_conformance!(fresh);

#[test]
fn the_guide_quotes_this_file() {
    let guide = include_str!("../../../docs/backends.md");
    let blocks: Vec<_> =
        guide.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(5 < blocks.len(), "only {} blocks of code", blocks.len());
    for block in blocks {
        assert!(include_str!("guide.rs").contains(block), "not in this file:\n{block}");
    }
}
