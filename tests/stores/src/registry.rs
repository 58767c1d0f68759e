//! Empty registries for the cases of the conformance suite, in stores that the cases share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use repmd_backend_api::{Instance, RegistryBackend, Scope};
use repmd_backend_conformance::Fixture;
use tokio::task::spawn_blocking;

use crate::Backing;
use crate::daemon::{Pair, until_ok};

/// A store that lives as long as anybody uses it: a static is never dropped.
#[derive(Debug)]
pub struct Shared<S>(Mutex<Weak<S>>);

impl<S> Shared<S> {
    /// One that nobody uses yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    /// The store that is there, or a new one.
    pub fn get(&self, start: impl FnOnce() -> S) -> Arc<S> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let store = Arc::new(start());
            *shared = Arc::downgrade(&store);
            store
        })
    }
}

impl<S> Default for Shared<S> {
    fn default() -> Self {
        Self::new()
    }
}

/// A cluster of its own in a store that cases share.
#[derive(Debug)]
pub struct Registry<P: Pair> {
    store: Arc<P::Store>,
    cluster: String,
    lease_ttl: Duration,
}

impl<P: Pair> Registry<P> {
    /// One that nobody else has, in the shared store, which is started if nobody uses it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn fresh(
        shared: &'static Shared<P::Store>,
        start: impl FnOnce() -> P::Store + Send + 'static,
        lease_ttl: Duration,
    ) -> Self {
        static CLUSTERS: AtomicU64 = AtomicU64::new(0);
        let cluster = format!("case{}", CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let store = spawn_blocking(|| shared.get(start)).await.expect("the store starts");
        Self { store, cluster, lease_ttl }
    }
}

impl<P: Pair> Fixture for Registry<P> {
    async fn open(&self, instance: Arc<Instance>) -> Arc<dyn RegistryBackend> {
        let registry = P::open(&self.store.url(), &self.cluster, self.lease_ttl, instance);
        until_ok("the store is reached", async || registry.daemons(&Scope::Cluster).await).await;
        Arc::new(registry)
    }

    async fn pass(&self, time: Duration) {
        // The store's clock is the machine's.
        tokio::time::sleep(time).await;
    }

    async fn lose_everything(&self) {
        let (store, cluster) = (Arc::clone(&self.store), self.cluster.clone());
        spawn_blocking(move || P::lose(&store, &cluster)).await.expect("the store forgets");
    }
}
