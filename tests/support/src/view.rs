//! A daemon without its sockets.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use repmd::registry::{Lookup, Options, Registry};
use repmd_backend_api::{Instance, RegistryBackend};

/// The time of this machine's clock since 1970.
#[must_use]
pub fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970")
}

/// What a daemon knows of the cluster, by a handle to its store. It looks names up in all of the cluster, waits half a
/// second for the store, and finds no port that listens.
#[must_use]
pub fn view(backend: Arc<dyn RegistryBackend>, instance: Arc<Instance>) -> Registry {
    let options = Options {
        lookup: Lookup::Cluster,
        stale_for: None,
        deadline: Duration::from_millis(500),
        clock: Arc::new(now),
        probe: Arc::new(|_, _| Box::pin(async { false })),
    };
    Registry::new(backend, instance, options)
}
