//! The contract between the daemon and a registry.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::creation::Creation;
use crate::error::BackendError;
use crate::name::{AliveName, HostId};
use crate::node::{Instance, InstanceId, Node, Registration};

/// One daemon's handle to where registrations live.
///
/// Object-safe on purpose: the daemon picks one at start-up, and wrappers stack. A handle is opened for one run of
/// one daemon, in one cluster, and sees no other cluster; whatever a store has for its clients, such as a session
/// or a lease, is the handle's. Each call is atomic, but for what says otherwise. A name is unique on its host, not
/// in its cluster. `backends/conformance` has a test a promise.
///
/// Deadlines are the caller's: a backend has none of its own, and each call may be dropped at any await. It
/// then may or may not have happened, or may yet happen; calling again is safe.
///
/// There are no default bodies: a wrapper that forgets a method would bypass the backend inside it.
#[async_trait]
pub trait RegistryBackend: fmt::Debug + Send + Sync + 'static {
    /// What this registry promises in figures. Always the same for one handle.
    fn promises(&self) -> Promises;

    /// From now on the daemon is at other addresses, or its host has other aliases; all else of it stays. Others
    /// read that after the next call of [`renew`](Self::renew), or after [`publish`](Self::publish) in what was
    /// published.
    fn update(&self, instance: Arc<Instance>);

    /// Registers the claim's node, unless another daemon's live lease holds its name on that host, and
    /// returns the proof of ownership.
    ///
    /// A registration held by the same instance, or by an earlier one of the same instance name, is
    /// replaced: the daemon knows its own sockets. So is one whose holder no longer counts as alive
    /// ([`liveness`]). The creation differs from that of every earlier life of the name on its host, as far as the
    /// store remembers them, and from [`Claim::last`]; it is below 2^31: the upper half is for daemons that cannot
    /// reach their store. The claimant counts as alive from now on.
    ///
    /// Idempotent: a claim whose token holds the name already gets the lease that it has. One that arrives
    /// late, when a newer claim of the same run has the name, leaves that alone.
    ///
    /// # Errors
    /// [`BackendError::NameTaken`] names the holder, and nothing has changed. After any other error
    /// nobody knows whether the registration was made; calling again with the same claim is safe.
    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError>;

    /// Keeps what the daemon holds for another TTL: takes leases from `held`, as many as the store is to hear of in
    /// one step, and does with each what [`publish`](Self::publish) does. A round of renewals is one `Holdings`, and
    /// calls until it is empty. The daemon counts as alive from now on, also when it holds nothing.
    ///
    /// Whatever else this daemon had registered when the round began is not kept for another TTL, and may end at
    /// once. What it registers or publishes meanwhile is kept.
    ///
    /// # Errors
    /// When none of the leases that were taken could be tried; then none is lost, only unknown. Those that were not
    /// taken are as before.
    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError>;

    /// Writes the full record of each lease where it is absent or the lease's own, and extends it by the
    /// TTL: a store that lost everything is whole again after one round. Never overwrites another owner.
    /// The daemon counts as alive from now on.
    ///
    /// What the daemon itself left behind is no other owner, and is replaced: a lease of the same run with
    /// a lower number, and one of another run of the same instance name that does not count as alive. An
    /// older lease of a run never replaces a newer one.
    ///
    /// Answers for each lease, in no order. Atomic for each lease. Idempotent. What is wrong with one lease alone is
    /// [`Renewal::Failed`], and costs no other.
    ///
    /// # Errors
    /// When no lease could be tried; then none is lost, only unknown.
    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError>;

    /// Ends this lease and no other: does nothing once the name has a new owner. Idempotent.
    ///
    /// # Errors
    /// When the store could not be told; the registration then ends with its TTL.
    async fn release(&self, lease: &Lease) -> Result<(), BackendError>;

    /// Says that this run of the daemon ends: it no longer counts as alive, so that any daemon of its host may take
    /// its names over. Its leases run out, unless its next run takes them over first. If it registers, publishes or
    /// renews after all, it counts as alive again.
    ///
    /// # Errors
    /// When the store could not be told; the daemon then counts as alive for a little longer.
    async fn retire(&self) -> Result<(), BackendError>;

    /// The live registrations of a name, `search.most` of them at most. Where there are more, that of
    /// `search.near` is among them; within [`Scope::Host`], those on the host itself come before those on
    /// hosts that have it as an alias. Empty is knowledge ("not registered"), never a guess made while the
    /// store is unreachable.
    ///
    /// # Errors
    /// When nothing is known. An entry that cannot be read costs its own name alone, see [`Seen`].
    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError>;

    /// Every live registration within `scope`, in no order.
    ///
    /// # Errors
    /// As [`RegistryBackend::find`].
    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError>;

    /// The daemons within `scope` that count as alive, in no order.
    ///
    /// # Errors
    /// As [`RegistryBackend::find`].
    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError>;

    /// Leaves a note of this daemon for all daemons of the cluster, in the place of its last one. It lasts for
    /// [`liveness`] unless another one follows, and only as long as the daemon counts as alive. What is in it is
    /// the daemons' affair; [`NOTE_BYTES_MAX`] bytes at most.
    ///
    /// Leaving one does not make a daemon count as alive. Idempotent.
    ///
    /// # Errors
    /// When the store could not be told; the last note then stands for its time.
    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError>;

    /// The notes of the daemons that count as alive, in no order. A store may hold anything: what is longer than a
    /// note may be is unreadable.
    ///
    /// # Errors
    /// As [`RegistryBackend::find`].
    async fn notes(&self) -> Result<Seen<Note>, BackendError>;

    /// What changes from now on, as a speed-up: no decision may depend on a change arriving. Ends when
    /// the backend cannot watch any longer; renewals are no changes.
    fn watch(&self) -> BoxStream<'static, Change>;

    /// This machine's address on a connection to the store that is open now: what a daemon that was told no
    /// address tells others. It changes with the network, so ask again. `None`: no connection is open, or
    /// the store is in this process.
    fn local_address(&self) -> Option<IpAddr>;
}

/// What a registry promises in figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// How long a registration outlives its last renewal, at least.
    ///
    /// `None`: registrations live and die with this process. Then nothing needs renewing, and nobody
    /// else can be asked.
    pub lease_ttl: Option<Duration>,
    /// How much longer than that it may live, at most: the same for how long a daemon counts as alive. A store may
    /// count in whole seconds, or begin anew when its leader changes.
    pub ends_within: Duration,
    /// Whether a name on a host has one holder at most. Where it has not, [`RegistryBackend::register`] refuses
    /// nobody.
    pub excludes: bool,
    /// How long an answer counts as fresh, if nothing is heard of by [`RegistryBackend::watch`].
    pub fresh_for: Duration,
}

impl Promises {
    /// Those of a registry that lives in this process.
    pub const LOCAL: Self =
        Self { lease_ttl: None, ends_within: Duration::ZERO, excludes: true, fresh_for: Duration::MAX };

    /// Those of a store that is exact, and is asked at least each second.
    #[must_use]
    pub const fn leases(lease_ttl: Duration) -> Self {
        Self {
            lease_ttl: Some(lease_ttl),
            ends_within: Duration::ZERO,
            excludes: true,
            fresh_for: Duration::from_secs(1),
        }
    }
}

/// How long a daemon counts as alive after it last registered or renewed: two renewal intervals of a
/// third of `lease_ttl`. Shorter than a lease, so that a name can change hands before the lease of a
/// dead holder is over.
#[must_use]
pub fn liveness(lease_ttl: Duration) -> Duration {
    lease_ttl * 2 / 3
}

/// The most bytes of a note.
pub const NOTE_BYTES_MAX: usize = 256 << 10;

/// What a daemon tells all others, see [`RegistryBackend::leave_note`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The run of the daemon that left it.
    pub instance: InstanceId,
    /// What it says.
    pub text: Box<[u8]>,
}

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The daemons whose host, or one of whose aliases, is this.
    Host(HostId),
    /// Every host of the cluster.
    Cluster,
}

impl Scope {
    /// Whether registrations held by `instance` are in this scope.
    #[must_use]
    pub fn covers(&self, instance: &Instance) -> bool {
        match self {
            Self::Host(host) => instance.answers_to(host),
            Self::Cluster => true,
        }
    }
}

/// What [`RegistryBackend::find`] looks for.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// The alive name.
    pub name: &'a AliveName,
    /// Where it may be registered.
    pub scope: &'a Scope,
    /// The host whose registration is wanted before all others: the asker's.
    pub near: &'a HostId,
    /// How many registrations are enough: a name may be registered on a thousand hosts.
    pub most: usize,
}

/// What could be read of a registry, and what could not: a later format, somebody else's entry. A part of an
/// answer is an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<T> {
    /// What could be read.
    pub items: Vec<T>,
    /// How many entries could not.
    pub unreadable: usize,
    /// The first [`Self::EXAMPLES_MAX`] of those.
    pub examples: Vec<Unreadable>,
}

/// An entry that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it is in the store.
    pub at: String,
    /// What is wrong with it; at most [`REASON_CHARS_MAX`] characters.
    pub reason: String,
}

/// The most characters of what a store says that are kept: it may say anything.
pub const REASON_CHARS_MAX: usize = 300;

impl<T> Seen<T> {
    /// How many unreadable entries are told apart. They are for people, who need not see each.
    pub const EXAMPLES_MAX: usize = 8;

    /// Takes an entry into the answer, or notes that it cannot be read.
    pub fn add(&mut self, at: impl FnOnce() -> String, entry: Result<T, impl fmt::Display>) {
        match entry {
            Ok(item) => self.items.push(item),
            Err(reason) => {
                self.unreadable += 1;
                if self.examples.len() < Self::EXAMPLES_MAX {
                    let short = |text: String| text.chars().take(REASON_CHARS_MAX).collect();
                    self.examples.push(Unreadable { at: short(at()), reason: short(reason.to_string()) });
                }
            }
        }
    }

    /// Takes another answer into this one.
    pub fn append(&mut self, mut other: Self) {
        self.items.append(&mut other.items);
        self.unreadable += other.unreadable;
        self.examples.append(&mut other.examples);
        self.examples.truncate(Self::EXAMPLES_MAX);
    }

    /// The same, with something else in the place of each item.
    #[must_use]
    pub fn with<U>(self, items: Vec<U>) -> Seen<U> {
        Seen { items, unreadable: self.unreadable, examples: self.examples }
    }
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self { items: Vec::new(), unreadable: 0, examples: Vec::new() }
    }
}

impl<T> From<Vec<T>> for Seen<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, ..Self::default() }
    }
}

/// Unique to one lease, for ever: what a store compares before it changes a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseToken {
    /// The run of the daemon that made the claim.
    pub instance: InstanceId,
    /// Which of its claims.
    pub number: u64,
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.instance, self.number)
    }
}

/// A daemon's wish to register a node.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which of the claims of this run of the daemon this is; together they are the lease's token.
    pub number: u64,
    /// What the node said.
    pub node: Node,
    /// The port that askers from other machines get.
    pub advertised_port: u16,
    /// When, by the claimant's clock. For people and for the order of lists; no decision is made by it.
    pub registered_at: SystemTime,
    /// The last creation that the claimant remembers for this name: the next one differs from it, and where creations
    /// are counted is above it, though the store may have lost its own count.
    pub last: Option<Creation>,
}

impl Claim {
    /// What the lease will be known by, when `instance` claims.
    #[must_use]
    pub fn token(&self, instance: InstanceId) -> LeaseToken {
        LeaseToken { instance, number: self.number }
    }

    /// The lease of this claim, once the creation is known.
    #[must_use]
    pub fn granted(&self, instance: Arc<Instance>, creation: Creation) -> Lease {
        let token = self.token(instance.id);
        let registration = Arc::new(Registration {
            node: self.node.clone(),
            advertised_port: self.advertised_port,
            creation,
            instance,
            registered_at: self.registered_at,
        });
        Lease { token, registration }
    }
}

/// The proof of owning a registration. It carries the full record, so that a renewal can restore it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Proves the ownership.
    pub token: LeaseToken,
    /// What is registered.
    pub registration: Arc<Registration>,
}

impl Lease {
    /// Whether this lease, which holds a name, is what the daemon of `newer` itself left behind, so that a
    /// renewal replaces it. `holder_lives`: whether the run that holds it counts as alive.
    #[must_use]
    pub fn is_past_of(&self, newer: &Self, holder_lives: bool) -> bool {
        if self.token.instance == newer.token.instance {
            self.token.number < newer.token.number
        } else {
            self.registration.instance.name == newer.registration.instance.name && !holder_lives
        }
    }

    /// The creation that the node is told.
    #[must_use]
    pub fn creation(&self) -> Creation {
        self.registration.creation
    }
}

/// A live registration, as a registry finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What is registered.
    pub registration: Arc<Registration>,
    /// How long it lives on unless it is renewed, by the store's clock. `None` without leases.
    pub left: Option<Duration>,
}

/// What a daemon holds, as a round of renewals takes it. A lease is looked up when it is taken: what was released
/// since the round began is not renewed.
pub struct Holdings<'a> {
    leases: Box<dyn ExactSizeIterator<Item = Option<Lease>> + Send + 'a>,
}

impl<'a> Holdings<'a> {
    /// Those of an iterator that gives each once, or `None` in the place of one that is held no longer.
    #[must_use]
    pub fn new(leases: impl ExactSizeIterator<Item = Option<Lease>> + Send + 'a) -> Self {
        Self { leases: Box::new(leases) }
    }

    /// The next ones, `most` of them at most. There may be none, though some seemed to be left.
    pub fn take(&mut self, most: usize) -> Vec<Lease> {
        self.leases.by_ref().flatten().take(most).collect()
    }

    /// How many are left to take, at most.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether none is left to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Holdings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holdings").field("left", &self.len()).finish_non_exhaustive()
    }
}

/// What became of one lease in [`RegistryBackend::renew`] or [`RegistryBackend::publish`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// Which lease, as it was given to the call.
    pub lease: Lease,
    /// What became of it.
    pub renewal: Renewal,
}

/// How a renewal of one lease went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It is held for another TTL.
    Held,
    /// Another owner has the name now. The node itself is not disturbed: report it and keep trying.
    Conflict {
        /// The instance name of the daemon that holds it.
        holder: String,
    },
    /// The store refuses just this one, such as when something else lives under its key. Report it and
    /// keep trying.
    Failed {
        /// What the store said.
        reason: String,
    },
}

/// Something that happened in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// The name was registered on the host, or moved to another port.
    Registered(AliveName, HostId),
    /// The name left the host.
    Released(AliveName, HostId),
    /// The name left the host, because its lease was not renewed. Nobody has to notice when that happens, so it
    /// is told late or not at all.
    Expired(AliveName, HostId),
    /// Changes may have been missed, or were too many at once to tell each: whatever was remembered may be wrong.
    Missed,
}
