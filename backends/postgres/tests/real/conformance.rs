//! Every promise of the contract, against each arrangement of servers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use repmd_backend_api::{Instance, RegistryBackend, Scope};
use repmd_backend_conformance::Fixture;
use repmd_backend_postgres::{Postgres, Settings};
use repmd_test_stores::Postgres as Server;

use crate::daemon::until_ok;

/// A cluster of its own in a store that cases share.
struct Registry {
    server: Arc<Server>,
    url: String,
    cluster: String,
    lease_ttl: Duration,
}

impl Registry {
    fn fresh(server: Arc<Server>, url: String, lease_ttl: Duration) -> Self {
        static CLUSTERS: AtomicU64 = AtomicU64::new(0);
        let cluster = format!("case{}", CLUSTERS.fetch_add(1, Ordering::Relaxed));
        Self { server, url, cluster, lease_ttl }
    }
}

impl Fixture for Registry {
    async fn open(&self, instance: Arc<Instance>) -> Arc<dyn RegistryBackend> {
        let settings = Settings::from_url(&self.url, &self.cluster, self.lease_ttl).unwrap();
        let registry = Postgres::open(settings, instance);
        until_ok("the store is reached", async || registry.daemons(&Scope::Cluster).await).await;
        Arc::new(registry)
    }

    async fn pass(&self, time: Duration) {
        // The store's clock is the machine's.
        tokio::time::sleep(time).await;
    }

    async fn lose_everything(&self) {
        let tables = ["daemons", "hosts", "notes", "clusters"];
        let cluster = &self.cluster;
        let lose = tables.map(|table| format!("delete from repmd.{table} where cluster = '{cluster}'"));
        self.server.run(&lose.join("; "));
    }
}

/// A store that lives as long as any case uses it: a static is never dropped.
#[derive(Debug)]
struct Shared(Mutex<Weak<Server>>);

impl Shared {
    const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    fn server(&self, start: fn() -> Server) -> Arc<Server> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(start());
            *shared = Arc::downgrade(&server);
            server
        })
    }
}

mod alone {
    use super::{Duration, Registry, Server, Shared};

    static SERVER: Shared = Shared::new();

    async fn fresh(lease_ttl: Duration) -> Registry {
        let server = tokio::task::spawn_blocking(|| SERVER.server(Server::start)).await.unwrap();
        let url = server.url();
        Registry::fresh(server, url, lease_ttl)
    }

    repmd_backend_conformance::backend_conformance!(fresh);
}

mod tls {
    use super::{Duration, Registry, Server, Shared};

    static SERVER: Shared = Shared::new();

    async fn fresh(lease_ttl: Duration) -> Registry {
        let server = tokio::task::spawn_blocking(|| SERVER.server(Server::tls)).await.unwrap();
        let url = crate::daemon::tls_url(&server);
        Registry::fresh(server, url, lease_ttl)
    }

    repmd_backend_conformance::backend_conformance!(fresh);
}
