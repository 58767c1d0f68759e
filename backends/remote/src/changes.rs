//! What is told to all who watch.

use std::sync::Arc;

use futures_util::stream::{self, BoxStream};
use repmd_backend_api::Change;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Changes that a slow watcher may be behind before it is told that it missed some.
const CHANGES_MAX: usize = 1024;

/// Passes changes on. Clones do so to the same watchers.
#[derive(Clone, Debug)]
pub struct Changes(broadcast::Sender<Change>);

impl Changes {
    /// One that nobody watches yet.
    #[must_use]
    pub fn new() -> Self {
        Self(broadcast::channel(CHANGES_MAX).0)
    }

    /// Tells a change.
    pub fn tell(&self, change: Change) {
        // It fails when nobody watches.
        let _ = self.0.send(change);
    }

    /// What comes from now on. As long as somebody watches, `kept` is.
    pub fn stream<T: Send + Sync + 'static>(&self, kept: Arc<T>) -> BoxStream<'static, Change> {
        Box::pin(stream::unfold((kept, self.0.subscribe()), |(kept, mut changes)| async {
            match changes.recv().await {
                Ok(change) => Some((change, (kept, changes))),
                Err(RecvError::Lagged(_)) => Some((Change::Missed, (kept, changes))),
                Err(RecvError::Closed) => None,
            }
        }))
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self::new()
    }
}
