//! Is the daemon alive, is it well, what is it, and how is it set up?

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use super::events;
use super::guard::may_look;

pub(super) type App = State<Arc<super::State>>;

/// An error as the API answers it.
pub(super) fn failure(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

/// A time as text. What does not fit four digits of a year, or is before 1970, comes from a broken clock.
pub(super) fn time_text(time: SystemTime) -> String {
    const YEAR_9999: Duration = Duration::from_secs(253_402_300_799);
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(YEAR_9999);
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since_epoch).to_string()
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// That it answers is the answer.
pub(super) async fn live() -> Json<serde_json::Value> {
    Json(json!({ "live": true }))
}

/// Whether all is well with the registry. The reasons are for those who may look.
pub(super) async fn ready(State(state): App, headers: HeaderMap) -> Response {
    let reasons = reasons(&state);
    let is_ready = reasons.is_empty();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let (reasons, notes) =
        if may_look(&state, &headers) { (reasons, notes(&state)) } else { (Vec::new(), Vec::new()) };
    (status, Json(Ready { ready: is_ready, reasons, notes })).into_response()
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    reasons: Vec<String>,
    notes: Vec<String>,
}

fn reasons(state: &super::State) -> Vec<String> {
    state.daemon.registry().readiness().borrow().complaints.clone()
}

fn notes(state: &super::State) -> Vec<String> {
    state.daemon.registry().readiness().borrow().notes.clone()
}

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    daemon: &'a str,
    host: &'a str,
    aliases: Vec<&'a str>,
    addresses: &'a [std::net::IpAddr],
    port: u16,
    cluster: &'a str,
    started_at: String,
    uptime_ms: u64,
    reasons: Vec<String>,
    notes: Vec<String>,
    last_trouble: Option<serde_json::Value>,
    registry: RegistryStatus<'a>,
    dns_zones: Vec<String>,
    nodes: usize,
    lookups: u64,
}

#[derive(Serialize)]
struct RegistryStatus<'a> {
    backend: &'a str,
    is_shared: bool,
    lease_ttl_ms: Option<u64>,
    away: Option<Away>,
}

#[derive(Serialize)]
struct Away {
    seconds: u64,
    reason: String,
}

/// What this daemon is, and how it is.
pub(super) async fn status(State(state): App) -> Response {
    let (daemon, registry, stats) = (&state.daemon, state.daemon.registry(), state.daemon.stats());
    let me = registry.instance();
    let backend = state.about.settings.iter().find(|setting| setting.key == "backend");
    let away = registry.away();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        daemon: &me.name,
        host: me.host.as_str(),
        aliases: me.aliases.iter().map(repmd_backend_api::HostId::as_str).collect(),
        addresses: &me.addresses,
        port: me.port,
        cluster: &state.about.cluster,
        started_at: time_text(state.started_at),
        uptime_ms: milliseconds(state.started.elapsed()),
        reasons: reasons(&state),
        notes: notes(&state),
        last_trouble: registry.events().last_trouble().as_ref().map(events::object),
        registry: RegistryStatus {
            backend: backend.map_or("memory", |setting| &setting.value),
            is_shared: registry.is_shared(),
            lease_ttl_ms: registry.lease_ttl().map(milliseconds),
            away: away.map(|away| Away { seconds: away.away_for.as_secs(), reason: away.reason }),
        },
        dns_zones: state.about.dns_zones.iter().map(ToString::to_string).collect(),
        nodes: daemon.nodes_count(),
        lookups: stats.found_here.get() + stats.found_elsewhere.get() + stats.not_found.get(),
    };
    Json(status).into_response()
}

/// Every setting with its origin.
pub(super) async fn config(State(state): App) -> Response {
    let settings: Vec<_> = state
        .about
        .settings
        .iter()
        .map(|shown| json!({ "key": shown.key, "value": shown.value, "origin": shown.origin.to_string() }))
        .collect();
    Json(json!({ "settings": settings })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_clock_is_no_reason_to_fail() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(time_text(at(1_800_000_000)), "2027-01-15T08:00:00.000Z");
        assert_eq!(time_text(at(1 << 40)), "9999-12-31T23:59:59.000Z");
        assert_eq!(time_text(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
    }
}
