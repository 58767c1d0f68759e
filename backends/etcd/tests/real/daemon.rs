//! Daemons that share a store.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use repmd_backend_api::{
    AliveName, BackendError, Claim, Creation, Found, Holdings, HostId, Instance, InstanceId, Lease, Node,
    RegistryBackend, Renewal, Renewed, Scope, Search, Seen,
};
use repmd_backend_etcd::{Etcd, Settings};
use repmd_test_stores::Etcd as Store;

/// The cluster of all daemons here.
pub(crate) const CLUSTER: &str = "test";

/// Long enough that no lease runs out by itself.
pub(crate) const TTL: Duration = Duration::from_secs(15);

/// How long the daemon waits for its store.
pub(crate) const DEADLINE: Duration = Duration::from_millis(500);

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The name of a key in the store.
pub(crate) fn key(rest: &str) -> String {
    format!("repmd/{CLUSTER}/{rest}")
}

pub(crate) fn host(text: &str) -> HostId {
    HostId::parse(text).unwrap()
}

pub(crate) fn name(text: &str) -> AliveName {
    AliveName::parse(text.as_bytes()).unwrap()
}

pub(crate) fn scope(text: &str) -> Scope {
    Scope::Host(host(text))
}

/// A daemon's side of the registry.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) backend: Etcd,
    pub(crate) instance: Arc<Instance>,
    claims: AtomicU64,
}

impl Daemon {
    /// A daemon of a host, with leases that last.
    pub(crate) fn on(store: &Store, host: &str) -> Self {
        Self::with(&store.url(), host, host, TTL)
    }

    pub(crate) fn with(url: &str, name: &str, at: &str, ttl: Duration) -> Self {
        let instance = Instance {
            id: InstanceId::random(),
            name: name.to_owned(),
            host: host(at),
            aliases: vec![host(&format!("{at}.example"))],
            addresses: vec![IpAddr::from([10, 0, 0, 1])],
            port: 4369,
        };
        let instance = Arc::new(instance);
        let settings = Settings::from_url(url, CLUSTER, ttl).unwrap();
        let backend = Etcd::open(settings, Arc::clone(&instance));
        Self { backend, instance, claims: AtomicU64::new(0) }
    }

    pub(crate) fn claim(&self, alive: &str, port: u16) -> Claim {
        Claim {
            number: self.claims.fetch_add(1, Ordering::Relaxed),
            node: Node { extra: Box::from(*b"\0extra\xff"), ..Node::ordinary(name(alive), port) },
            advertised_port: port,
            registered_at: SystemTime::now(),
            last: None,
        }
    }

    pub(crate) fn unpublished(&self, alive: &str, port: u16) -> Lease {
        let creation = Creation::offline(Duration::from_secs(1_800_000_000), 7);
        self.claim(alive, port).granted(Arc::clone(&self.instance), creation)
    }

    pub(crate) async fn register(&self, alive: &str, port: u16) -> Result<Lease, BackendError> {
        self.backend.register(&self.claim(alive, port)).await
    }

    /// One round of renewals.
    pub(crate) async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>, BackendError> {
        let mut held = Holdings::new(leases.iter().map(|lease| Some(lease.clone())));
        let mut renewed: Vec<Renewed> = Vec::new();
        while {
            renewed.extend(self.backend.renew(&mut held).await?);
            !held.is_empty()
        } {}
        let of = |lease: &Lease| renewed.iter().find(|renewed| renewed.lease.token == lease.token);
        Ok(leases.iter().map(|lease| of(lease).expect("each is answered").renewal.clone()).collect())
    }

    /// All of that name.
    pub(crate) async fn find(&self, alive: &str, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        let (name, near) = (name(alive), &self.instance.host);
        self.backend.find(&Search { name: &name, scope, near, most: 1000 }).await
    }

    /// The ports at which it is found.
    pub(crate) async fn ports(&self, alive: &str, scope: &Scope) -> Vec<u16> {
        let found = self.find(alive, scope).await.unwrap();
        found.items.iter().map(|found| found.registration.advertised_port).collect()
    }
}

/// Waits until a call succeeds.
pub(crate) async fn until_ok<T>(
    what: &str,
    mut call: impl AsyncFnMut() -> Result<T, BackendError>,
) -> (T, Duration) {
    let started = Instant::now();
    loop {
        let error = match tokio::time::timeout(4 * DEADLINE, call()).await {
            Ok(Ok(value)) => return (value, started.elapsed()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        assert!(started.elapsed() < PATIENCE, "{what}: {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
