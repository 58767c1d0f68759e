//! Who this daemon is: what of that stays, and the addresses at which it says that its nodes are, as far as they change.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use repmd_backend_api::{HostId, Instance, InstanceId, Registration};
use tracing::{info, warn};

/// Makes a daemon's instance for this machine's address on the connection to the store, if one is open. The same daemon:
/// only addresses and aliases may differ.
pub type InstanceAt = Box<dyn Fn(Option<IpAddr>) -> Instance + Send + Sync>;

/// The daemon whose view of the registry this is.
pub(super) struct Me {
    /// As it started: its id, name, host and port stay.
    started: Arc<Instance>,
    now: RwLock<Arc<Instance>>,
    /// Empty: its addresses are set, and stay.
    instance_at: OnceLock<InstanceAt>,
}

impl Me {
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        Self { started: Arc::clone(&instance), now: RwLock::new(instance), instance_at: OnceLock::new() }
    }

    pub(super) fn id(&self) -> InstanceId {
        self.started.id
    }

    pub(super) fn name(&self) -> &str {
        &self.started.name
    }

    pub(super) fn host(&self) -> &HostId {
        &self.started.host
    }

    /// With its addresses and aliases of now.
    pub(super) fn now(&self) -> Arc<Instance> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this run of the daemon registered the node.
    pub(super) fn holds(&self, registration: &Registration) -> bool {
        registration.instance.id == self.id()
    }

    /// Whether an earlier run of this daemon registered the node, which has not come back yet.
    pub(super) fn held_before(&self, registration: &Registration) -> bool {
        registration.instance.name == self.name() && !self.holds(registration)
    }

    /// A node of this daemon, with the daemon's addresses of now.
    pub(super) fn with_addresses_of_now(&self, registration: Arc<Registration>) -> Arc<Registration> {
        let instance = self.now();
        if Arc::ptr_eq(&instance, &registration.instance) || !self.holds(&registration) {
            return registration;
        }
        Arc::new(Registration { instance, ..(*registration).clone() })
    }

    /// From now on its addresses follow the connection to the store, which is not open yet.
    pub(super) fn follow_by(&self, instance_at: InstanceAt) {
        let instance = instance_at(None);
        tell(&instance);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(instance);
        assert!(self.instance_at.set(instance_at).is_ok(), "it is said once what they follow");
    }

    /// The daemon as it is now, if that is new. `on_connection`: this machine's address on the open connection.
    pub(super) fn follow(&self, on_connection: impl FnOnce() -> Option<IpAddr>) -> Option<Arc<Instance>> {
        let instance_at = self.instance_at.get()?;
        let (before, on_connection) = (self.now(), on_connection());
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
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&instance);
        Some(instance)
    }

    /// What is wrong with its addresses.
    pub(super) fn complaint(&self) -> Option<String> {
        (self.instance_at.get().is_some() && self.now().addresses.is_empty()).then(|| NO_ADDRESS.to_owned())
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

impl fmt::Debug for Me {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Me").field(&self.now()).finish()
    }
}
