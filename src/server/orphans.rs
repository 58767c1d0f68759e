//! Nodes of an earlier run that have not come back by themselves: names that are answered although nobody holds a
//! connection for them. No list has them, and whoever registers takes the name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use repmd_backend_api::{AliveName, Lease, Registration};

use super::daemon::Daemon;

/// The names that are answered for, and under which leases others are told of them.
#[derive(Debug, Default)]
pub(super) struct Orphans(Mutex<HashMap<AliveName, Lease>>);

impl Orphans {
    pub(super) fn find(&self, name: &str) -> Option<Arc<Registration>> {
        self.lock().get(name).map(|lease| Arc::clone(&lease.registration))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AliveName, Lease>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Daemon {
    /// Answers for a node of an earlier run, and has others told of it. `false`: somebody has registered the name.
    pub fn adopt(&self, registration: Arc<Registration>) -> bool {
        let mut table = self.table();
        let name = &registration.node.name;
        if table.find(name.as_str()).is_some() {
            return false;
        }
        let number = table.next_claim();
        // With the table held, so that nobody registers in between.
        let lease = self.registry.adopt(number, registration.clone());
        self.orphans.lock().insert(name.clone(), lease);
        true
    }

    /// All that it answers for without a connection.
    #[must_use]
    pub fn orphans(&self) -> Vec<Arc<Registration>> {
        self.orphans.lock().values().map(|lease| Arc::clone(&lease.registration)).collect()
    }

    /// Answers no longer for a node that has not come back.
    pub async fn give_up(&self, name: &AliveName) {
        let orphan = self.orphans.lock().remove(name);
        if let Some(lease) = orphan {
            self.registry.release(&lease).await;
        }
    }

    /// Somebody has registered the name, and the store has it from them.
    pub(super) fn is_back(&self, name: &AliveName) {
        if let Some(lease) = self.orphans.lock().remove(name) {
            self.registry.forget(&lease);
        }
    }
}
