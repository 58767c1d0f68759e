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

/// Where registrations live.
///
/// Object-safe on purpose: the daemon picks one at start-up, and wrappers stack. A backend is built for
/// one cluster and sees no other. Each call is atomic, and bounded by the deadline that the backend was
/// built with (well below the 10 s that a node waits for its reply). A name is unique on its host, not in
/// its cluster. `backends/conformance` has a test a promise.
///
/// There are no default bodies: a wrapper that forgets a method would bypass the backend inside it.
#[async_trait]
pub trait RegistryBackend: fmt::Debug + Send + Sync + 'static {
    /// How long a registration outlives its last renewal.
    ///
    /// `None`: registrations live and die with this process. Then nothing needs renewing, and nobody
    /// else can be asked.
    fn lease_ttl(&self) -> Option<Duration>;

    /// Registers the claim's node, unless another daemon's live lease holds its name on that host, and
    /// returns the proof of ownership.
    ///
    /// A registration held by the same instance, or by an earlier one of the same instance name, is
    /// replaced: the daemon knows its own sockets. So is one whose holder no longer counts as alive
    /// ([`liveness`]). The creation differs from that of every earlier life of the name on its host, and
    /// is below 2^31: the upper half is for daemons that cannot reach their store. The claimant counts
    /// as alive from now on.
    ///
    /// Idempotent: a claim whose token holds the name already gets the lease that it has.
    ///
    /// # Errors
    /// [`BackendError::NameTaken`] names the holder, and nothing has changed. After any other error
    /// nobody knows whether the registration was made; calling again with the same claim is safe.
    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError>;

    /// Writes the full record of each lease where it is absent or the lease's own, and extends it by the
    /// TTL: a store that lost everything is whole again after one call. Never overwrites another owner.
    /// `instance` counts as alive from now on, also when it holds nothing.
    ///
    /// Answers in the order of `leases`. Idempotent.
    ///
    /// # Errors
    /// When no lease could be tried; then none is lost, only unknown.
    async fn renew(&self, instance: &Arc<Instance>, leases: &[Lease]) -> Result<Vec<Renewal>, BackendError>;

    /// Ends this lease and no other: does nothing once the name has a new owner. Idempotent.
    ///
    /// # Errors
    /// When the store could not be told; the registration then ends with its TTL.
    async fn release(&self, lease: &Lease) -> Result<(), BackendError>;

    /// Says that `instance` ends: it no longer counts as alive, so that any daemon of its host may take
    /// its names over. Its leases run out, unless its next run takes them over first.
    ///
    /// # Errors
    /// When the store could not be told; the instance then counts as alive for a little longer.
    async fn retire(&self, instance: &Instance) -> Result<(), BackendError>;

    /// The live registrations of `name` within `scope`, in no order. Empty is knowledge ("not
    /// registered"), never a guess made while the store is unreachable.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`]: nobody knows. [`BackendError::Corrupt`]: something is there that
    /// cannot be read.
    async fn find(&self, name: &AliveName, scope: &Scope) -> Result<Vec<Found>, BackendError>;

    /// Every live registration within `scope`, newest first on each host.
    ///
    /// # Errors
    /// As [`RegistryBackend::find`].
    async fn list(&self, scope: &Scope) -> Result<Vec<Found>, BackendError>;

    /// The daemons within `scope` that count as alive, in no order.
    ///
    /// # Errors
    /// As [`RegistryBackend::find`].
    async fn daemons(&self, scope: &Scope) -> Result<Vec<Arc<Instance>>, BackendError>;

    /// What changes from now on, as a speed-up: no decision may depend on a change arriving. Ends when
    /// the backend cannot watch any longer; renewals are no changes.
    fn watch(&self) -> BoxStream<'static, Change>;

    /// This machine's address on a connection to the store that is open now: what a daemon that was told no
    /// address tells others. It changes with the network, so ask again. `None`: no connection is open, or
    /// the store is in this process.
    fn local_address(&self) -> Option<IpAddr>;
}

/// How long a daemon counts as alive after it last registered or renewed: two renewal intervals of a
/// third of `lease_ttl`. Shorter than a lease, so that a name can change hands before the lease of a
/// dead holder is over.
#[must_use]
pub fn liveness(lease_ttl: Duration) -> Duration {
    lease_ttl * 2 / 3
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
    /// Which of the claims of [`Claim::instance`] this is; together they are the lease's token.
    pub number: u64,
    /// What the node said.
    pub node: Node,
    /// The port that askers from other machines get.
    pub advertised_port: u16,
    /// Who claims.
    pub instance: Arc<Instance>,
    /// When, by the claimant's clock. For people; no decision is made by it.
    pub registered_at: SystemTime,
    /// The last creation that the claimant remembers for this name: the next one is above it, though the
    /// store may have lost its own count.
    pub last: Option<Creation>,
}

impl Claim {
    /// What the lease will be known by.
    #[must_use]
    pub fn token(&self) -> LeaseToken {
        LeaseToken { instance: self.instance.id, number: self.number }
    }

    /// The lease of this claim, once the creation is known.
    #[must_use]
    pub fn granted(&self, creation: Creation) -> Lease {
        let registration = Arc::new(Registration {
            node: self.node.clone(),
            advertised_port: self.advertised_port,
            creation,
            instance: Arc::clone(&self.instance),
            registered_at: self.registered_at,
        });
        Lease { token: self.token(), registration }
    }
}

/// The proof of owning a registration. It carries the full record, so that a renewal can restore it.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Proves the ownership.
    pub token: LeaseToken,
    /// What is registered.
    pub registration: Arc<Registration>,
}

impl Lease {
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

/// What became of one lease in [`RegistryBackend::renew`].
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
    /// Changes may have been missed: whatever was remembered may be wrong.
    Missed,
}
