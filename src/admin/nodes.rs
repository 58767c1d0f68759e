//! Every node of the cluster: what this daemon holds itself, and what the registry knows of the rest.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use repmd_backend_api::{HostId, Registration};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::api::{App, failure, milliseconds, time_text};
use crate::registry::{self, Held, Registry};
use crate::server::Daemon;

/// Nodes of one answer, unless asked otherwise, and at most.
const LIMIT: usize = 1000;
const LIMIT_MAX: usize = 10_000;

/// Bytes of a long list that a connection takes at a time.
const PIECE: usize = 64 << 10;

/// One node, and what is known of its registration.
#[derive(Debug)]
struct Entry {
    registration: Arc<Registration>,
    state: registry::State,
    /// How long it stays in the store unless its daemon renews it.
    left: Option<Duration>,
    is_here: bool,
}

/// An [`Entry`] as the API writes it.
#[derive(Serialize)]
struct Shown<'a> {
    node: String,
    name: &'a str,
    host: &'a str,
    port: u16,
    advertised_port: u16,
    addresses: &'a [IpAddr],
    #[serde(rename = "type")]
    node_type: String,
    protocol: u8,
    lowest_version: u16,
    highest_version: u16,
    creation: u32,
    registered_at: String,
    alive_seconds: u64,
    daemon: &'a str,
    is_here: bool,
    state: &'static str,
    holder: Option<&'a str>,
    reason: Option<&'a str>,
    lease_left_ms: Option<u64>,
}

/// Which nodes are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// A host or an alias of one.
    host: Option<String>,
    /// An alive name.
    name: Option<String>,
    limit: Option<usize>,
    /// What the answer before gave as `next`.
    after: Option<String>,
    #[serde(default)]
    format: Format,
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    /// A node name a line, for shells and for programs without a JSON parser. No name has a newline.
    Names,
}

#[derive(Serialize)]
struct Page<'a> {
    /// Of the filter, on all pages.
    total: usize,
    nodes: Vec<Shown<'a>>,
    next: Option<String>,
    #[serde(flatten)]
    age: Age,
}

/// How far the answer can be relied on.
#[derive(Serialize)]
struct Age {
    /// The store did not answer: nodes that other daemons hold are as they were last known.
    is_stale: bool,
    /// How long ago the store said what is known of other daemons' nodes.
    age_ms: Option<u64>,
}

/// Answers `/api/v1/nodes`.
pub(super) async fn list(State(state): App, filter: Result<Query<Filter>, QueryRejection>) -> Response {
    let filter = match filter {
        Ok(Query(filter)) => filter,
        Err(error) => return failure(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let limit = filter.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return failure(StatusCode::BAD_REQUEST, &format!("limit: expected 1 to {LIMIT_MAX}"));
    }
    // Held until the answer is on its way to a peer that reads.
    let place = if LIMIT < limit {
        let Ok(place) = Arc::clone(&state.long_lists).try_acquire_owned() else {
            return failure(
                StatusCode::SERVICE_UNAVAILABLE,
                "others read long lists already: ask for pages of 1,000",
            );
        };
        Some(place)
    } else {
        None
    };
    // No node has a host that is none.
    let host = filter.host.as_deref().map(HostId::parse);
    let (mut entries, age) = overview(&state.daemon).await;
    entries.retain(|Entry { registration, .. }| {
        let on_host =
            |host: &Result<HostId, _>| host.as_ref().is_ok_and(|host| registration.instance.answers_to(host));
        let named = |name: &String| registration.node.name.as_str() == name;
        host.as_ref().is_none_or(on_host) && filter.name.as_ref().is_none_or(named)
    });
    let start = match filter.after.as_deref().map(parse_place) {
        Some(None) => {
            return failure(StatusCode::BAD_REQUEST, "after: expected the `next` of another answer");
        }
        Some(Some(after)) => entries.partition_point(|entry| entry.place() <= after),
        None => 0,
    };
    let page = &entries[start..entries.len().min(start + limit)];
    let next = page.last().filter(|_| start + limit < entries.len()).map(|last| {
        let (host, name, daemon) = last.place();
        format!("{host} {daemon} {name}")
    });
    let now = SystemTime::now();
    if filter.format == Format::Names {
        return names(page, &filter, next.as_deref(), limit);
    }
    let nodes = page.iter().map(|entry| entry.shown(now)).collect();
    let page = Page { total: entries.len(), nodes, next, age };
    match place {
        Some(place) => in_pieces(&page, place),
        None => Json(page).into_response(),
    }
}

/// A long list, which is given to the connection as its peer reads; `place` is kept until the last of it.
fn in_pieces(page: &Page<'_>, place: OwnedSemaphorePermit) -> Response {
    let text = match serde_json::to_vec(page) {
        Ok(text) => Bytes::from(text),
        Err(error) => return failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let length = text.len();
    let pieces = stream::unfold((text, place), async |(mut rest, place)| {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), (rest, place)))
    });
    let headers = [(CONTENT_TYPE, "application/json".to_owned()), (CONTENT_LENGTH, length.to_string())];
    (headers, Body::from_stream(pieces)).into_response()
}

/// A node name a line. Where there are more, the header `Link` has the rest (RFC 8288).
fn names(page: &[Entry], filter: &Filter, next: Option<&str>, limit: usize) -> Response {
    let mut text = String::new();
    for Entry { registration, .. } in page {
        text += &format!("{}\n", registration.node_name());
    }
    let mut response = ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response();
    if let Some(next) = next {
        let mut link = format!("</api/v1/nodes?format=names&limit={limit}");
        let given =
            [("after", Some(next)), ("host", filter.host.as_deref()), ("name", filter.name.as_deref())];
        for (key, value) in given {
            let Some(value) = value else { continue };
            link += &format!("&{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        link += ">; rel=\"next\"";
        let link = HeaderValue::try_from(link).expect("what is percent-encoded is ASCII");
        response.headers_mut().insert(LINK, link);
    }
    response
}

/// Answers `/api/v1/nodes/{node}`: `name@host`.
pub(super) async fn one(State(state): App, Path(node): Path<String>) -> Response {
    let parts = node.rsplit_once('@').and_then(|(name, host)| Some((name, HostId::parse(host).ok()?)));
    let Some((name, host)) = parts else {
        return failure(StatusCode::BAD_REQUEST, "expected NAME@HOST");
    };
    let (entries, _) = overview(&state.daemon).await;
    let mut named = entries.iter().filter(|Entry { registration, .. }| {
        registration.node.name.as_str() == name && registration.instance.answers_to(&host)
    });
    // Where two daemons hold one name, this one knows more of its own.
    let first = named.next();
    let found = first.filter(|entry| entry.is_here).or_else(|| named.find(|entry| entry.is_here)).or(first);
    match found {
        Some(entry) => Json(entry.shown(SystemTime::now())).into_response(),
        None => failure(StatusCode::NOT_FOUND, "no such node is registered"),
    }
}

/// Every node, by host, name and daemon.
async fn overview(daemon: &Daemon) -> (Vec<Entry>, Age) {
    let registry = daemon.registry();
    let cluster = registry.cluster().await;
    let since_asked = cluster.asked.map(|asked| asked.elapsed());
    let elsewhere = cluster.nodes.iter().map(|found| Entry {
        registration: Arc::clone(&found.registration),
        state: registry::State::Published,
        left: found.left.map(|left| left.saturating_sub(since_asked.unwrap_or_default())),
        is_here: false,
    });
    let mut entries: Vec<_> = own(daemon, registry).into_iter().chain(elsewhere).collect();
    // Those of the cluster are in order, which a stable sort makes use of.
    entries.sort_by(|one, other| one.place().cmp(&other.place()));
    (entries, Age { is_stale: cluster.is_stale, age_ms: since_asked.map(milliseconds) })
}

/// What this daemon holds. Where nobody else is to know of it, that is published by itself.
fn own(daemon: &Daemon, registry: &Registry) -> Vec<Entry> {
    let Some(lease_ttl) = registry.lease_ttl() else {
        let registered = daemon.registered().into_iter();
        let entry = |registration| Entry {
            registration,
            state: registry::State::Published,
            left: None,
            is_here: true,
        };
        return registered.map(entry).collect();
    };
    let held = registry.held().into_iter();
    held.map(|Held { lease, state, renewed }| Entry {
        registration: lease.registration,
        left: renewed
            .filter(|_| state == registry::State::Published)
            .map(|renewed| lease_ttl.saturating_sub(renewed.elapsed())),
        state,
        is_here: true,
    })
    .collect()
}

impl Entry {
    fn place(&self) -> (&str, &str, &str) {
        registry::place(&self.registration)
    }

    fn shown(&self, now: SystemTime) -> Shown<'_> {
        let Registration { node, advertised_port, creation, instance, registered_at } = &*self.registration;
        let (state, holder, reason) = match &self.state {
            registry::State::Published => ("published", None, None),
            registry::State::Unpublished => ("unpublished", None, None),
            registry::State::Conflict { holder } => ("conflict", Some(holder.as_str()), None),
            registry::State::Failed { reason } => ("failed", None, Some(reason.as_str())),
        };
        Shown {
            node: self.registration.node_name().to_string(),
            name: node.name.as_str(),
            host: instance.host.as_str(),
            port: node.port,
            advertised_port: *advertised_port,
            addresses: &instance.addresses,
            node_type: node.node_type.to_string(),
            protocol: node.protocol,
            lowest_version: node.lowest_version,
            highest_version: node.highest_version,
            creation: creation.get(),
            registered_at: time_text(*registered_at),
            alive_seconds: now.duration_since(*registered_at).unwrap_or_default().as_secs(),
            daemon: &instance.name,
            is_here: self.is_here,
            state,
            holder,
            reason,
            lease_left_ms: self.left.map(milliseconds),
        }
    }
}

/// Reads a place from `HOST DAEMON NAME`: only the last may have spaces.
fn parse_place(text: &str) -> Option<(&str, &str, &str)> {
    let (host, rest) = text.split_once(' ')?;
    let (daemon, name) = rest.split_once(' ')?;
    Some((host, name, daemon))
}
