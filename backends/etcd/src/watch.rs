//! What changes in the store, as [`Change`]s, and as far as it is this daemon's.

use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::Change;
use repmd_backend_remote::{Backoff, Changes};
use tokio::time::{sleep, timeout};

use crate::connection::{Session, Sessions};
use crate::proto::{Event, WatchCreateRequest, end_of};
use crate::store::Store;

/// How long a watch may take to begin.
const BEGIN: Duration = Duration::from_secs(2);

/// Waits before a watch is begun again: they double from the first to the last.
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The kind of an event that deletes.
const DELETION: i32 = 1;

/// Watches, on each connection that there is, until there will be none.
pub(crate) async fn run(store: Arc<Store>, changes: Changes) {
    let mut watcher = Watcher::new(store, changes);
    let mut sessions: Sessions = watcher.store.connection.sessions();
    let mut backoff = Backoff::new(WAITS);
    while let Some(session) = sessions.next().await {
        if watcher.watch(&session).await {
            backoff = Backoff::new(WAITS);
        }
        sleep(backoff.next()).await;
    }
}

pub(crate) struct Watcher {
    store: Arc<Store>,
    changes: Changes,
    /// The first revision that was not told yet.
    next: Option<i64>,
}

impl Watcher {
    pub(crate) fn new(store: Arc<Store>, changes: Changes) -> Self {
        Self { store, changes, next: None }
    }

    /// Tells what happens until the watch ends. Whether it has begun.
    async fn watch(&mut self, session: &Session) -> bool {
        let after = session.revision.saturating_add(1);
        // Where a store went back, what is next there was told of another history; and it does not say so.
        let from = match self.next {
            Some(next) if next <= after => next,
            Some(_) => {
                self.changes.tell(Change::Missed);
                after
            }
            None => after,
        };
        if self.next.is_some() {
            // Meanwhile the store may have lost what this daemon has there.
            self.store.holding.doubt();
        }
        let nodes = self.store.keys.nodes();
        let request = WatchCreateRequest {
            key: nodes.clone().into(),
            range_end: end_of(&nodes),
            // 0 is "from now on": for a session that could not ask for the revision.
            start_revision: if session.revision == 0 { 0 } else { from },
            fragment: true,
        };
        let begun = timeout(BEGIN, session.pulse.hear(session.line.watch(request))).await;
        let Ok(Ok(mut answers)) = begun else { return false };
        let mut has_begun = false;
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer,
                () = session.pulse.over() => return has_begun,
            };
            // Otherwise the server stops, has no leader, or does not allow it.
            let Ok(Some(answer)) = answer else { return has_begun };
            if answer.canceled {
                // What was next is gone from the store, or it is not allowed.
                self.next = Some(answer.compact_revision.max(after));
                self.changes.tell(Change::Missed);
                self.store.holding.doubt();
                return has_begun;
            }
            if answer.created {
                has_begun = true;
                self.next = self.next.or(Some(from));
            }
            for event in &answer.events {
                self.hear(event);
            }
        }
    }

    pub(crate) fn hear(&mut self, event: &Event) {
        let Some(kv) = &event.kv else { return };
        self.next = self.next.max(Some(kv.mod_revision.saturating_add(1)));
        let Some((name, host)) = self.store.keys.read_node(&kv.key) else { return };
        if host == self.store.holding.instance().host {
            self.store.holding.hear(&name, kv.mod_revision, kv.lease);
        }
        self.changes.tell(match event.kind {
            DELETION => Change::Released(name, host),
            _ => Change::Registered(name, host),
        });
    }
}
