//! Asking the store. Whatever this daemon wants of it goes through here: how long it may take, what it says of the
//! store's health, what of an answer cannot be read, and how long the last one may serve.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::BoxStream;
use repmd_backend_api::{BackendError, Change, Found, Instance, RegistryBackend, Search, Seen};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::Options;
use super::events::Events;
use super::health::{Health, StoreAway};
use super::me::{InstanceAt, Me};
use super::questions::Questions;
use super::slot::Known;
use super::stats::Stats;
use super::unreadable::Unreadable;

/// How many deadlines a list of the whole cluster may take.
const CLUSTER_PATIENCE: u32 = 8;

/// Nobody knows now: the store is away or too much is asked of it, and what it said last is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the registry does not answer, and what it said last is too old")]
pub struct NobodyKnows;

/// The store behind the daemon, as it is asked for anything.
#[derive(Debug)]
pub(super) struct Store {
    backend: Arc<dyn RegistryBackend>,
    /// Whose handle the backend is.
    pub(super) me: Me,
    pub(super) options: Options,
    pub(super) health: Health,
    questions: Questions,
    pub(super) unreadable: Unreadable,
    /// The last call took long. Renewals wait behind whatever else is asked then.
    is_slow: AtomicBool,
    nudge: Notify,
    pub(super) stats: Stats,
}

impl Store {
    pub(super) fn new(
        backend: Arc<dyn RegistryBackend>,
        me: Me,
        options: Options,
        events: Arc<Events>,
    ) -> Self {
        Self {
            backend,
            me,
            options,
            health: Health::new(events),
            questions: Questions::default(),
            unreadable: Unreadable::default(),
            is_slow: AtomicBool::new(false),
            nudge: Notify::new(),
            stats: Stats::default(),
        }
    }

    /// See [`Me::follow_by`].
    pub(super) fn follow_addresses_by(&self, instance_at: InstanceAt) {
        self.me.follow_by(instance_at);
        self.backend.update(self.me.now());
    }

    /// This daemon as it is now, if it has other addresses than before.
    pub(super) fn follow_addresses(&self) -> Option<Arc<Instance>> {
        let instance = self.me.follow(|| self.backend.local_address())?;
        self.backend.update(Arc::clone(&instance));
        Some(instance)
    }

    /// How long a registration outlives its last renewal; `None` where the registry is not shared.
    pub(super) fn lease_ttl(&self) -> Option<Duration> {
        self.backend.promises().lease_ttl
    }

    /// Whether other daemons use the same registry.
    pub(super) fn is_shared(&self) -> bool {
        self.lease_ttl().is_some()
    }

    /// How long an answer counts as fresh. Changes are heard of sooner; this is what holds when they are not.
    pub(super) fn fresh_for(&self) -> Duration {
        self.backend.promises().fresh_for
    }

    /// Whether a list counts as fresh.
    pub(super) fn is_fresh_list<T>(&self) -> impl Fn(&Known<T>) -> bool {
        let fresh_for = self.fresh_for();
        move |known| known.asked.elapsed() < fresh_for
    }

    /// Whether an answer may serve while the store is away: for as long after the store was last reachable
    /// as the settings say, and for as long after the lease that it speaks of would have run out.
    pub(super) fn may_serve(&self, asked: Instant, left: Option<Duration>) -> bool {
        let stale_for = self.options.stale_for.or(self.lease_ttl()).unwrap_or_default();
        let since_reached = self.health.last_reached().map(|reached| reached.elapsed());
        let since_lease_end = asked.elapsed().saturating_sub(left.unwrap_or_default());
        since_reached.is_some_and(|since| since.max(since_lease_end) < stale_for)
    }

    pub(super) fn is_away(&self) -> bool {
        self.health.is_away()
    }

    /// Since when and why the store does not answer, if it does not.
    pub(super) fn away(&self) -> Option<StoreAway> {
        self.health.away()
    }

    /// Whether the store takes so long that what nobody needs now must not be asked.
    pub(super) fn is_slow(&self) -> bool {
        self.is_slow.load(Ordering::Relaxed)
    }

    /// There is something to publish, or the store went away: the keeper looks at it before its next round.
    pub(super) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Waits for [`Store::nudge`].
    pub(super) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// Calls the backend, within the deadline, and takes note of how it went. `Err(None)`: it was not even
    /// called, because the store is known to be away.
    pub(super) async fn ask<'a, T, F: Future<Output = Result<T, BackendError>>>(
        &'a self,
        verb: &'static str,
        call: impl FnOnce(&'a dyn RegistryBackend) -> F,
    ) -> Result<T, Option<BackendError>> {
        if self.is_away() {
            return Err(None);
        }
        let result = self.call(verb, 1, call).await;
        // What the store refuses, it refuses again: only that it went away is worth a look before the round.
        if let Err(BackendError::Unavailable { .. }) = result {
            self.nudge();
        }
        result.map_err(Some)
    }

    /// What others change from now on.
    pub(super) fn watch(&self) -> BoxStream<'static, Change> {
        self.backend.watch()
    }

    /// Looks for a name, within the bound on questions that are under way. `asker`: for whom, if not for this daemon
    /// itself. `None`: the store did not answer, or too much is asked of it.
    pub(super) async fn find(&self, search: &Search<'_>, asker: Option<IpAddr>) -> Option<Seen<Found>> {
        let _permit = self.questions.admit(asker, self.options.deadline).await?;
        self.ask("find", |backend| backend.find(search)).await.ok()
    }

    /// Questions that were not asked, because too many were under way.
    pub(super) fn questions_left_out(&self) -> u64 {
        self.questions.left_out.get()
    }

    /// Calls the backend for what may take long, and says nothing of the store's health.
    pub(super) async fn patiently<'a, T, F: Future<Output = Result<T, BackendError>>>(
        &'a self,
        call: impl FnOnce(&'a dyn RegistryBackend) -> F,
    ) -> Result<T, BackendError> {
        within(self.options.deadline * CLUSTER_PATIENCE, call(&*self.backend)).await
    }

    /// Calls the backend even if the store is known to be away, for up to `patience` deadlines.
    pub(super) async fn call<'a, T, F: Future<Output = Result<T, BackendError>>>(
        &'a self,
        verb: &'static str,
        patience: u32,
        call: impl FnOnce(&'a dyn RegistryBackend) -> F,
    ) -> Result<T, BackendError> {
        let started = Instant::now();
        let result = within(self.options.deadline * patience, call(&*self.backend)).await;
        self.stats.called(verb, started.elapsed(), result.is_ok());
        self.is_slow.store(self.options.deadline / 2 < started.elapsed(), Ordering::Relaxed);
        match &result {
            Ok(_) => self.health.done(),
            Err(error) => self.health.failed(verb, error),
        }
        result
    }
}

/// The result of a call, or that there was none in time.
async fn within<T>(
    waited: Duration,
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let answer = timeout(waited, call).await;
    answer.unwrap_or_else(|elapsed| Err(BackendError::Unavailable { waited, source: elapsed.into() }))
}
