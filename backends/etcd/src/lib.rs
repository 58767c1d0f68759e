//! The shared registry in etcd: one lease a daemon, with its names on it.
//!
//! A registration is a key that lives as long as its daemon's lease, so a renewal is a message or two, whatever the
//! number of names, and changes nothing in the store. Each verb is one transaction, which compares what it expects
//! with what is there. etcd 3.4 is the oldest that works.
//!
//! | module | noun |
//! |---|---|
//! | [`settings`] | where the store is and how to get in, as one URL |
//! | `connection` | the way to a member that has a leader, kept open |
//! | `dial` | one connection, from an address to the login |
//! | `line` | calls over it |
//! | `proto` | the messages of etcd's API |
//! | `history` | whether the store goes on where it was |
//! | `store` | what all calls of a daemon share: its leases, where creations count on from |
//! | `holding` | what the daemon has in the store |
//! | `claim` | registering one node |
//! | `publish` | writing all that the daemon holds, or what has changed |
//! | `read` | finding and listing what all daemons have |
//! | `watch` | what changes |
//! | `inspect` | how the store is, for people who look for faults |
//! | `keys` | the names of what is in the store |
//! | `record` | how registrations and daemons are written down |
//! | `creation` | which creation a registration gets |
//! | `error` | what went wrong, and which [`BackendError`] that is |

mod claim;
mod connection;
mod creation;
mod dial;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod history;
mod holding;
mod inspect;
mod keys;
mod kind;
mod line;
mod proto;
mod publish;
mod read;
mod record;
pub mod settings;
mod store;
mod watch;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use repmd_backend_api::{
    BackendError, Change, Claim, Found, Holdings, Instance, Lease, Note, Promises, RegistryBackend, Renewed,
    Scope, Search, Seen,
};
use tokio_util::task::AbortOnDropHandle;

use connection::Connection;
pub use inspect::TROUBLES;
use keys::Keys;
pub use kind::EtcdKind;
use repmd_backend_remote::Changes;
pub use settings::{Settings, SettingsError};
use store::{Store, Times};

/// How long etcd takes at most to notice that a lease is over, and to end it: it looks each half second, and ends
/// a thousand leases a second.
const ENDING: Duration = Duration::from_secs(2);

/// A registry in etcd.
pub struct Etcd {
    watched: Arc<Watched>,
    settings: Arc<Settings>,
}

struct Watched {
    store: Arc<Store>,
    changes: Changes,
    _watching: AbortOnDropHandle<()>,
}

impl Etcd {
    /// A registry for one run of a daemon, whose store is, or will be, where `settings` say. Does not wait for it:
    /// until it is reached, and whenever it is away, calls fail with [`BackendError::Unavailable`] or
    /// [`BackendError::Denied`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, where a task could not keep the connection.
    #[must_use]
    pub fn open(settings: Settings, instance: Arc<Instance>) -> Self {
        let settings = Arc::new(settings);
        let keys = Keys::new(&settings.cluster);
        let connection = Connection::open(Arc::clone(&settings), &keys);
        let store = Arc::new(Store::new(connection, keys, instance, Times::of(settings.lease_ttl)));
        let changes = Changes::new();
        let watching = tokio::spawn(watch::run(Arc::clone(&store), changes.clone()));
        let watched = Watched { store, changes, _watching: AbortOnDropHandle::new(watching) };
        Self { watched: Arc::new(watched), settings }
    }

    fn store(&self) -> &Store {
        &self.watched.store
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryBackend for Etcd {
    /// A leader that is elected lets all leases begin anew.
    fn promises(&self) -> Promises {
        let lease_ttl = self.store().times.lease_ttl();
        Promises { ends_within: lease_ttl + ENDING, ..Promises::leases(lease_ttl) }
    }

    fn update(&self, instance: Arc<Instance>) {
        self.store().holding.update(instance);
    }

    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        self.store().register(claim).await
    }

    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        self.store().renew_all(held).await
    }

    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        self.store().publish(leases).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        self.store().release(lease).await
    }

    async fn retire(&self) -> Result<(), BackendError> {
        self.store().retire().await
    }

    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        self.store().find(search).await
    }

    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        self.store().list(scope).await
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        self.store().daemons(scope).await
    }

    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        self.store().leave_note(note).await
    }

    async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        self.store().notes().await
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        self.watched.changes.stream(Arc::clone(&self.watched))
    }

    fn local_address(&self) -> Option<IpAddr> {
        self.store().connection.local_address()
    }
}
