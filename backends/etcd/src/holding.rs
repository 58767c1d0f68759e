//! What this daemon has in the store: its leases, and the names that it has put on them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use repmd_backend_api::{AliveName, Instance, Lease, LeaseToken};
use tokio::time::Instant;

/// The leases of a daemon, as the store has granted them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leases {
    /// That of its names.
    pub(crate) names: i64,
    /// That by which it counts as alive.
    pub(crate) life: i64,
}

/// What a daemon knows of what it has in the store. It is never believed against the store: what is not certain is
/// looked at again, see [`Holding::is_unsure`].
#[derive(Debug)]
pub(crate) struct Holding {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    instance: Arc<Instance>,
    /// As which instance the daemon itself is written down, if it is.
    stands: Option<Arc<Instance>>,
    names: HashMap<AliveName, Held>,
    /// What was released since the last round but one began, by name: claims up to this one are over.
    released: HashMap<AliveName, (u64, u64)>,
    /// Calls that are under way for a name.
    under_way: HashMap<AliveName, usize>,
    round: u64,
    is_unsure: bool,
    /// Its leases, which were there when they were last asked for.
    leases: Option<Leases>,
    /// When that of the names was last known to begin anew.
    renewed: Instant,
}

/// A name that is on the lease.
#[derive(Clone, Debug)]
struct Held {
    token: LeaseToken,
    /// As which instance its daemon is written down there.
    instance: Arc<Instance>,
    /// Which revision it was written in; `None`: it has to be looked at.
    revision: Option<i64>,
    /// The last round that knew of it.
    round: u64,
}

/// A name that the store has and the daemon does not hold.
#[derive(Clone, Debug)]
pub(crate) struct LeftOut {
    pub(crate) name: AliveName,
    pub(crate) token: Option<LeaseToken>,
}

impl Holding {
    pub(crate) fn new(instance: Arc<Instance>) -> Self {
        let state = State {
            instance,
            stands: None,
            names: HashMap::new(),
            released: HashMap::new(),
            under_way: HashMap::new(),
            round: 0,
            is_unsure: false,
            leases: None,
            renewed: Instant::now(),
        };
        Self { state: Mutex::new(state) }
    }

    pub(crate) fn instance(&self) -> Arc<Instance> {
        Arc::clone(&self.state().instance)
    }

    pub(crate) fn update(&self, instance: Arc<Instance>) {
        self.state().instance = instance;
    }

    /// Whether the daemon itself is written down as it is now.
    pub(crate) fn stands(&self) -> bool {
        let state = self.state();
        state.stands.as_ref().is_some_and(|stands| *stands == state.instance)
    }

    /// The aliases under which its host was last written down.
    pub(crate) fn written(&self) -> Option<Arc<Instance>> {
        self.state().stands.clone()
    }

    /// From now on the daemon is written down as `instance`; `None`: no longer, or nobody knows.
    pub(crate) fn set_standing(&self, instance: Option<Arc<Instance>>) {
        self.state().stands = instance;
    }

    /// All that is known of the store may be wrong.
    pub(crate) fn doubt(&self) {
        let mut state = self.state();
        state.is_unsure = true;
        for held in state.names.values_mut() {
            held.revision = None;
        }
    }

    /// Whether the store may have names of this daemon that it does not know of, or has lost some.
    pub(crate) fn is_unsure(&self) -> bool {
        self.state().is_unsure
    }

    /// Everything was looked at.
    pub(crate) fn trust(&self) {
        self.state().is_unsure = false;
    }

    /// Its leases, which were there when they were last asked for.
    pub(crate) fn leases(&self) -> Option<Leases> {
        self.state().leases
    }

    /// From now on it has these, which began at `at` or later. What was on its last ones is no longer kept.
    pub(crate) fn set_leases(&self, leases: Leases, at: Instant) {
        self.doubt();
        let mut state = self.state();
        (state.leases, state.renewed) = (Some(leases), at);
    }

    /// Its leases are over.
    pub(crate) fn lose_leases(&self) {
        self.state().leases = None;
    }

    /// Its leases began anew, at `at` or later.
    pub(crate) fn set_renewed(&self, at: Instant) {
        self.state().renewed = at;
    }

    /// When `lease` began anew, if it is that of the names.
    pub(crate) fn renewed(&self, lease: i64) -> Option<Instant> {
        let state = self.state();
        state.leases.is_some_and(|leases| leases.names == lease).then_some(state.renewed)
    }

    /// A call for `name` is under way until what this returns is dropped.
    pub(crate) fn under_way<'a>(&'a self, name: &AliveName) -> UnderWay<'a> {
        *self.state().under_way.entry(name.clone()).or_default() += 1;
        UnderWay { holding: self, name: name.clone(), is_done: false }
    }

    /// The lease is in the store, as it was written in `revision`.
    pub(crate) fn hold(&self, lease: &Lease, instance: Arc<Instance>, revision: Option<i64>) {
        let mut state = self.state();
        let round = state.round;
        let held = Held { token: lease.token, instance, revision, round };
        state.names.insert(lease.registration.node.name.clone(), held);
    }

    /// What there is under the name is not this daemon's.
    pub(crate) fn drop_name(&self, name: &AliveName, token: Option<LeaseToken>) {
        let mut state = self.state();
        if state.names.get(name).is_some_and(|held| token.is_none_or(|token| held.token == token)) {
            state.names.remove(name);
        }
    }

    /// In which revision the lease was written, if that is certain.
    pub(crate) fn revision(&self, lease: &Lease) -> Option<i64> {
        let state = self.state();
        state.names.get(&lease.registration.node.name).filter(|held| held.token == lease.token)?.revision
    }

    /// The lease is released, whatever comes of calls that are still under way.
    pub(crate) fn release(&self, lease: &Lease) {
        let mut state = self.state();
        let round = state.round;
        let over = (lease.token.number, round);
        let released = state.released.entry(lease.registration.node.name.clone()).or_insert(over);
        *released = (released.0.max(over.0), round);
    }

    /// Whether the lease was released while a call for it was under way.
    pub(crate) fn is_released(&self, lease: &Lease) -> bool {
        let state = self.state();
        let released = state.released.get(&lease.registration.node.name);
        released.is_some_and(|(number, _)| lease.token.number <= *number)
    }

    /// A round of renewals begins.
    pub(crate) fn begin_round(&self) {
        let mut state = self.state();
        state.round += 1;
        let round = state.round;
        state.released.retain(|_, (_, of)| round <= *of + 2);
    }

    /// The round knows of this lease. Whether it has to be written, or looked at.
    pub(crate) fn keep(&self, lease: &Lease) -> bool {
        let mut state = self.state();
        let (round, instance) = (state.round, Arc::clone(&state.instance));
        let Some(held) = state.names.get_mut(&lease.registration.node.name) else { return true };
        held.round = round;
        held.token != lease.token || held.revision.is_none() || held.instance != instance
    }

    /// What the round did not know of, and no call is under way for.
    pub(crate) fn left_out(&self) -> Vec<LeftOut> {
        let state = self.state();
        let is_left_out =
            |name: &AliveName, held: &Held| held.round < state.round && !state.under_way.contains_key(name);
        let left_out = state.names.iter().filter(|(name, held)| is_left_out(name, held));
        left_out.map(|(name, held)| LeftOut { name: name.clone(), token: Some(held.token) }).collect()
    }

    /// Names that are on the lease in the store: those that are not known here are left out.
    pub(crate) fn strangers(&self, names: impl Iterator<Item = AliveName>) -> Vec<LeftOut> {
        let state = self.state();
        let unknown =
            |name: &AliveName| !state.names.contains_key(name) && !state.under_way.contains_key(name);
        names.filter(unknown).map(|name| LeftOut { name, token: None }).collect()
    }

    /// Something was written under the name on this lease, or it was deleted, in `revision`.
    pub(crate) fn hear(&self, name: &AliveName, revision: i64, lease: i64) {
        let mut state = self.state();
        let is_ours = state.leases.is_some_and(|leases| leases.names == lease);
        let is_stray = is_ours && !state.under_way.contains_key(name);
        match state.names.get_mut(name) {
            Some(held) => {
                if held.revision.is_some_and(|known| known < revision) {
                    held.revision = None;
                }
            }
            // What it is, the next round finds out.
            None => state.is_unsure |= is_stray,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call for a name, while it lasts.
pub(crate) struct UnderWay<'a> {
    holding: &'a Holding,
    name: AliveName,
    is_done: bool,
}

impl UnderWay<'_> {
    /// It is known what came of it. Otherwise the next round finds out.
    pub(crate) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.holding.state();
        state.is_unsure |= !self.is_done;
        if let Some(count) = state.under_way.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                state.under_way.remove(&self.name);
            }
        }
    }
}
