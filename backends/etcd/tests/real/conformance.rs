//! Every promise of the contract, against each arrangement of servers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use repmd_backend_api::{Instance, RegistryBackend, Scope};
use repmd_backend_conformance::Fixture;
use repmd_backend_etcd::{Etcd, Settings};
use repmd_test_stores::{Etcd as Store, EtcdKind, Release};

use crate::daemon::until_ok;

/// A cluster of its own in a store that cases share.
struct Registry {
    store: Arc<Store>,
    cluster: String,
    lease_ttl: Duration,
}

impl Registry {
    fn fresh(store: Arc<Store>, lease_ttl: Duration) -> Self {
        static CLUSTERS: AtomicU64 = AtomicU64::new(0);
        let cluster = format!("case{}", CLUSTERS.fetch_add(1, Ordering::Relaxed));
        Self { store, cluster, lease_ttl }
    }
}

impl Fixture for Registry {
    async fn open(&self, instance: Arc<Instance>) -> Arc<dyn RegistryBackend> {
        let settings = Settings::from_url(&self.store.url(), &self.cluster, self.lease_ttl).unwrap();
        let registry = Etcd::open(settings, instance);
        until_ok("the store is reached", async || registry.daemons(&Scope::Cluster).await).await;
        Arc::new(registry)
    }

    async fn pass(&self, time: Duration) {
        // The store's clock is the machine's.
        tokio::time::sleep(time).await;
    }

    async fn lose_everything(&self) {
        let (store, prefix) = (Arc::clone(&self.store), format!("repmd/{}/", self.cluster));
        tokio::task::spawn_blocking(move || store.tell(&["del", "--prefix", &prefix])).await.unwrap();
    }
}

/// A store that lives as long as any case uses it: a static is never dropped.
#[derive(Debug)]
struct Shared(Mutex<Weak<Store>>);

impl Shared {
    const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    fn store(&self, kind: EtcdKind, release: Release) -> Arc<Store> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let store = Arc::new(Store::start(kind, release, &[]));
            *shared = Arc::downgrade(&store);
            store
        })
    }
}

macro_rules! conformance_of {
    ($($module:ident: $kind:ident $release:ident;)*) => {
        $(
            mod $module {
                use super::{Duration, EtcdKind, Registry, Release, Shared};

                static STORE: Shared = Shared::new();

                async fn fresh(lease_ttl: Duration) -> Registry {
                    let store =
                        tokio::task::spawn_blocking(|| STORE.store(EtcdKind::$kind, Release::$release));
                    Registry::fresh(store.await.unwrap(), lease_ttl)
                }

                repmd_backend_conformance::backend_conformance!(fresh);
            }
        )*
    };
}

conformance_of! {
    etcd: Alone InstalledEtcd;
    etcd_3_5: Alone Etcd35;
    tls: Tls InstalledEtcd;
    three: Three InstalledEtcd;
}
