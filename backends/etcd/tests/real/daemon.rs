//! Daemons that share an etcd.

use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::{BackendError, Instance};
use repmd_backend_etcd::{Etcd, Settings};
pub(crate) use repmd_test_stores::{CLUSTER, DEADLINE, PATIENCE, TTL, host, name, scope, until};
use repmd_test_stores::{Etcd as Store, Pair, within};

pub(crate) type Daemon = repmd_test_stores::Daemon<OnEtcd>;

/// The backend on its store.
#[derive(Debug)]
pub(crate) struct OnEtcd;

impl Pair for OnEtcd {
    type Backend = Etcd;
    type Store = Store;

    fn open(url: &str, cluster: &str, lease_ttl: Duration, instance: Arc<Instance>) -> Etcd {
        Etcd::open(Settings::from_url(url, cluster, lease_ttl).unwrap(), instance)
    }

    fn lose(store: &Store, cluster: &str) {
        store.tell(&["del", "--prefix", &format!("repmd/{cluster}/")]);
    }
}

/// The name of a key in the store.
pub(crate) fn key(rest: &str) -> String {
    format!("repmd/{CLUSTER}/{rest}")
}

/// Calls until it works, and says how long that took. Members that lack a leader answer late or never.
pub(crate) async fn until_ok<T>(
    what: &str,
    mut call: impl AsyncFnMut() -> Result<T, BackendError>,
) -> (T, Duration) {
    repmd_test_stores::until_ok(what, async || within(4 * DEADLINE, call()).await).await
}
