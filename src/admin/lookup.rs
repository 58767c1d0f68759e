//! What this daemon answers for a name, and where it knows that from.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use repmd_backend_api::AliveName;
use serde_json::json;

use super::api::{App, failure, milliseconds};
use crate::dns;
use crate::registry::{Answer, Told};

/// Answers `/api/v1/lookups/{name}`.
pub(super) async fn answer(State(state): App, Path(name): Path<String>) -> Response {
    if let Err(error) = AliveName::check(name.as_bytes()) {
        return failure(StatusCode::BAD_REQUEST, &error.to_string());
    }
    let Told { answer, source, asked } = state.daemon.explain(&name).await;
    let (node, port, instance) = match &answer {
        Answer::Node(registration) => (
            Some(registration.node_name().to_string()),
            Some(registration.advertised_port),
            Some(&registration.instance),
        ),
        Answer::Daemon(instance) => {
            (Some(format!("@{}", instance.host)), Some(instance.port), Some(instance))
        }
        Answer::Absent => (None, None, None),
    };
    let zone = state.about.dns_zones.first();
    let dns_names: Vec<_> = match (&answer, zone) {
        (Answer::Node(registration), Some(zone)) => {
            let node = dns::node_name(registration.node.name.as_str(), zone);
            let host = dns::host_name(&state.about.dns_zones, zone, registration.instance.host.as_str());
            [node, host].into_iter().flatten().map(|name| name.to_string()).collect()
        }
        _ => Vec::new(),
    };
    let answer = json!({
        "name": name,
        "is_found": node.is_some(),
        "node": node,
        "port": port,
        "addresses": instance.map_or(&[][..], |instance| &instance.addresses),
        "daemon": instance.map(|instance| &instance.name),
        "dns_names": dns_names,
        "from": source.as_str(),
        "age_ms": asked.map(|asked| milliseconds(asked.elapsed())),
    });
    Json(answer).into_response()
}
