//! The registrations that this daemon holds in a shared registry.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use repmd_backend_api::{Lease, Renewal};
use tracing::{error, info, warn};

/// Every lease whose node's connection is open, by the number of its claim.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<BTreeMap<u64, Held>>);

#[derive(Debug)]
struct Held {
    lease: Lease,
    state: State,
}

/// What is known of a lease in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Published,
    /// The node was accepted without the store, which knows nothing of it yet.
    Unpublished,
    /// Another daemon has the name: two nodes of one name live on this host.
    Conflict {
        holder: String,
    },
    /// The store refuses this one.
    Failed {
        reason: String,
    },
}

/// Which leases to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    All,
    Unpublished,
}

impl Leases {
    pub(super) fn hold(&self, lease: Lease, is_published: bool) {
        let state = if is_published { State::Published } else { State::Unpublished };
        self.lock().insert(lease.token.number, Held { lease, state });
    }

    pub(super) fn let_go(&self, lease: &Lease) {
        self.lock().remove(&lease.token.number);
    }

    /// The leases to renew, oldest first.
    pub(super) fn due(&self, which: Which) -> Vec<Lease> {
        let held = self.lock();
        let due = held.values().filter(|held| which == Which::All || held.state == State::Unpublished);
        due.map(|held| held.lease.clone()).collect()
    }

    /// Leaves only the leases that are still held.
    pub(super) fn keep_held(&self, leases: &mut Vec<Lease>) {
        let held = self.lock();
        leases.retain(|lease| held.contains_key(&lease.token.number));
    }

    /// Takes note of what became of `leases`, in their order. Returns those that were let go meanwhile:
    /// their renewal may have brought them back.
    pub(super) fn note(&self, leases: &[Lease], renewals: Vec<Renewal>) -> Vec<Lease> {
        let mut held = self.lock();
        let mut gone = Vec::new();
        for (lease, renewal) in leases.iter().zip(renewals) {
            let Some(held) = held.get_mut(&lease.token.number) else {
                gone.push(lease.clone());
                continue;
            };
            let state = match renewal {
                Renewal::Held => State::Published,
                Renewal::Conflict { holder } => State::Conflict { holder },
                Renewal::Failed { reason } => State::Failed { reason },
            };
            if held.state != state {
                tell(lease, &held.state, &state);
                held.state = state;
            }
        }
        gone
    }

    /// What is wrong, in words for an operator; empty when every lease is published.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut unpublished = 0;
        for Held { lease, state } in self.lock().values() {
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
            complaints.push(format!("{unpublished} names are not published yet"));
        }
        complaints
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs a change once, not at each renewal.
fn tell(lease: &Lease, before: &State, now: &State) {
    let name = lease.registration.node_name();
    match now {
        State::Published => info!(%name, was = ?before, "published"),
        State::Unpublished => {}
        State::Conflict { holder } => {
            warn!(%name, holder, "conflict: another daemon of this host holds the name; both nodes live on");
        }
        State::Failed { reason } => error!(%name, reason, "cannot be published"),
    }
}
