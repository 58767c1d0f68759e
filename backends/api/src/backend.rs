//! The contract between the daemon and a registry.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::creation::Creation;
use crate::error::BackendError;
use crate::name::{AliveName, HostId};
use crate::node::{Instance, Node, Registration};

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

    /// Registers `node` as held by `instance`, unless another daemon's live lease holds its name on that
    /// host, and returns the proof of ownership.
    ///
    /// A registration held by the same instance, or by an earlier one of the same instance name, is
    /// replaced: the daemon knows its own sockets. So is one whose holder no longer renews. The creation
    /// differs from that of every earlier life of the name on its host.
    ///
    /// # Errors
    /// [`BackendError::NameTaken`] names the holder, and nothing has changed. After any other error
    /// nobody knows whether the registration was made; calling again is safe.
    async fn register(
        &self,
        node: &Node,
        advertised_port: u16,
        instance: &Arc<Instance>,
    ) -> Result<Lease, BackendError>;

    /// Writes the full record of each lease where it is absent or the lease's own, and extends it by the
    /// TTL: a store that lost everything is whole again after one call. Never overwrites another owner.
    ///
    /// Answers in the order of `leases`. Idempotent.
    ///
    /// # Errors
    /// When no lease could be tried; then none is lost, only unknown.
    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>, BackendError>;

    /// Ends this lease and no other: does nothing once the name has a new owner. Idempotent.
    ///
    /// # Errors
    /// When the store could not be told; the registration then ends with its TTL.
    async fn release(&self, lease: &Lease) -> Result<(), BackendError>;

    /// The live registrations of `name` within `scope`, in no order. Empty is knowledge ("not
    /// registered"), never a guess made while the store is unreachable.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`]: nobody knows. [`BackendError::Corrupt`]: something is there that
    /// cannot be read.
    async fn find(&self, name: &AliveName, scope: &Scope) -> Result<Vec<Registration>, BackendError>;

    /// Every live registration within `scope`, newest first on each host.
    ///
    /// # Errors
    /// As [`RegistryBackend::find`].
    async fn list(&self, scope: &Scope) -> Result<Vec<Registration>, BackendError>;

    /// What changes from now on, as a speed-up: no decision may depend on a change arriving. Ends when
    /// the backend cannot watch any longer; renewals are no changes.
    fn watch(&self) -> BoxStream<'static, Change>;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseToken(pub u128);

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
}

/// Something that happened in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The name was registered on the host, or moved to another port.
    Registered(AliveName, HostId),
    /// The name left the host.
    Released(AliveName, HostId),
    /// Changes may have been missed: whatever was remembered may be wrong.
    Missed,
}
