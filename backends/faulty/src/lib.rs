//! Wraps any registry and lets it fail as stores do: late, not at all, or after the deed.
//!
//! What happens to a call is drawn from a seed in the order of the calls, so that a test whose calls come in
//! the same order sees the same faults. Time is the event loop's: a test that pauses it waits for nothing.
//! Without faults a wrapped registry is the registry.

mod faults;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use repmd_backend_api::{
    BackendError, Change, Claim, Found, Holdings, Instance, Lease, Note, Promises, RegistryBackend, Renewed,
    Scope, Search, Seen,
};
use tokio::time::{Instant, sleep};

pub use faults::{Faults, Link, Odds};

/// A registry, seen over a link that may fail.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn RegistryBackend>,
    faults: Faults,
}

impl Faulty {
    /// `inner` without faults as yet: [`Faulty::faults`] lets them happen. Prints the seed, so that a test
    /// that fails says how to see it again.
    #[must_use]
    pub fn new(inner: Arc<dyn RegistryBackend>, seed: u64) -> Self {
        eprintln!("faulty registry: seed {seed}");
        Self { inner, faults: Faults::new(seed) }
    }

    /// What decides on the faults from now on.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Makes a call over the link.
    async fn over_the_link<T>(
        &self,
        call: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, BackendError> {
        let started = Instant::now();
        let failed =
            |what: &str| BackendError::Unavailable { waited: started.elapsed(), source: what.into() };
        let fate = self.faults.next_fate();
        wait(fate.request_delay).await;
        if self.faults.link_once_it_moves().await == Link::Cut || fate.refused {
            return Err(failed("the connection is refused"));
        }
        let answer = call.await;
        wait(fate.answer_delay).await;
        if self.faults.link_once_it_moves().await == Link::Cut || fate.lost {
            return Err(failed("the connection ended before the answer"));
        }
        answer
    }
}

/// No wait at all stays none: a call to a registry that answers at once is over when it is first polled.
async fn wait(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryBackend for Faulty {
    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    fn update(&self, instance: Arc<Instance>) {
        self.inner.update(instance);
    }

    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        self.over_the_link(self.inner.register(claim)).await
    }

    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        self.over_the_link(self.inner.renew(held)).await
    }

    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        self.over_the_link(self.inner.publish(leases)).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        self.over_the_link(self.inner.release(lease)).await
    }

    async fn retire(&self) -> Result<(), BackendError> {
        self.over_the_link(self.inner.retire()).await
    }

    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        self.over_the_link(self.inner.find(search)).await
    }

    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        self.over_the_link(self.inner.list(scope)).await
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        self.over_the_link(self.inner.daemons(scope)).await
    }

    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        self.over_the_link(self.inner.leave_note(note)).await
    }

    async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        self.over_the_link(self.inner.notes()).await
    }

    /// Changes pass while the link is up; once it is up again, [`Change::Missed`] comes first.
    fn watch(&self) -> BoxStream<'static, Change> {
        let ends = (self.inner.watch(), self.faults.link());
        Box::pin(stream::unfold(ends, |(mut changes, mut link)| async {
            loop {
                let change = tokio::select! {
                    biased;
                    Ok(()) = link.changed() => Some(Change::Missed),
                    change = changes.next() => change,
                };
                if change.is_none() || *link.borrow() == Link::Up {
                    return change.map(|change| (change, (changes, link)));
                }
            }
        }))
    }

    fn local_address(&self) -> Option<IpAddr> {
        self.inner.local_address()
    }
}
