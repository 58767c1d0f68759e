//! What this daemon holds in the store: taken for a node, let go with it, left to the next run, and taken over from the
//! last one. [`keeper`](super::keeper) keeps it alive there.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use repmd_backend_api::{
    AliveName, BackendError, Claim, Lease, LeaseToken, Node, Registration, RegistryBackend,
};
use tracing::warn;

use super::events::Events;
use super::leases::{Leases, State};
use super::past::{CarriedPast, Past};
use super::store::Store;

/// A node is refused, because another daemon of this host holds its name.
#[derive(Debug, thiserror::Error)]
#[error("{name} is registered by {holder}")]
pub struct Taken {
    /// The name, with this host.
    pub name: String,
    /// The instance name of the daemon that holds it.
    pub holder: String,
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

/// The registrations of this daemon's nodes, and of those that it had.
#[derive(Debug)]
pub(super) struct Holding {
    store: Arc<Store>,
    pub(super) leases: Leases,
    /// What was let go, and the store is being told so.
    releasing: Mutex<BTreeMap<u64, Lease>>,
    past: Mutex<Past>,
    hands_over: AtomicBool,
}

impl Holding {
    pub(super) fn new(store: Arc<Store>, events: Arc<Events>) -> Self {
        Self {
            leases: Leases::new(events),
            releasing: Mutex::default(),
            past: Mutex::new(Past::new(store.me.id().0)),
            hands_over: AtomicBool::new(false),
            store,
        }
    }

    /// Registers a node whose connection is open, under the number of its claim. The store being slow or
    /// away refuses nobody: the node is accepted, and published later.
    pub(super) async fn register(
        &self,
        number: u64,
        node: Node,
        advertised_port: u16,
    ) -> Result<Lease, Taken> {
        let now = (self.store.options.clock)();
        let last = self.past().last_creation(&node.name);
        let instance = self.store.me.now();
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
        if !self.store.is_shared() {
            return;
        }
        // The daemon may have got other addresses while the store was asked.
        let registration = self.store.me.with_addresses_of_now(Arc::clone(&lease.registration));
        let is_current = Arc::ptr_eq(&registration, &lease.registration);
        self.leases.hold(Lease { registration, ..lease.clone() }, is_published && is_current);
        if !is_current {
            self.store.nudge();
        }
    }

    /// Ends the registration of a node whose connection has ended.
    pub(super) async fn release(&self, lease: &Lease) {
        if self.hands_over.load(Ordering::Relaxed) {
            return;
        }
        let name = &lease.registration.node.name;
        if self.store.is_shared() {
            self.leases.let_go(lease);
            self.past().departed(name, lease.creation());
            self.releasing().insert(lease.token.number, lease.clone());
        } else {
            self.past().spent(name, lease.creation());
        }
        // If the store cannot be told, the registration ends with its lease: nobody renews it.
        let _ = self.store.ask("release", |backend| backend.release(lease)).await;
        if self.store.is_shared() {
            self.releasing().remove(&lease.token.number);
        }
    }

    /// Has others told of a node of an earlier run of this daemon, which nobody is connected for. `number`: of a claim.
    pub(super) fn adopt(&self, number: u64, registration: Arc<Registration>) -> Lease {
        let token = LeaseToken { instance: self.store.me.id(), number };
        let lease = Lease { token, registration };
        // No later life gets its creation.
        self.past().departed(&lease.registration.node.name, lease.creation());
        self.hold(&lease, false);
        self.store.nudge();
        lease
    }

    /// Renews the lease no longer, because a later one has taken its place.
    pub(super) fn forget(&self, lease: &Lease) {
        self.leases.let_go(lease);
    }

    /// What [`Holding::resume`] goes on from.
    pub(super) fn carried(&self) -> Carried {
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
    pub(super) async fn resume(&self, nodes: Vec<(u64, Arc<Registration>)>, carried: Carried) {
        let Carried { renewed, releasing, past } = carried;
        self.past().resume(past);
        let lease = |(number, registration): (u64, Arc<Registration>)| Lease {
            token: LeaseToken { instance: registration.instance.id, number },
            registration,
        };
        let leases: Vec<_> = nodes.into_iter().map(lease).collect();
        if !self.store.is_shared() {
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
    pub(super) async fn release_the_rest(&self) {
        let left: Vec<_> = self.releasing().values().cloned().collect();
        for lease in left {
            let _ = self.store.ask("release", |backend| backend.release(&lease)).await;
            self.releasing().remove(&lease.token.number);
        }
    }

    /// The daemon ends, and its nodes live on: what it holds is left for its next run, which answers for
    /// them until they are back.
    pub(super) fn hand_over(&self) {
        self.hands_over.store(self.store.is_shared(), Ordering::Relaxed);
    }

    /// Tells the store that this run of the daemon is over.
    pub(super) async fn retire(&self) {
        if self.store.is_shared() {
            let _ = self.store.ask("retire", RegistryBackend::retire).await;
        }
    }

    /// Whether `name` has been held on this host of late.
    pub(super) fn had(&self, name: &AliveName) -> bool {
        self.past().had(name)
    }

    /// Other runs of daemons of this host have held these names of late.
    pub(super) fn were_here<'a>(&self, names: impl Iterator<Item = &'a AliveName>) {
        let mut past = self.past();
        names.for_each(|name| past.was_here(name));
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn releasing(&self) -> MutexGuard<'_, BTreeMap<u64, Lease>> {
        self.releasing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
