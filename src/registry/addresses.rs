//! The addresses at which this daemon says that its nodes are, as far as they change.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use repmd_backend_api::Instance;
use tracing::{info, warn};

/// Makes a daemon's instance for this machine's address on the connection to the store, if one is open. The same daemon:
/// only addresses and aliases may differ.
pub type InstanceAt = Box<dyn Fn(Option<IpAddr>) -> Instance + Send + Sync>;

/// This daemon as it is now.
pub(super) struct Addresses {
    instance: RwLock<Arc<Instance>>,
    /// `None`: its addresses are set, and stay.
    instance_at: Option<InstanceAt>,
}

impl Addresses {
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        Self { instance: RwLock::new(instance), instance_at: None }
    }

    pub(super) fn followed_by(self, instance_at: InstanceAt) -> Self {
        let instance = instance_at(None);
        tell(&instance);
        Self { instance: RwLock::new(Arc::new(instance)), instance_at: Some(instance_at) }
    }

    pub(super) fn instance(&self) -> Arc<Instance> {
        Arc::clone(&self.instance.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The daemon as it is now, if that is new. `on_connection`: this machine's address on the open connection.
    pub(super) fn follow(&self, on_connection: impl FnOnce() -> Option<IpAddr>) -> Option<Arc<Instance>> {
        let instance_at = self.instance_at.as_ref()?;
        let (before, on_connection) = (self.instance(), on_connection());
        if on_connection.is_none() && !before.addresses.is_empty() {
            // Nobody knows better than the last connection.
            return None;
        }
        let instance = instance_at(on_connection);
        if (&instance.addresses, &instance.aliases) == (&before.addresses, &before.aliases) {
            return None;
        }
        tell(&instance);
        let instance = Arc::new(instance);
        *self.instance.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&instance);
        Some(instance)
    }

    /// What is wrong with them.
    pub(super) fn complaint(&self) -> Option<String> {
        (self.instance_at.is_some() && self.instance().addresses.is_empty()).then(|| NO_ADDRESS.to_owned())
    }
}

/// What operators read of a daemon that has none.
pub const NO_ADDRESS: &str = "no address to tell others: this machine has no route, and advertise is not set";

fn tell(instance: &Instance) {
    match &*instance.addresses {
        [] => warn!("no address to tell others"),
        addresses => info!(?addresses, "others are told these addresses"),
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Addresses").field(&self.instance()).finish()
    }
}
