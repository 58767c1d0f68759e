//! The registrations that this daemon holds in a shared registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use repmd_backend_api::{AliveName, Instance, Lease, Registration, Renewal, Renewed};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::events::{Events, What};

/// Every lease whose node's connection is open, by the number of its claim.
#[derive(Debug)]
pub(super) struct Leases {
    held: Mutex<BTreeMap<u64, Held>>,
    events: Arc<Events>,
}

/// A registration that this daemon holds in a shared registry.
#[derive(Clone, Debug)]
pub struct Held {
    /// What it holds.
    pub lease: Lease,
    /// What is known of it in the store.
    pub state: State,
    /// When the store was last asked to keep it, if it did.
    pub renewed: Option<Instant>,
}

/// What is known of a lease in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The store keeps it.
    Published,
    /// The store knows nothing of it: the node was accepted without the store, or has not been renewed for a TTL.
    Unpublished,
    /// Another daemon has the name: two nodes of one name live on this host.
    Conflict {
        /// The other daemon.
        holder: String,
    },
    /// The store refuses this one.
    Failed {
        /// What it says.
        reason: String,
    },
}

/// How many leases are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// In any.
    pub all: usize,
    /// See [`State::Unpublished`].
    pub unpublished: usize,
    /// See [`State::Conflict`].
    pub conflict: usize,
    /// See [`State::Failed`].
    pub failed: usize,
}

impl Leases {
    pub(super) fn new(events: Arc<Events>) -> Self {
        Self { held: Mutex::default(), events }
    }

    pub(super) fn hold(&self, lease: Lease, is_published: bool) {
        let state = if is_published { State::Published } else { State::Unpublished };
        let renewed = is_published.then(Instant::now);
        self.lock().insert(lease.token.number, Held { lease, state, renewed });
    }

    /// Goes on holding what the program or the run before held. `renewed`: how long ago that was, if the store had it.
    pub(super) fn resume(&self, lease: Lease, renewed: Option<Duration>) {
        let renewed = renewed.and_then(|ago| Instant::now().checked_sub(ago));
        let state = if renewed.is_some() { State::Published } else { State::Unpublished };
        self.lock().insert(lease.token.number, Held { lease, state, renewed });
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> Vec<Held> {
        self.lock().values().cloned().collect()
    }

    /// How many there are in each state that is not [`State::Published`], and how many in all.
    pub(super) fn counts(&self) -> LeaseCounts {
        let held = self.lock();
        let mut counts = LeaseCounts { all: held.len(), ..LeaseCounts::default() };
        for Held { state, .. } in held.values() {
            match state {
                State::Published => {}
                State::Unpublished => counts.unpublished += 1,
                State::Conflict { .. } => counts.conflict += 1,
                State::Failed { .. } => counts.failed += 1,
            }
        }
        counts
    }

    pub(super) fn let_go(&self, lease: &Lease) {
        self.lock().remove(&lease.token.number);
    }

    /// Whether one of them is on `name`, which was registered just now.
    pub(super) fn has(&self, name: &AliveName) -> bool {
        self.lock().values().rev().any(|held| held.lease.registration.node.name == *name)
    }

    /// The numbers of all of them, oldest first.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.lock().keys().copied().collect()
    }

    /// The numbers of those of which the store knows nothing.
    pub(super) fn unpublished(&self) -> Vec<u64> {
        let held = self.lock();
        let unpublished = held.iter().filter(|(_, held)| held.state == State::Unpublished);
        unpublished.map(|(number, _)| *number).collect()
    }

    /// The lease of a number, while it is held.
    pub(super) fn get(&self, number: u64) -> Option<Lease> {
        self.lock().get(&number).map(|held| held.lease.clone())
    }

    /// From now on, `instance` holds all of them: the same daemon at other addresses.
    pub(super) fn hold_as(&self, instance: &Arc<Instance>) {
        for Held { lease, .. } in self.lock().values_mut() {
            let registration =
                Registration { instance: Arc::clone(instance), ..(*lease.registration).clone() };
            lease.registration = Arc::new(registration);
        }
    }

    /// Takes note of what became of leases for which the store was asked at `asked`. Returns those that were let go
    /// meanwhile: their renewal may have brought them back.
    pub(super) fn note(&self, renewed: Vec<Renewed>, asked: Instant) -> Vec<Lease> {
        let mut held = self.lock();
        let mut gone = Vec::new();
        for Renewed { lease, renewal } in renewed {
            let Some(held) = held.get_mut(&lease.token.number) else {
                gone.push(lease);
                continue;
            };
            let state = match renewal {
                Renewal::Held => State::Published,
                Renewal::Conflict { holder } => State::Conflict { holder },
                Renewal::Failed { reason } => State::Failed { reason },
            };
            // That the store is back is told for all at once.
            let is_back = held.state == State::Unpublished && held.renewed.is_some();
            if state == State::Published {
                held.renewed = Some(asked);
            }
            if held.state != state && !(is_back && state == State::Published) {
                self.tell(&held.lease, &held.state, &state);
            }
            held.state = state;
        }
        gone
    }

    /// Counts those as unpublished that could not be renewed for `lease_ttl`: the store has forgotten them.
    pub(super) fn end_those_that_ran_out(&self, lease_ttl: Duration) {
        for held in self.lock().values_mut() {
            let is_over = held.renewed.is_some_and(|renewed| lease_ttl <= renewed.elapsed());
            if held.state == State::Published && is_over {
                held.state = State::Unpublished;
            }
        }
    }

    /// What is wrong, in words for an operator; empty when every lease is published.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut unpublished = 0;
        for Held { lease, state, .. } in self.lock().values() {
            let name = || lease.registration.node_name();
            match state {
                State::Published => {}
                State::Unpublished => unpublished += 1,
                State::Conflict { holder } => {
                    complaints.push(format!("{} is also held by {holder}", name()));
                }
                State::Failed { reason } => {
                    complaints.push(format!("{} cannot be published: {reason}", name()));
                }
            }
        }
        if 0 < unpublished {
            complaints.push(format!("{unpublished} names are not published"));
        }
        complaints
    }

    /// Tells of a change once, not at each renewal.
    fn tell(&self, lease: &Lease, before: &State, now: &State) {
        let name = lease.registration.node_name();
        match now {
            State::Published => info!(%name, was = ?before, "published"),
            State::Unpublished => {}
            State::Conflict { holder } => {
                warn!(%name, holder, "conflict: another daemon of this host holds the name; both nodes live on");
                self.events.tell(What::Conflict { node: name, holder: holder.clone() });
            }
            State::Failed { reason } => error!(%name, reason, "cannot be published"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
