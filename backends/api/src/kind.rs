//! A kind of registry, as a program offers it to its settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::RegistryBackend;
use crate::error::BackendError;
use crate::node::Instance;
use crate::report::StoreReport;

/// What settings say of a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it is, as [`Kind::check`] has taken it. It may hold a password.
    pub url: String,
    /// The registry within the store: daemons of different clusters never see each other.
    pub cluster: String,
    /// How long it is to keep a registration that is not renewed.
    pub lease_ttl: Duration,
}

impl fmt::Debug for Place {
    /// Without the URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, cluster, lease_ttl } = self;
        f.debug_struct("Place")
            .field("cluster", cluster)
            .field("lease_ttl", lease_ttl)
            .finish_non_exhaustive()
    }
}

/// A kind of registry. The program lists those that it has, and nothing else knows one by name.
#[async_trait]
pub trait Kind: fmt::Debug + Send + Sync {
    /// What comes before `://` in its URLs, or the one word that is all of its URL. The first is what it is called.
    fn schemes(&self) -> &'static [&'static str];

    /// Whether several daemons can have one registry of this kind.
    fn is_shared(&self) -> bool;

    /// Looks at a URL of one of its schemes, and asks nobody.
    ///
    /// # Errors
    /// What was expected instead, in words for an operator. Never a password.
    fn check(&self, url: &str) -> Result<(), String>;

    /// Opens a registry for one run of one daemon. Called where an event loop runs; does not wait for a store.
    ///
    /// # Errors
    /// What has changed since the check, such as a file that is gone.
    fn open(&self, place: &Place, instance: Arc<Instance>) -> Result<Arc<dyn RegistryBackend>, String>;

    /// Asks how the store is, within a few seconds. `None`: there is none to ask.
    ///
    /// # Errors
    /// As [`RegistryBackend::find`].
    async fn inspect(&self, place: &Place) -> Result<Option<StoreReport>, BackendError>;

    /// What an operator may run in the store beforehand, in the store's own language, where the daemon's login may not
    /// make what it needs. `None`: nothing has to be made.
    fn schema(&self) -> Option<String> {
        None
    }
}
