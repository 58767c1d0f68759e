//! The parts of the registry, each with a store that a test has in hand, on a clock that stands still unless somebody
//! waits. A file a part.

mod changes;
mod daemons;
mod holding;
mod keeper;
mod leases;
mod lists;
mod look_ups;
mod me;
mod notes;
mod question;
mod scripted;
mod store;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use repmd_backend_api::{
    AliveName, BackendError, Change, Claim, Found, HostId, Instance, Lease, Node, RegistryBackend, Scope,
    Search,
};
use repmd_backend_memory::{Handle, Memory};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Answer, Lookup, Options, Question, Registry, Told};
use scripted::{Fault, Scripted};

const TTL: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_millis(500);
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A daemon of the host `here`, and the store behind it.
struct Stage {
    memory: Memory,
    store: Arc<Scripted>,
    registry: Arc<Registry>,
    /// Ports that something listens on.
    listening: Arc<Mutex<Vec<u16>>>,
}

impl Stage {
    fn new() -> Self {
        Self::of(Lookup::Cluster, None)
    }

    fn of(lookup: Lookup, stale_for: Option<Duration>) -> Self {
        let started = Instant::now();
        let memory = Memory::with_leases(TTL, Arc::new(move || EPOCH + started.elapsed()));
        Self::before(memory, daemon("here"), lookup, stale_for)
    }

    /// A registry of this process alone.
    fn alone() -> Self {
        Self::before(Memory::new(), daemon("here"), Lookup::Cluster, None)
    }

    /// The daemon was told no address: it is where its connection to the store comes from.
    fn of_no_address() -> Self {
        let stage = Self::new();
        let me = (*stage.registry.instance()).clone();
        let registry = Arc::into_inner(stage.registry).expect("nobody else has it");
        let registry = registry.with_addresses_of_the_connection(Box::new(move |address| Instance {
            addresses: address.into_iter().collect(),
            ..me.clone()
        }));
        Self { registry: Arc::new(registry), ..stage }
    }

    fn before(memory: Memory, me: Instance, lookup: Lookup, stale_for: Option<Duration>) -> Self {
        let (me, started) = (Arc::new(me), Instant::now());
        let store = Arc::new(Scripted::new(memory.attach(Arc::clone(&me))));
        let listening = Arc::new(Mutex::new(Vec::new()));
        let options = Options {
            lookup,
            stale_for,
            deadline: DEADLINE,
            clock: Arc::new(move || EPOCH + started.elapsed()),
            probe: Arc::new({
                let listening = Arc::clone(&listening);
                move |port, addresses| {
                    assert_eq!(addresses, [IpAddr::from([10, 0, 0, 1])], "this host's");
                    let listens = listening.lock().unwrap().contains(&port);
                    Box::pin(async move { listens })
                }
            }),
        };
        let registry = Arc::new(Registry::new(Arc::clone(&store) as _, me, options));
        Self { memory, store, registry, listening }
    }

    /// Another daemon of the store, which has renewed just now.
    async fn other(&self, me: Instance) -> Other {
        let handle = self.memory.attach(Arc::new(me));
        let other = Other { handle, claims: AtomicUsize::new(0) };
        other.renew(&[]).await;
        other
    }

    /// A daemon of another host, which holds `name`.
    async fn holder(&self, host: &str, name: &str, port: u16) -> (Other, Lease) {
        let other = self.other(daemon(host)).await;
        let lease = other.register(name, port).await;
        (other, lease)
    }

    async fn look_up(&self, question: &Question) -> Told {
        self.registry.look_up(question, None).await
    }

    async fn register(&self, number: u64, name: &str) -> Lease {
        self.registry.register(number, node(name, 9000), 9000).await.unwrap()
    }

    /// The store answers nothing, and it is known.
    async fn goes_away(&self) {
        self.store.is("", Fault::Away);
        assert!(self.registry.store.ask("retire", RegistryBackend::retire).await.is_err());
        assert!(self.registry.away().is_some());
    }

    /// The store is known to answer as of now.
    async fn is_reached(&self) {
        self.registry.store.call("daemons", 1, |backend| backend.daemons(&Scope::Cluster)).await.unwrap();
    }

    /// Keeps the registry in the background, to the end of the test.
    fn keep(&self) {
        let registry = Arc::clone(&self.registry);
        tokio::spawn(async move { registry.keep(&CancellationToken::new()).await });
    }
}

/// Another daemon, straight at the store.
struct Other {
    handle: Handle,
    claims: AtomicUsize,
}

impl Other {
    async fn register(&self, name: &str, port: u16) -> Lease {
        let number = self.claims.fetch_add(1, Ordering::Relaxed) as u64;
        // The store's clock, so that later ones are newer.
        let registered_at = std::time::SystemTime::UNIX_EPOCH + EPOCH + Duration::from_secs(number);
        let node = node(name, port);
        let claim = Claim { number, node, advertised_port: port, registered_at, last: None };
        self.handle.register(&claim).await.unwrap()
    }

    async fn renew(&self, leases: &[Lease]) {
        self.handle.publish(leases).await.unwrap();
    }
}

/// At 10.0.0.1 if it is of the host `here`.
fn daemon(host_name: &str) -> Instance {
    let last = if host_name == "here" { 1 } else { host_name.bytes().map(u32::from).sum::<u32>() as u8 };
    Instance {
        addresses: vec![[10, 0, 0, last].into()],
        ..Instance::new(format!("{host_name}:4369"), host(host_name))
    }
}

fn host(name: &str) -> HostId {
    HostId::parse(name).unwrap()
}

fn name(text: &str) -> AliveName {
    AliveName::parse(text.as_bytes()).unwrap()
}

fn node(text: &str, port: u16) -> Node {
    Node::ordinary(name(text), port)
}

fn bare(text: &str) -> Question {
    Question::Bare(name(text))
}

fn on(host_name: &str, text: &str) -> Question {
    Question::On(host(host_name), name(text))
}

/// The node's port, if there is a node.
fn port(told: &Told) -> Option<u16> {
    match &told.answer {
        Answer::Node(registration) => Some(registration.node.port),
        Answer::Daemon(_) | Answer::Absent => None,
    }
}

fn names(found: &[Found]) -> Vec<String> {
    found.iter().map(|found| found.registration.node_name().to_string()).collect()
}
