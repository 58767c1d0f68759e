//! What the cases act with: daemons, each with its own handle to the registry, and a watcher.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use repmd_backend_api::{
    AliveName, BackendError, Change, Claim, Creation, Found, Holdings, HostId, Instance, InstanceId, Lease,
    Node, NodeType, Promises, Registration, RegistryBackend, Renewal, Renewed, Scope, Search, Seen,
};
use tokio::time::{Instant, timeout};

use crate::Fixture;

/// How long a change may take to reach a watcher.
const CHANGE_DEADLINE: Duration = Duration::from_secs(20);

/// One run of one daemon.
pub(crate) struct Daemon {
    pub(crate) instance: Arc<Instance>,
    pub(crate) backend: Arc<dyn RegistryBackend>,
    claims: AtomicU64,
}

impl Daemon {
    /// A daemon of this instance name on this host, which has told the registry nothing yet.
    pub(crate) async fn start(fixture: &impl Fixture, name: &str, on: &str) -> Self {
        Self::run(fixture, instance(name, on)).await
    }

    /// The first daemon of a host.
    pub(crate) async fn of(fixture: &impl Fixture, on: &str) -> Self {
        Self::start(fixture, &format!("{on}:4369"), on).await
    }

    pub(crate) async fn run(fixture: &impl Fixture, instance: Instance) -> Self {
        let instance = Arc::new(instance);
        let backend = fixture.open(Arc::clone(&instance)).await;
        Self { instance, backend, claims: AtomicU64::new(0) }
    }

    /// The next run of this daemon.
    pub(crate) async fn next_run(&self, fixture: &impl Fixture) -> Self {
        let id = InstanceId::random();
        Self::run(fixture, Instance { id, ..(*self.instance).clone() }).await
    }

    /// A new claim of `name`, with a node that says something in every field.
    pub(crate) fn claim(&self, name: &str) -> Claim {
        let number = self.claims.fetch_add(1, Ordering::Relaxed);
        let node = Node {
            name: alive(name),
            port: 25672,
            node_type: NodeType::HIDDEN,
            protocol: 1,
            highest_version: 6,
            lowest_version: 5,
            // Neither text nor free of what ends text.
            extra: Box::new(*b"\0\xff\n\"}"),
        };
        Claim {
            number,
            node,
            advertised_port: 9100,
            registered_at: SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789),
            last: None,
        }
    }

    pub(crate) async fn register(&self, name: &str) -> Lease {
        self.backend.register(&self.claim(name)).await.unwrap()
    }

    /// Registers `name`, and is to be refused; returns the holder that the refusal names.
    pub(crate) async fn refused(&self, name: &str) -> String {
        match self.backend.register(&self.claim(name)).await {
            Err(BackendError::NameTaken { name: taken, holder }) => {
                assert_eq!((taken.alive, taken.host), (alive(name), self.instance.host.clone()));
                holder
            }
            other => panic!("{name} is to be refused, and was not: {other:?}"),
        }
    }

    /// The lease of a node that the daemon accepted without the store, as a creation of the upper half says.
    pub(crate) fn unpublished(&self, name: &str) -> Lease {
        self.lease(name, Creation::offline(Duration::from_secs(1_800_000_000), 7))
    }

    /// A lease that the store has not granted.
    pub(crate) fn lease(&self, name: &str, creation: Creation) -> Lease {
        self.claim(name).granted(Arc::clone(&self.instance), creation)
    }

    /// One round of renewals: what became of each lease, in the order of `leases`.
    pub(crate) async fn renew(&self, leases: &[Lease]) -> Vec<Renewal> {
        let mut held = holdings(leases);
        let mut renewed = Vec::new();
        loop {
            let left = held.len();
            renewed.extend(self.backend.renew(&mut held).await.unwrap());
            assert!(held.len() < left || left == 0, "a renewal takes none of {left} leases");
            if held.is_empty() {
                return in_order(leases, renewed);
            }
        }
    }

    /// What became of each, in the order of `leases`.
    pub(crate) async fn publish(&self, leases: &[Lease]) -> Vec<Renewal> {
        in_order(leases, self.backend.publish(leases).await.unwrap())
    }

    pub(crate) async fn retire(&self) {
        self.backend.retire().await.unwrap();
    }

    pub(crate) fn promises(&self) -> Promises {
        self.backend.promises()
    }

    pub(crate) async fn release(&self, lease: &Lease) {
        self.backend.release(lease).await.unwrap();
    }

    pub(crate) async fn find(&self, name: &str, scope: &Scope) -> Vec<Arc<Registration>> {
        self.some(name, scope, usize::MAX).await
    }

    /// `most` registrations of `name`, seen from this daemon's host.
    pub(crate) async fn some(&self, name: &str, scope: &Scope, most: usize) -> Vec<Arc<Registration>> {
        let name = alive(name);
        // A script may count in 32 bits.
        let most = most.min(1 << 20);
        let search = Search { name: &name, scope, near: &self.instance.host, most };
        self.registrations(self.backend.find(&search).await)
    }

    /// The one registration of `name` on this daemon's host.
    pub(crate) async fn found(&self, name: &str) -> Option<Arc<Registration>> {
        let mut found = self.find(name, &self.scope()).await;
        assert!(found.len() <= 1, "more than one {name} on one host: {found:?}");
        found.pop()
    }

    pub(crate) async fn list(&self, scope: &Scope) -> Vec<Arc<Registration>> {
        self.registrations(self.backend.list(scope).await)
    }

    /// The names within `scope`, in the order of the alphabet.
    pub(crate) async fn listed(&self, scope: &Scope) -> Vec<String> {
        let listed = self.list(scope).await;
        let mut names: Vec<_> = listed.into_iter().map(|found| found.node.name.as_str().to_owned()).collect();
        names.sort_unstable();
        names
    }

    fn registrations(&self, found: Result<Seen<Found>, BackendError>) -> Vec<Arc<Registration>> {
        let Seen { items: found, unreadable, examples } = found.unwrap();
        assert_eq!(unreadable, 0, "{examples:?}");
        for found in &found {
            let Promises { lease_ttl, ends_within, .. } = self.promises();
            match (found.left, lease_ttl) {
                (Some(left), Some(ttl)) => {
                    assert!(left <= ttl + ends_within, "lives on for {left:?} of {ttl:?}");
                }
                (left, ttl) => assert_eq!(left, ttl, "without leases nothing runs out"),
            }
        }
        found.into_iter().map(|found| found.registration).collect()
    }

    /// The daemons within `scope`, by instance name.
    pub(crate) async fn daemons(&self, scope: &Scope) -> Vec<Arc<Instance>> {
        let mut daemons = self.backend.daemons(scope).await.unwrap().items;
        daemons.sort_by(|a, b| a.name.cmp(&b.name));
        daemons
    }

    pub(crate) async fn leave_note(&self, note: &[u8]) {
        self.backend.leave_note(note).await.unwrap();
    }

    /// All notes, by the run of the daemon that left them.
    pub(crate) async fn notes(&self) -> Vec<(InstanceId, Vec<u8>)> {
        let Seen { items: notes, unreadable, examples } = self.backend.notes().await.unwrap();
        assert_eq!(unreadable, 0, "{examples:?}");
        let mut notes: Vec<_> = notes.into_iter().map(|note| (note.instance, note.text.into_vec())).collect();
        notes.sort();
        notes
    }

    pub(crate) fn scope(&self) -> Scope {
        Scope::Host(self.instance.host.clone())
    }
}

/// Sends all claims at once: the creations granted, or the holders named.
pub(crate) async fn at_once<'a>(
    claims: impl IntoIterator<Item = (&'a Daemon, Claim)>,
) -> Vec<Result<u32, String>> {
    let mut sent = Vec::new();
    for (daemon, claim) in claims {
        let backend = Arc::clone(&daemon.backend);
        sent.push(tokio::spawn(async move {
            match backend.register(&claim).await {
                Ok(lease) => Ok(lease.creation().get()),
                Err(BackendError::NameTaken { holder, .. }) => Err(holder),
                Err(error) => panic!("neither granted nor refused: {error:?}"),
            }
        }));
    }
    let mut answers = Vec::new();
    for answer in sent {
        answers.push(answer.await.unwrap());
    }
    answers
}

/// What a daemon holds that lets go of none while a round is under way.
pub(crate) fn holdings(leases: &[Lease]) -> Holdings<'_> {
    Holdings::new(leases.iter().cloned().map(Some))
}

/// The answers in the order of `leases`: one for each, and none for another.
fn in_order(leases: &[Lease], renewed: Vec<Renewed>) -> Vec<Renewal> {
    assert_eq!(renewed.len(), leases.len(), "as many answers as leases");
    let renewal = |lease: &Lease| {
        let mut answers = renewed.iter().filter(|answer| answer.lease.token == lease.token);
        match (answers.next(), answers.next()) {
            (Some(answer), None) => answer.renewal.clone(),
            other => panic!("{} is not answered once: {other:?}", lease.token),
        }
    };
    leases.iter().map(renewal).collect()
}

pub(crate) fn instance(name: &str, on: &str) -> Instance {
    Instance {
        aliases: vec![host(&format!("{on}.example")), host(&format!("{on}-alias"))],
        addresses: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        ..Instance::new(name, host(on))
    }
}

pub(crate) fn alive(name: &str) -> AliveName {
    AliveName::parse(name.as_bytes()).unwrap()
}

pub(crate) fn host(name: &str) -> HostId {
    HostId::parse(name).unwrap()
}

/// The holder that a refusal or a conflict names.
pub(crate) fn conflict_with(daemon: &Daemon) -> Renewal {
    Renewal::Conflict { holder: daemon.instance.name.clone() }
}

/// Sees what changes, by a handle of its own.
pub(crate) struct Watcher {
    changes: BoxStream<'static, Change>,
    host: HostId,
}

impl Watcher {
    /// A watcher that has been told of a change already: where watching begins with a connection, changes
    /// before it is made cannot arrive.
    pub(crate) async fn start(fixture: &impl Fixture) -> Self {
        let prober = Daemon::of(fixture, "watcher").await;
        let host = prober.instance.host.clone();
        let changes = prober.backend.watch();
        let mut watcher = Self { changes, host };
        let deadline = Instant::now() + CHANGE_DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "no registration is told to a watcher");
            prober.register("probe").await;
            let told = async {
                while !matches!(watcher.next_of_all().await, Change::Registered(_, on) if on == watcher.host)
                {
                }
            };
            if timeout(Duration::from_millis(200), told).await.is_ok() {
                return watcher;
            }
        }
    }

    /// The next change that a case made.
    pub(crate) async fn next(&mut self) -> Change {
        let next = async {
            loop {
                match self.next_of_all().await {
                    // Allowed at any time.
                    Change::Missed => {}
                    Change::Registered(_, on) | Change::Released(_, on) | Change::Expired(_, on)
                        if on == self.host => {}
                    change => return change,
                }
            }
        };
        timeout(CHANGE_DEADLINE, next).await.expect("no change is told to a watcher")
    }

    async fn next_of_all(&mut self) -> Change {
        self.changes.next().await.expect("the watch ended while its store was there")
    }
}
