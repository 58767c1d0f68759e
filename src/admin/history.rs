//! What happened in the last hour, by minutes.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::api::{App, time_text};
use super::events::object;
use crate::registry::Minute;

/// Answers `/api/v1/history`.
pub(super) async fn last_hour(State(state): App) -> Json<Value> {
    let hour = state.daemon.registry().events().last_hour();
    let text = |time: Duration| time_text(SystemTime::UNIX_EPOCH + time);
    let minutes: Vec<_> = hour
        .minutes
        .iter()
        .map(|(begin, Minute { counts, events })| {
            let counts: Vec<_> =
                counts.iter().map(|(kind, count)| json!({ "event": kind, "count": count })).collect();
            let events: Vec<_> = events.iter().map(object).collect();
            json!({ "at": text(*begin), "counts": counts, "events": events })
        })
        .collect();
    Json(json!({ "now": text(hour.now), "since": text(hour.since), "minutes": minutes }))
}
