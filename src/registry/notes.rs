//! What all daemons tell of the links of their nodes. None of it says anything of the store's health.

use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::{BackendError, Note, RegistryBackend};

use super::slot::Slot;
use super::store::Store;

/// The notes of all daemons, as this one remembers them.
#[derive(Debug)]
pub(super) struct Notes {
    store: Arc<Store>,
    all: Slot<Arc<Vec<Note>>>,
}

impl Notes {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, all: Slot::default() }
    }

    pub(super) async fn leave(&self, note: &[u8]) -> Result<(), BackendError> {
        if let Some(away) = self.store.away() {
            return Err(BackendError::Unavailable { waited: Duration::ZERO, source: away.reason.into() });
        }
        if self.store.is_slow() {
            return Err(BackendError::Unavailable { waited: Duration::ZERO, source: "it is slow".into() });
        }
        self.store.patiently(|backend| backend.leave_note(note)).await
    }

    /// As of a second ago, or as they were before the store was slow or away.
    pub(super) async fn all(&self) -> Arc<Vec<Note>> {
        if !self.store.is_shared() || self.store.is_away() || self.store.is_slow() {
            return self.all.last().map_or_else(Arc::default, |known| known.value);
        }
        let load = async {
            let seen = self.store.patiently(RegistryBackend::notes).await.ok()?;
            Some(Arc::new(self.store.unreadable.note(seen)))
        };
        let all = self.all.fresh_or(self.store.is_fresh_list(), load).await;
        all.map_or_else(Arc::default, |known| known.value)
    }
}
