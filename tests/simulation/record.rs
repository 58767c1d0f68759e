//! What is written down of a world, for the checker of histories.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use repmd_backend_api::{
    BackendError, Change, Claim, Found, Holdings, Instance, Lease, LeaseToken, Note, Promises,
    RegistryBackend, Renewal, Renewed, Scope, Search, Seen,
};
use repmd_history::{Answer, Bounds, Call, History, Moment, NodeName, Outcome, Span, Told, Trouble, Verb};
use tokio::time::Instant;

use crate::world::{INTERVAL, TTL};

const BOUNDS: Bounds = Bounds {
    // A pause between two tries, and a deadline.
    settle: Duration::from_millis(1600),
    // The clock stands still while anybody does something.
    slack: Duration::from_millis(50),
    has_tables: false,
    ..Bounds::promised(TTL, INTERVAL)
};

/// A history that is being written.
#[derive(Clone)]
pub(crate) struct Recorder {
    started: Instant,
    history: Arc<Mutex<History>>,
}

impl Recorder {
    pub(crate) fn new(started: Instant) -> Self {
        Self { started, history: Arc::new(Mutex::new(History::new(BOUNDS))) }
    }

    pub(crate) fn now(&self) -> Moment {
        self.started.elapsed()
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }

    pub(crate) fn answered(&self, asker: usize, called: Moment, told: Told) {
        let asked = Span { called, returned: self.now() };
        self.history().answers.push(Answer { asker, asked, told });
    }

    /// Something is wrong between a daemon and the store from now on.
    pub(crate) fn trouble(&self, daemon: usize) {
        let from = self.now();
        let mut history = self.history();
        if !history.troubles.iter().any(|trouble| trouble.daemon == Some(daemon) && trouble.until.is_none()) {
            history.troubles.push(Trouble { daemon: Some(daemon), from, until: None, is_late: false });
        }
    }

    pub(crate) fn trouble_ends(&self, daemon: usize) {
        let until = Some(self.now());
        let mut history = self.history();
        let open = history
            .troubles
            .iter_mut()
            .find(|trouble| trouble.daemon == Some(daemon) && trouble.until.is_none());
        open.into_iter().for_each(|trouble| trouble.until = until);
    }

    /// How a registration came out, by its place in the history.
    pub(crate) fn came_out(&self, tenure: usize, outcome: Outcome) {
        let now = self.now();
        let mut history = self.history();
        history.tenures[tenure].outcome = outcome;
        history.tenures[tenure].asked.returned = now;
    }

    pub(crate) fn ended(&self, tenure: usize) {
        let now = self.now();
        let tenure = &mut self.history().tenures[tenure];
        tenure.asked.returned = tenure.asked.returned.min(now);
        tenure.ended = Some(Span::at(now));
    }

    /// A lease that somebody else has ended.
    pub(crate) fn written_over(&self, daemon: usize, lease: &Lease) {
        let now = self.now();
        let node = lease.registration.node_name().to_string();
        let (verb, token, asked, is_done) = (Verb::Release, lease.token, Span::at(now), Some(true));
        self.history().calls.push(Call { verb, node, token, daemon, asked, is_done });
    }
}

/// A store as one daemon sees it, of whose calls note is taken.
pub(crate) struct Recorded {
    pub(crate) inner: Arc<dyn RegistryBackend>,
    pub(crate) recorder: Recorder,
    pub(crate) daemon: usize,
    pub(crate) instance: Arc<Instance>,
    /// Of its host: all that may be registered there.
    pub(crate) nodes: Vec<NodeName>,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recorded({:?})", self.inner)
    }
}

/// Calls that are under way. Whoever waits no longer for an answer has taken the request back.
struct UnderWay<'a> {
    recorder: &'a Recorder,
    calls: std::ops::Range<usize>,
}

impl UnderWay<'_> {
    fn answered(&self, answers: impl Iterator<Item = Option<bool>>) {
        let mut history = self.recorder.history();
        for (number, answer) in self.calls.clone().zip(answers) {
            history.calls[number].is_done = answer;
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let now = self.recorder.now();
        let mut history = self.recorder.history();
        self.calls.clone().for_each(|number| history.calls[number].asked.returned = now);
    }
}

impl Recorded {
    fn begin(&self, verb: Verb, leases: impl Iterator<Item = (NodeName, LeaseToken)>) -> UnderWay<'_> {
        let (called, daemon) = (self.recorder.now(), self.daemon);
        let asked = Span { called, returned: Moment::MAX };
        let mut history = self.recorder.history();
        let first = history.calls.len();
        let call = |(node, token)| Call { verb, node, token, daemon, asked, is_done: None };
        history.calls.extend(leases.map(call));
        UnderWay { recorder: &self.recorder, calls: first..history.calls.len() }
    }

    fn begin_with(&self, verb: Verb, leases: &[Lease]) -> UnderWay<'_> {
        let named = |lease: &Lease| (lease.registration.node_name().to_string(), lease.token);
        self.begin(verb, leases.iter().map(named))
    }
}

/// What became of leases, in their order.
fn outcomes(
    leases: &[Lease],
    result: &Result<Vec<Renewed>, BackendError>,
) -> impl Iterator<Item = Option<bool>> {
    let outcome = |lease: &Lease| {
        let renewed = result.iter().flatten().find(|renewed| renewed.lease.token == lease.token)?;
        match renewed.renewal {
            Renewal::Held => Some(true),
            Renewal::Conflict { .. } => Some(false),
            Renewal::Failed { .. } => None,
        }
    };
    leases.iter().map(outcome)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryBackend for Recorded {
    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    fn update(&self, instance: Arc<Instance>) {
        self.inner.update(instance);
    }

    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        let node = format!("{}@{}", claim.node.name, self.instance.host);
        let under_way = self.begin(Verb::Hold, [(node, claim.token(self.instance.id))].into_iter());
        let result = self.inner.register(claim).await;
        let is_done = match &result {
            Ok(_) => Some(true),
            Err(BackendError::NameTaken { .. }) => Some(false),
            Err(_) => None,
        };
        under_way.answered([is_done].into_iter());
        result
    }

    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        let leases = held.take(500);
        let under_way = self.begin_with(Verb::Hold, &leases);
        let mut taken = Holdings::new(leases.iter().cloned().map(Some));
        let result = self.inner.renew(&mut taken).await;
        assert!(result.is_err() || taken.is_empty(), "it takes as many");
        under_way.answered(outcomes(&leases, &result));
        result
    }

    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        let under_way = self.begin_with(Verb::Hold, leases);
        let result = self.inner.publish(leases).await;
        under_way.answered(outcomes(leases, &result));
        result
    }

    async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        let under_way = self.begin_with(Verb::Release, std::slice::from_ref(lease));
        let result = self.inner.release(lease).await;
        under_way.answered([result.is_ok().then_some(true)].into_iter());
        result
    }

    /// From then on others may take all that it has.
    async fn retire(&self) -> Result<(), BackendError> {
        let token = LeaseToken { instance: self.instance.id, number: 0 };
        let _under_way = self.begin(Verb::Release, self.nodes.iter().cloned().map(|node| (node, token)));
        self.inner.retire().await
    }

    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        self.inner.find(search).await
    }

    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        self.inner.list(scope).await
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        self.inner.daemons(scope).await
    }

    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        self.inner.leave_note(note).await
    }

    async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        self.inner.notes().await
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        self.inner.watch()
    }

    fn local_address(&self) -> Option<IpAddr> {
        self.inner.local_address()
    }
}

/// What follows from the changes that a store tells of.
#[derive(Default)]
pub(crate) struct Mirror {
    pub(crate) nodes: BTreeMap<NodeName, u16>,
    /// When the last change came.
    pub(crate) changed: Duration,
}
