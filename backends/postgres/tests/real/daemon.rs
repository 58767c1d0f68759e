//! Daemons that share a store.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use repmd_backend_api::{
    AliveName, BackendError, Claim, Found, Holdings, HostId, Instance, InstanceId, Lease, Node, NodeType,
    RegistryBackend, Renewal, Scope, Search, Seen,
};
use repmd_backend_postgres::{Postgres, Settings};
use repmd_test_stores::Postgres as Server;

/// The cluster of all daemons here.
pub(crate) const CLUSTER: &str = "test";

/// Long enough that no lease runs out by itself.
pub(crate) const TTL: Duration = Duration::from_secs(15);

/// How long the daemon waits for its store.
pub(crate) const DEADLINE: Duration = Duration::from_millis(500);

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn host(text: &str) -> HostId {
    HostId::parse(text).unwrap()
}

pub(crate) fn name(text: &str) -> AliveName {
    AliveName::parse(text.as_bytes()).unwrap()
}

pub(crate) fn scope(text: &str) -> Scope {
    Scope::Host(host(text))
}

/// The URL of a server with TLS, with the files that it asks for.
pub(crate) fn tls_url(server: &Server) -> String {
    let certificates = server.certificates();
    let (certificate, key) = &certificates.client;
    format!(
        "{}?sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}",
        server.url(),
        certificates.authority.display(),
        certificate.display(),
        key.display()
    )
}

pub(crate) fn settings(url: &str, ttl: Duration) -> Settings {
    Settings::from_url(url, CLUSTER, ttl).unwrap()
}

/// A daemon's side of the registry.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) backend: Postgres,
    pub(crate) instance: Arc<Instance>,
    claims: AtomicU64,
}

impl Daemon {
    /// A daemon of a host, with leases that last.
    pub(crate) fn on(server: &Server, host: &str) -> Self {
        Self::with(&server.url(), host, host, TTL)
    }

    pub(crate) fn with(url: &str, name: &str, at: &str, ttl: Duration) -> Self {
        let instance = Arc::new(Instance {
            id: InstanceId::random(),
            name: name.to_owned(),
            host: host(at),
            aliases: vec![host(&format!("{at}.example"))],
            addresses: vec![IpAddr::from([10, 0, 0, 1])],
            port: 4369,
        });
        let backend = Postgres::open(settings(url, ttl), Arc::clone(&instance));
        Self { backend, instance, claims: AtomicU64::new(0) }
    }

    pub(crate) fn claim(&self, alive: &str, port: u16) -> Claim {
        Claim {
            number: self.claims.fetch_add(1, Ordering::Relaxed),
            node: Node {
                name: name(alive),
                port,
                node_type: NodeType::NORMAL,
                protocol: 0,
                highest_version: 6,
                lowest_version: 5,
                extra: Box::from(*b"\0extra\xff"),
            },
            advertised_port: port + 1,
            registered_at: SystemTime::now(),
            last: None,
        }
    }

    pub(crate) async fn register(&self, alive: &str, port: u16) -> Result<Lease, BackendError> {
        self.backend.register(&self.claim(alive, port)).await
    }

    /// A round of renewals: what became of each lease, in their order.
    pub(crate) async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>, BackendError> {
        let mut held = Holdings::new(leases.iter().cloned().map(Some));
        let renewed = self.backend.renew(&mut held).await?;
        assert!(held.is_empty());
        let of = |lease: &Lease| renewed.iter().find(|renewed| renewed.lease.token == lease.token).unwrap();
        Ok(leases.iter().map(|lease| of(lease).renewal.clone()).collect())
    }

    /// All of that name.
    pub(crate) async fn find(&self, alive: &str, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        let name = name(alive);
        self.backend.find(&Search { name: &name, scope, near: &self.instance.host, most: 1000 }).await
    }

    /// The ports of the nodes of that name, in order.
    pub(crate) async fn ports(&self, alive: &str, scope: &Scope) -> Vec<u16> {
        let found = self.find(alive, scope).await.unwrap().items;
        let mut ports: Vec<_> = found.iter().map(|found| found.registration.node.port).collect();
        ports.sort_unstable();
        ports
    }

    /// The names in a scope, in the order of the alphabet.
    pub(crate) async fn names(&self, scope: &Scope) -> Vec<String> {
        let list = self.backend.list(scope).await.unwrap().items;
        let mut names: Vec<_> = list.iter().map(|found| found.registration.node_name().to_string()).collect();
        names.sort();
        names
    }
}

/// Calls until it works, and says how long that took.
pub(crate) async fn until_ok<T>(
    what: &str,
    mut call: impl AsyncFnMut() -> Result<T, BackendError>,
) -> (T, Duration) {
    let started = Instant::now();
    loop {
        match call().await {
            Ok(answer) => return (answer, started.elapsed()),
            Err(error) => assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}: {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks until the answer is right.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
