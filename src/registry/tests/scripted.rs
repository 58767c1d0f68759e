//! A store that answers as a test says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use repmd_backend_api::{
    BackendError, Change, Claim, Found, Holdings, Instance, Lease, Note, Promises, RegistryBackend, Renewed,
    Scope, Search, Seen,
};
use repmd_backend_memory::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// What a store does with calls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// It answers, after this time.
    Late(Duration),
    /// The same, once it has done what it was asked for.
    AnswersLate(Duration),
    Away,
    Denies,
}

/// A store in memory that answers as a test says, and remembers what it was asked.
#[derive(Debug)]
pub(super) struct Scripted {
    inner: Handle,
    /// By verb; "" is any.
    faults: Mutex<HashMap<&'static str, Fault>>,
    calls: Mutex<Vec<(Instant, String)>>,
    under_way: AtomicUsize,
    pub(super) most_under_way: AtomicUsize,
    /// No entry can be read.
    pub(super) is_foreign: AtomicBool,
    /// What it grants says another port than the claim.
    pub(super) lies: AtomicBool,
    pub(super) updates: AtomicUsize,
    local_address: Mutex<Option<IpAddr>>,
    pub(super) watchers: Mutex<Vec<mpsc::UnboundedSender<Change>>>,
}

impl Scripted {
    pub(super) fn new(inner: Handle) -> Self {
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
    pub(super) fn is(&self, verb: &'static str, fault: Fault) {
        self.faults.lock().unwrap().insert(verb, fault);
    }

    pub(super) fn heals(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// It was asked for what begins so.
    pub(super) fn calls(&self, start: &str) -> usize {
        self.times(start).len()
    }

    /// When it was asked for what begins so.
    pub(super) fn times(&self, start: &str) -> Vec<Instant> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(_, call)| call.starts_with(start)).map(|(at, _)| *at).collect()
    }

    pub(super) fn last_call(&self) -> String {
        self.calls.lock().unwrap().last().expect("something was asked").1.clone()
    }

    /// Tells those who watch.
    pub(super) fn tell(&self, change: &Change) {
        self.watchers.lock().unwrap().retain(|watcher| watcher.send(change.clone()).is_ok());
    }

    pub(super) fn ends_watches(&self) {
        self.watchers.lock().unwrap().clear();
    }

    pub(super) fn is_at(&self, local: Option<[u8; 4]>) {
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
        Ok(self.seen(self.call("list", whose(scope), self.inner.list(scope)).await?))
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        Ok(self.seen(self.call("daemons", whose(scope), self.inner.daemons(scope)).await?))
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

fn whose(scope: &Scope) -> String {
    match scope {
        Scope::Host(host) => format!(" of {host}"),
        Scope::Cluster => " of all".to_owned(),
    }
}
