//! What happens, as it happens.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use repmd_backend_api::NodeName;
use serde_json::{Value, json};
use tokio::sync::{SemaphorePermit, watch};

use super::Follows;
use super::api::{App, failure, time_text};
use crate::registry::{Event, What};

/// How soon a client should come back when the daemon has gone.
const RETRY: Duration = Duration::from_secs(1);

/// How often a silent stream shows that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// Answers `/api/v1/events` with a stream that ends with the daemon. Whoever names the last event that it
/// saw gets those that came after, as far as they are kept.
pub(super) async fn follow(
    State(state): App,
    Extension(Follows(follows)): Extension<Follows>,
    headers: HeaderMap,
) -> Response {
    let last = match headers.get("last-event-id").map(|last| last.to_str().unwrap_or_default().parse()) {
        None => None,
        Some(Ok(last)) => Some(last),
        Some(Err(_)) => {
            return failure(StatusCode::BAD_REQUEST, "Last-Event-ID: expected the id of an event");
        }
    };
    // The stream holds what its place is counted by.
    let Some(follower) = Follower::new(state, last) else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "enough others follow the events already");
    };
    follows.cancel();
    let start = stream::once(async { Ok::<_, Infallible>(sse::Event::default().retry(RETRY)) });
    let keep_alive = KeepAlive::new().interval(SIGN_OF_LIFE);
    Sse::new(start.chain(follower.events())).keep_alive(keep_alive).into_response()
}

/// One client, and how far it has come.
struct Follower {
    state: Arc<super::State>,
    newest: watch::Receiver<u64>,
    last: u64,
    pending: VecDeque<Event>,
}

impl Follower {
    fn new(state: Arc<super::State>, last: Option<u64>) -> Option<Self> {
        // Given back on drop.
        state.followers.try_acquire().ok().map(SemaphorePermit::forget)?;
        let mut newest = state.daemon.registry().events().newest();
        let now = *newest.borrow_and_update();
        let mut follower = Self { state, newest, last: last.unwrap_or(now), pending: VecDeque::new() };
        follower.catch_up();
        Some(follower)
    }

    fn catch_up(&mut self) {
        self.pending.extend(self.state.daemon.registry().events().since(self.last));
        if let Some(newest) = self.pending.back() {
            self.last = newest.id;
        }
    }

    /// The next event, or `None` once the daemon stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            tokio::select! {
                () = self.state.daemon.stop().cancelled() => return None,
                changed = self.newest.changed() => changed.ok()?,
            }
            self.catch_up();
        }
    }

    fn events(self) -> impl Stream<Item = Result<sse::Event, Infallible>> {
        stream::unfold(self, async |mut follower| {
            let event = shown(&follower.next().await?);
            Some((Ok(event), follower))
        })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.state.followers.add_permits(1);
    }
}

/// An event as an object of its own, with the same keys for all kinds.
pub(super) fn object(event: &Event) -> Value {
    let data = data(event);
    json!({
        "event": event.what.kind(), "at": data["at"], "node": data["node"], "peer": data["peer"],
        "holder": data["holder"], "reason": data["reason"],
    })
}

fn shown(event: &Event) -> sse::Event {
    let shown = sse::Event::default().id(event.id.to_string()).event(event.what.kind());
    shown.json_data(data(event)).expect("values of JSON are JSON")
}

/// When it happened, and what belongs to it.
fn data(event: &Event) -> Value {
    let text = |node: &NodeName| node.to_string();
    let mut data = match &event.what {
        What::Registered { node, port } => json!({ "node": text(node), "port": port }),
        What::Released { node } | What::Expired { node } => json!({ "node": text(node) }),
        What::Refused { node, holder } | What::Conflict { node, holder } => {
            json!({ "node": text(node), "holder": holder })
        }
        What::LinkLost { node, peer } | What::LinkBack { node, peer } | What::MeshPartial { node, peer } => {
            json!({ "node": text(node), "peer": text(peer) })
        }
        What::StoreLost { reason } => json!({ "reason": reason }),
        What::StoreBack { away_for } => json!({ "away_seconds": away_for.as_secs() }),
        What::Missed => json!({}),
    };
    data["at"] = time_text(SystemTime::UNIX_EPOCH + event.at).into();
    data
}
