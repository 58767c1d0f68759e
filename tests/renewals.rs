//! What a daemon makes of a store that does a part of what it is asked for, on a clock of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use repmd::registry::{Answer, Lookup, Options, Question, Registry, State};
use repmd_backend_api::{
    AliveName, BackendError, Change, Claim, Found, Holdings, HostId, Instance, Lease, Node, Note, Promises,
    RegistryBackend, Renewed, Scope, Search, Seen,
};
use repmd_backend_faulty::{Faulty, Link};
use repmd_backend_memory::{Handle, Memory};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const TTL: Duration = Duration::from_secs(15);
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

fn memory() -> Memory {
    let started = Instant::now();
    Memory::with_leases(TTL, Arc::new(move || EPOCH + started.elapsed()))
}

fn daemon(host: &str) -> Arc<Instance> {
    Arc::new(Instance::new(format!("{host}:4369"), HostId::parse(host).unwrap()))
}

fn registry(backend: Arc<dyn RegistryBackend>, instance: Arc<Instance>) -> Arc<Registry> {
    let started = Instant::now();
    let options = Options {
        lookup: Lookup::Host,
        stale_for: None,
        deadline: Duration::from_millis(500),
        clock: Arc::new(move || EPOCH + started.elapsed()),
        probe: Arc::new(|_, _| Box::pin(async { false })),
    };
    Arc::new(Registry::new(backend, instance, options))
}

fn node(number: u16) -> Node {
    Node::ordinary(AliveName::parse(format!("n{number}").as_bytes()).unwrap(), number)
}

/// The one that waited longest for the store was once given what a name had already had, because others had been
/// accepted meanwhile.
#[tokio::test(start_paused = true)]
async fn a_node_that_waits_for_the_store_in_vain_gets_a_creation_that_its_name_has_not_had() {
    let here = daemon("here");
    let faulty = Faulty::new(Arc::new(memory().attach(Arc::clone(&here))), 0);
    faulty.faults().set_link(Link::Stalled);
    let registry = registry(Arc::new(faulty), here);
    let register_at = async |milliseconds, claim, number| {
        sleep(Duration::from_millis(milliseconds)).await;
        registry.register(claim, node(number), number).await.unwrap().creation()
    };
    let (first, next, _other) =
        tokio::join!(register_at(450, 1, 1), register_at(900, 2, 1), register_at(1200, 3, 2));
    assert!(first.is_offline() && next.is_offline());
    assert_ne!(first, next);
}

/// How many leases are in which state.
fn count(registry: &Registry, wanted: impl Fn(&State) -> bool) -> usize {
    registry.held().iter().filter(|held| wanted(&held.state)).count()
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_costs_no_lease_behind_it() {
    let (memory, here) = (memory(), daemon("here"));
    let store = memory.attach(daemon("there"));
    let inner = memory.attach(Arc::clone(&here));
    let picky = Arc::new(Picky { inner, answers: AtomicBool::new(true) });
    let registry = registry(Arc::clone(&picky) as Arc<dyn RegistryBackend>, here);
    for number in 0..1600 {
        registry.register(number.into(), node(number), number).await.unwrap();
    }
    let keeping = CancellationToken::new();
    let keeper = tokio::spawn({
        let (registry, keeping) = (Arc::clone(&registry), keeping.clone());
        async move { registry.keep(&keeping).await }
    });
    for answers in [true, false] {
        picky.answers.store(answers, Ordering::Relaxed);
        sleep(3 * TTL).await;
        let names = store.list(&Scope::Cluster).await.unwrap().items.len();
        assert_eq!(names, 1100, "the batch of n0 is 500 names, whether it is refused or not answered");
        // What is not in the store is not shown as if it were.
        assert_eq!(count(&registry, |state| *state == State::Unpublished), 500);
        assert_eq!(count(&registry, |state| *state == State::Published), 1100);
    }
    keeping.cancel();
    keeper.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn leases_that_could_not_be_renewed_for_a_ttl_are_shown_as_unpublished_until_the_store_has_them_again()
{
    let (memory, here) = (memory(), daemon("here"));
    let store = memory.attach(daemon("there"));
    let faulty = Faulty::new(Arc::new(memory.attach(Arc::clone(&here))), 0);
    let faults = faulty.faults();
    let registry = registry(Arc::new(faulty), here);
    for number in 0..10 {
        registry.register(number.into(), node(number), number).await.unwrap();
    }
    let keeping = CancellationToken::new();
    let keeper = tokio::spawn({
        let (registry, keeping) = (Arc::clone(&registry), keeping.clone());
        async move { registry.keep(&keeping).await }
    });
    sleep(TTL / 2).await;
    faults.set_link(Link::Cut);
    sleep(TTL / 2).await;
    assert_eq!(registry.lease_counts().unpublished, 0, "they have not run out");
    sleep(TTL).await;
    assert_eq!(store.list(&Scope::Cluster).await.unwrap().items.len(), 0);
    assert_eq!(registry.lease_counts().unpublished, 10);
    let complaints = registry.readiness().borrow().complaints.join("; ");
    assert!(complaints.contains("10 names are not published"), "{complaints}");
    faults.set_link(Link::Up);
    sleep(TTL / 3).await;
    assert_eq!(registry.lease_counts().unpublished, 0);
    assert_eq!(store.list(&Scope::Cluster).await.unwrap().items.len(), 10);
    keeping.cancel();
    keeper.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_name_whose_entry_cannot_be_read_is_answered_from_memory_and_has_not_left() {
    let (memory, here, there) = (memory(), daemon("here"), daemon("asker"));
    let inner = memory.attach(Arc::clone(&there));
    let picky = Arc::new(Picky { inner, answers: AtomicBool::new(true) });
    let holder = registry(Arc::new(memory.attach(Arc::clone(&here))), here);
    let asker = registry(Arc::clone(&picky) as _, there);
    let lease = holder.register(1, node(1), 1).await.unwrap();
    let (host, name) = (HostId::parse("here").unwrap(), node(1).name);
    let question = Question::On(host.clone(), name.clone());
    let port = async || match asker.look_up(&question, None).await.answer {
        Answer::Node(registration) => Some(registration.node.port),
        Answer::Daemon(_) | Answer::Absent => None,
    };
    assert_eq!((port().await, asker.has_left(&host, &name).await), (Some(1), false));
    picky.answers.store(false, Ordering::Relaxed);
    sleep(2 * Duration::from_secs(1)).await;
    assert_eq!((port().await, asker.has_left(&host, &name).await), (Some(1), false));
    picky.answers.store(true, Ordering::Relaxed);
    holder.release(&lease).await;
    sleep(2 * Duration::from_secs(1)).await;
    assert_eq!((port().await, asker.has_left(&host, &name).await), (None, true));
}

/// A store that does not renew a batch with the name `n0`: it refuses it, or does not answer. In the second case it cannot read any entry either.
#[derive(Debug)]
struct Picky {
    inner: Handle,
    answers: AtomicBool,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryBackend for Picky {
    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        self.publish(&held.take(500)).await
    }

    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        if leases.iter().any(|lease| lease.registration.node.name.as_str() == "n0") {
            if self.answers.load(Ordering::Relaxed) {
                return Err(BackendError::Denied { action: "renew".to_owned(), source: "no".into() });
            }
            std::future::pending::<()>().await;
        }
        self.inner.publish(leases).await
    }

    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    fn update(&self, instance: Arc<Instance>) {
        self.inner.update(instance);
    }

    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        self.inner.register(claim).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        self.inner.release(lease).await
    }

    async fn retire(&self) -> Result<(), BackendError> {
        self.inner.retire().await
    }

    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        let mut seen = self.inner.find(search).await?;
        if !self.answers.load(Ordering::Relaxed) {
            for Found { registration, .. } in std::mem::take(&mut seen.items) {
                seen.add(|| registration.node_name().to_string(), Err("of a later version"));
            }
        }
        Ok(seen)
    }

    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        self.inner.list(scope).await
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        self.inner.daemons(scope).await
    }

    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        self.inner.leave_note(note).await
    }

    async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        self.inner.notes().await
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        self.inner.watch()
    }

    fn local_address(&self) -> Option<IpAddr> {
        self.inner.local_address()
    }
}
