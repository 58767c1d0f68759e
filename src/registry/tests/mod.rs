//! The parts of the registry, each with a store that a test has in hand, on a clock that stands still unless somebody
//! waits. A file a part.

mod changes;
mod daemons;
mod holding;
mod keeper;
mod lists;
mod look_ups;
mod me;
mod notes;
mod store;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use repmd_backend_api::{
    AliveName, BackendError, Change, Claim, Found, Holdings, HostId, Instance, Lease, Node, Note, Promises,
    RegistryBackend, Renewed, Scope, Search, Seen,
};
use repmd_backend_memory::{Handle, Memory};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Answer, Lookup, Options, Question, Registry, Told};

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

/// What a store does with calls.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It answers, after this time.
    Late(Duration),
    /// The same, once it has done what it was asked for.
    AnswersLate(Duration),
    Away,
    Denies,
}

/// A store in memory that answers as a test says, and remembers what it was asked.
#[derive(Debug)]
struct Scripted {
    inner: Handle,
    /// By verb; "" is any.
    faults: Mutex<HashMap<&'static str, Fault>>,
    calls: Mutex<Vec<(Instant, String)>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    /// No entry can be read.
    is_foreign: AtomicBool,
    /// What it grants says another port than the claim.
    lies: AtomicBool,
    updates: AtomicUsize,
    local_address: Mutex<Option<IpAddr>>,
    watchers: Mutex<Vec<mpsc::UnboundedSender<Change>>>,
}

impl Scripted {
    fn new(inner: Handle) -> Self {
        Self {
            inner,
            faults: Mutex::default(),
            calls: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            is_foreign: AtomicBool::new(false),
            lies: AtomicBool::new(false),
            updates: AtomicUsize::new(0),
            local_address: Mutex::default(),
            watchers: Mutex::default(),
        }
    }

    /// What it does from now on with calls of `verb`.
    fn is(&self, verb: &'static str, fault: Fault) {
        self.faults.lock().unwrap().insert(verb, fault);
    }

    fn heals(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// It was asked for what begins so.
    fn calls(&self, start: &str) -> usize {
        self.times(start).len()
    }

    /// When it was asked for what begins so.
    fn times(&self, start: &str) -> Vec<Instant> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(_, call)| call.starts_with(start)).map(|(at, _)| *at).collect()
    }

    fn last_call(&self) -> String {
        self.calls.lock().unwrap().last().expect("something was asked").1.clone()
    }

    /// Tells those who watch.
    fn tell(&self, change: &Change) {
        self.watchers.lock().unwrap().retain(|watcher| watcher.send(change.clone()).is_ok());
    }

    fn ends_watches(&self) {
        self.watchers.lock().unwrap().clear();
    }

    fn is_at(&self, local: Option<[u8; 4]>) {
        *self.local_address.lock().unwrap() = local.map(Into::into);
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        what: String,
        answer: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        struct UnderWay<'a>(&'a AtomicUsize);
        impl Drop for UnderWay<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.calls.lock().unwrap().push((Instant::now(), format!("{verb}{what}")));
        let under_way = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        let _under_way = UnderWay(&self.under_way);
        self.most_under_way.fetch_max(under_way, Ordering::Relaxed);
        let fault = {
            let faults = self.faults.lock().unwrap();
            faults.get(verb).or(faults.get("")).copied()
        };
        match fault {
            Some(Fault::Away) => {
                Err(BackendError::Unavailable { waited: Duration::ZERO, source: "gone".into() })
            }
            Some(Fault::Denies) => Err(BackendError::Denied { action: verb.to_owned(), source: "no".into() }),
            Some(Fault::Late(late)) => {
                sleep(late).await;
                answer.await
            }
            Some(Fault::AnswersLate(late)) => {
                let answer = answer.await;
                sleep(late).await;
                answer
            }
            None => answer.await,
        }
    }

    fn seen<T>(&self, seen: Seen<T>) -> Seen<T> {
        if !self.is_foreign.load(Ordering::Relaxed) {
            return seen;
        }
        let mut foreign = Seen::default();
        (0..seen.items.len()).for_each(|_| foreign.add(|| "an entry".to_owned(), Err("not ours")));
        foreign
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryBackend for Scripted {
    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    fn update(&self, instance: Arc<Instance>) {
        self.updates.fetch_add(1, Ordering::Relaxed);
        self.inner.update(instance);
    }

    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        let what = format!(" {} after {:?}", claim.node.name, claim.last);
        let mut lease = self.call("register", what, self.inner.register(claim)).await?;
        if self.lies.load(Ordering::Relaxed) {
            Arc::make_mut(&mut lease.registration).node.port = 1;
        }
        Ok(lease)
    }

    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        let what = format!(" {}", held.len());
        self.call("renew", what, self.inner.renew(held)).await
    }

    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        self.call("publish", format!(" {}", leases.len()), self.inner.publish(leases)).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        let what = format!(" {}", lease.registration.node.name);
        self.call("release", what, self.inner.release(lease)).await
    }

    async fn retire(&self) -> Result<(), BackendError> {
        self.call("retire", String::new(), self.inner.retire()).await
    }

    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        let Search { name, scope, near, most } = search;
        let what = match scope {
            Scope::Host(host) => format!(" {name} on {host} near {near}, {most} of them"),
            Scope::Cluster => format!(" {name} near {near}, {most} of them"),
        };
        Ok(self.seen(self.call("find", what, self.inner.find(search)).await?))
    }

    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        let what = match scope {
            Scope::Host(host) => format!(" {host}"),
            Scope::Cluster => " of all".to_owned(),
        };
        Ok(self.seen(self.call("list", what, self.inner.list(scope)).await?))
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        Ok(self.seen(self.call("daemons", String::new(), self.inner.daemons(scope)).await?))
    }

    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        self.call("leave_note", String::new(), self.inner.leave_note(note)).await
    }

    async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        Ok(self.seen(self.call("notes", String::new(), self.inner.notes()).await?))
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        let (watcher, changes) = mpsc::unbounded_channel();
        self.watchers.lock().unwrap().push(watcher);
        Box::pin(stream::unfold(changes, |mut changes| async {
            changes.recv().await.map(|change| (change, changes))
        }))
    }

    fn local_address(&self) -> Option<IpAddr> {
        *self.local_address.lock().unwrap()
    }
}
