//! A daemon's side of a registry whose store is real, and how tests wait for what it says.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use repmd_backend_api::{
    AliveName, BackendError, Claim, Creation, Found, Holdings, HostId, Instance, Lease, Node,
    RegistryBackend, Renewal, Scope, Search, Seen,
};
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

use crate::{Backing, PATIENCE};

/// The cluster of all daemons that are not told another.
pub const CLUSTER: &str = "test";

/// Long enough that no lease runs out by itself.
pub const TTL: Duration = Duration::from_secs(15);

/// How long the program waits for its store.
pub const DEADLINE: Duration = Duration::from_millis(500);

/// A backend and its store, as the backend's tests have them.
pub trait Pair: 'static {
    /// What is tested.
    type Backend: RegistryBackend;
    /// What it stands on.
    type Store: Backing + Send + Sync + 'static;

    /// A handle to the registry in the store at `url`.
    fn open(url: &str, cluster: &str, lease_ttl: Duration, instance: Arc<Instance>) -> Self::Backend;

    /// Takes all that the store has of a cluster away.
    fn lose(store: &Self::Store, cluster: &str);
}

/// A daemon's side of the registry.
#[derive(Debug)]
pub struct Daemon<P: Pair> {
    /// Its handle.
    pub backend: P::Backend,
    /// Which run of which daemon it is.
    pub instance: Arc<Instance>,
    claims: AtomicU64,
}

impl<P: Pair> Daemon<P> {
    /// A daemon of a host, with leases that last.
    #[must_use]
    pub fn on(store: &P::Store, host: &str) -> Self {
        Self::with(&store.url(), host, host, TTL)
    }

    /// A daemon called `name` of the host `at`, which is also called `at.example`.
    #[must_use]
    pub fn with(url: &str, name: &str, at: &str, ttl: Duration) -> Self {
        let instance = Arc::new(Instance {
            aliases: vec![host(&format!("{at}.example"))],
            addresses: vec![IpAddr::from([10, 0, 0, 1])],
            ..Instance::new(name, host(at))
        });
        let backend = P::open(url, CLUSTER, ttl, Arc::clone(&instance));
        Self { backend, instance, claims: AtomicU64::new(0) }
    }

    /// The next claim of a name.
    pub fn claim(&self, alive: &str, port: u16) -> Claim {
        Claim {
            number: self.claims.fetch_add(1, Ordering::Relaxed),
            node: Node { extra: Box::from(*b"\0extra\xff"), ..Node::ordinary(name(alive), port) },
            advertised_port: port + 1,
            registered_at: SystemTime::now(),
            last: None,
        }
    }

    /// Registers a name.
    ///
    /// # Errors
    /// As the registry says.
    pub async fn register(&self, alive: &str, port: u16) -> Result<Lease, BackendError> {
        self.backend.register(&self.claim(alive, port)).await
    }

    /// A round of renewals: what became of each, in the order of `leases`.
    ///
    /// # Errors
    /// As the registry says.
    pub async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>, BackendError> {
        let mut held = Holdings::new(leases.iter().cloned().map(Some));
        let mut renewed = self.backend.renew(&mut held).await?;
        while !held.is_empty() {
            renewed.extend(self.backend.renew(&mut held).await?);
        }
        assert_eq!(renewed.len(), leases.len(), "as many answers as leases");
        let renewal = |lease: &Lease| {
            let found = renewed.iter().find(|renewed| renewed.lease.token == lease.token);
            found.expect("each is answered").renewal.clone()
        };
        Ok(leases.iter().map(renewal).collect())
    }

    /// A lease that the store has not granted.
    #[must_use]
    pub fn lease(&self, claim: &Claim, creation: Creation) -> Lease {
        claim.granted(Arc::clone(&self.instance), creation)
    }

    /// The lease of a node that was accepted without the store.
    pub fn unpublished(&self, alive: &str, port: u16) -> Lease {
        let creation = Creation::offline(Duration::from_secs(1_800_000_000), 7);
        self.lease(&self.claim(alive, port), creation)
    }

    /// All of that name.
    ///
    /// # Errors
    /// As the registry says.
    pub async fn find(&self, alive: &str, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        let (name, near) = (name(alive), &self.instance.host);
        self.backend.find(&Search { name: &name, scope, near, most: 1000 }).await
    }

    /// The ports of the nodes of that name, in order.
    pub async fn ports(&self, alive: &str, scope: &Scope) -> Vec<u16> {
        let found = self.find(alive, scope).await.unwrap_or_else(|error| panic!("{alive}: {error:?}")).items;
        let mut ports: Vec<_> = found.iter().map(|found| found.registration.node.port).collect();
        ports.sort_unstable();
        ports
    }

    /// The names in a scope, in the order of the alphabet.
    pub async fn names(&self, scope: &Scope) -> Vec<String> {
        let list = self.backend.list(scope).await.unwrap_or_else(|error| panic!("{error:?}")).items;
        let mut names: Vec<_> = list.iter().map(|found| found.registration.node_name().to_string()).collect();
        names.sort_unstable();
        names
    }

    /// Asserts that a daemon at this URL finds what another one there has registered, and the rest of what daemons do.
    pub async fn works(url: &str) {
        let [first, second] = ["a", "b"].map(|host| Self::with(url, host, host, TTL));
        let registered = async || first.register("rabbit", 100).await;
        let (lease, _) = until_ok(&format!("{url} takes a registration"), registered).await;
        let found = async || second.find("rabbit", &Scope::Cluster).await;
        until_ok("the other one reaches it", found).await;
        assert_eq!(second.ports("rabbit", &Scope::Cluster).await, [100]);
        let said = |error: BackendError| -> ! { panic!("{url}: {error:?}") };
        first.renew(std::slice::from_ref(&lease)).await.unwrap_or_else(|error| said(error));
        first.backend.leave_note(b"note").await.unwrap_or_else(|error| said(error));
        let notes = second.backend.notes().await.unwrap_or_else(|error| said(error));
        assert_eq!(notes.items.len(), 1, "{url}");
        first.backend.release(&lease).await.unwrap_or_else(|error| said(error));
        first.backend.retire().await.unwrap_or_else(|error| said(error));
    }

    /// Asserts that the store at this URL lets nobody in, with `why` in what is said, and no password. Returns how long
    /// that took.
    pub async fn is_denied(url: &str, why: &str) -> Duration {
        let daemon = Self::with(url, "a", "a", TTL);
        let started = Instant::now();
        let answer = daemon.register("rabbit", 100).await;
        let took = started.elapsed();
        let Err(error) = answer else { panic!("{url} lets it in") };
        let BackendError::Denied { action, source } = &error else { panic!("{url}: {error:?}") };
        assert_eq!(action, "register rabbit@a");
        assert!(source.to_string().to_lowercase().contains(&why.to_lowercase()), "{source}");
        assert!(!format!("{error:?} {error} {source}").contains("s3cret"), "{error:?}");
        took
    }
}

/// A host of a test.
///
/// # Panics
/// When its name is none.
#[must_use]
pub fn host(text: &str) -> HostId {
    HostId::parse(text).expect("the test's host is one")
}

/// An alive name of a test.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn name(text: &str) -> AliveName {
    AliveName::parse(text.as_bytes()).expect("the test's name is one")
}

/// A host, to look there.
#[must_use]
pub fn scope(text: &str) -> Scope {
    Scope::Host(host(text))
}

/// The result of a call that is given up after `limit`.
///
/// # Errors
/// As the call, or [`BackendError::Unavailable`] when it took longer.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let late = |elapsed: Elapsed| Err(BackendError::Unavailable { waited: limit, source: elapsed.into() });
    timeout(limit, call).await.unwrap_or_else(late)
}

/// The result of a call that is given up when the program would.
///
/// # Errors
/// As [`within`].
pub async fn in_time<T>(call: impl Future<Output = Result<T, BackendError>>) -> Result<T, BackendError> {
    within(DEADLINE, call).await
}

/// Whether the store is away, as an answer says.
///
/// # Panics
/// When it has failed in another way.
pub fn is_unavailable<T>(result: Result<T, BackendError>) -> bool {
    match result {
        Err(BackendError::Unavailable { .. }) => true,
        Ok(_) | Err(BackendError::NameTaken { .. }) => false,
        Err(error) => panic!("{error:?}"),
    }
}

/// Calls until it works, and says how long that took.
pub async fn until_ok<T>(
    what: &str,
    mut call: impl AsyncFnMut() -> Result<T, BackendError>,
) -> (T, Duration) {
    let started = Instant::now();
    loop {
        match call().await {
            Ok(answer) => return (answer, started.elapsed()),
            Err(error) => assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}: {error:?}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Asks until the answer is right.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
