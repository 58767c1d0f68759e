//! The links between nodes, as all daemons see them together.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use repmd_backend_api::{HostId, NodeType};
use serde::{Deserialize, Serialize};

use super::api::{App, failure, milliseconds};
use crate::links::{Link, Mesh, MeshNode, Sight, View};

/// Links, missing ones, and nodes of one answer. More have to be asked for by host.
const LINKS_MAX: usize = 10_000;

/// Which links are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// A host or an alias of one: links that have an end there.
    host: Option<String>,
}

#[derive(Serialize)]
struct Shown<'a> {
    source: Option<&'static str>,
    trouble: Option<&'a str>,
    interval_ms: u64,
    age_ms: u64,
    nodes_total: usize,
    links_total: usize,
    missing_total: usize,
    nodes: Vec<ShownNode<'a>>,
    links: Vec<ShownLink>,
    missing: Vec<Missing>,
    hosts: Vec<Hosts<'a>>,
}

#[derive(Serialize)]
struct ShownNode<'a> {
    node: String,
    host: &'a str,
    #[serde(rename = "type")]
    node_type: String,
    is_hidden: Option<bool>,
    /// Why its links are not seen; `None`: they are.
    unseen: Option<String>,
    group: Option<usize>,
    links: usize,
}

#[derive(Serialize)]
struct ShownLink {
    /// Who dialled, if that is known.
    from: Option<String>,
    /// Where it is not: one of these.
    one_of: Vec<String>,
    from_address: SocketAddr,
    to: String,
    seen_by: Vec<&'static str>,
    is_one_ended: bool,
    rtt_us: Option<u64>,
    retransmits: Option<u32>,
    is_unanswered: bool,
}

#[derive(Serialize)]
struct Missing {
    node: String,
    peer: String,
    is_confirmed: bool,
}

/// What two hosts have with each other.
#[derive(Serialize)]
struct Hosts<'a> {
    host: &'a str,
    peer: &'a str,
    links: usize,
    missing: usize,
    rtt_us: Option<u64>,
    retransmits: u64,
}

/// Answers `/api/v1/links`.
pub(super) async fn list(State(state): App, filter: Result<Query<Filter>, QueryRejection>) -> Response {
    let filter = match filter {
        Ok(Query(filter)) => filter,
        Err(error) => return failure(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let host = match filter.host.as_deref().map(HostId::parse).transpose() {
        Ok(host) => host,
        Err(error) => return failure(StatusCode::BAD_REQUEST, &format!("host: {error}")),
    };
    let view = state.about.links.view().await;
    Json(shown(&view, host.as_ref())).into_response()
}

fn shown<'a>(view: &'a View, host: Option<&HostId>) -> Shown<'a> {
    let View { mesh, age, confirmed, interval, source } = view;
    let Mesh { nodes, links, missing, missing_count, .. } = &**mesh;
    let is_there = |node: usize| host.is_none_or(|host| nodes[node].registration.instance.answers_to(host));
    let has_end_there = |link: &&Link| is_there(link.to) || link.from.iter().any(|from| is_there(*from));
    let is_missing_there = |((one, other), _): &(&(usize, usize), &bool)| is_there(*one) || is_there(*other);
    let mut counts = vec![0; nodes.len()];
    for link in links {
        link.from.first().into_iter().for_each(|from| counts[*from] += 1);
        counts[link.to] += 1;
    }
    let name = |node: usize| nodes[node].registration.node_name().to_string();
    let shown_nodes = nodes.iter().enumerate().filter(|(number, _)| is_there(*number));
    Shown {
        source: source.as_ref().ok().copied(),
        trouble: source.as_ref().err().map(String::as_str),
        interval_ms: milliseconds(*interval),
        age_ms: milliseconds(*age),
        nodes_total: (0..nodes.len()).filter(|node| is_there(*node)).count(),
        links_total: links.iter().filter(has_end_there).count(),
        missing_total: match host {
            None => *missing_count,
            Some(_) => missing.iter().zip(confirmed).filter(is_missing_there).count(),
        },
        nodes: shown_nodes.take(LINKS_MAX).map(|(number, node)| shown_node(node, counts[number])).collect(),
        links: links
            .iter()
            .filter(has_end_there)
            .take(LINKS_MAX)
            .map(|link| shown_link(link, name))
            .collect(),
        missing: missing
            .iter()
            .zip(confirmed)
            .filter(is_missing_there)
            .take(LINKS_MAX)
            .map(|((one, other), confirmed)| Missing {
                node: name(*one),
                peer: name(*other),
                is_confirmed: *confirmed,
            })
            .collect(),
        hosts: by_hosts(mesh),
    }
}

fn shown_node(node: &MeshNode, links: usize) -> ShownNode<'_> {
    ShownNode {
        node: node.registration.node_name().to_string(),
        host: node.host().as_str(),
        node_type: node.registration.node.node_type.to_string(),
        is_hidden: match (node.registration.node.node_type, node.is_published) {
            (NodeType::HIDDEN | NodeType::C, _) => Some(true),
            (_, is_published) => is_published.map(|is_published| !is_published),
        },
        unseen: match &node.sight {
            Sight::Seen => None,
            Sight::Untold => Some("its daemon has not told of its links".to_owned()),
            Sight::Hidden => Some(
                "it is not in the network namespace of its daemon, or has more links than can be told"
                    .to_owned(),
            ),
            Sight::Blind(reason) => Some(format!("its daemon sees no connections: {reason}")),
        },
        group: node.group,
        links,
    }
}

fn shown_link(link: &Link, name: impl Fn(usize) -> String) -> ShownLink {
    let qualities = || link.ends.iter().flatten().flatten();
    let from = if let [from] = link.from[..] { Some(name(from)) } else { None };
    let seen_by = ["from", "to"].into_iter().zip(&link.ends).filter(|(_, end)| end.is_some());
    ShownLink {
        one_of: if from.is_some() { Vec::new() } else { link.from.iter().map(|node| name(*node)).collect() },
        from,
        from_address: link.from_address,
        to: name(link.to),
        seen_by: seen_by.map(|(end, _)| end).collect(),
        is_one_ended: link.is_one_ended,
        rtt_us: rtt(link),
        retransmits: retransmits(link),
        is_unanswered: qualities().any(|quality| 2 < quality.unanswered),
    }
}

/// The shorter of the two round trips: an end that only waits has an old one.
fn rtt(link: &Link) -> Option<u64> {
    let rtt = link.ends.iter().flatten().flatten().map(|quality| quality.rtt).min()?;
    Some(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX))
}

fn retransmits(link: &Link) -> Option<u32> {
    link.ends.iter().flatten().flatten().map(|quality| quality.retransmits).reduce(u32::saturating_add)
}

/// Pairs of hosts, the first of each before the second.
fn by_hosts(mesh: &Mesh) -> Vec<Hosts<'_>> {
    let mut hosts = BTreeMap::<(&str, &str), Hosts<'_>>::new();
    let mut at = |one: usize, other: usize, change: &dyn Fn(&mut Hosts<'_>)| {
        let [one, other] = [one, other].map(|node| mesh.nodes[node].host().as_str());
        let (host, peer) = (one.min(other), one.max(other));
        let new = || Hosts { host, peer, links: 0, missing: 0, rtt_us: None, retransmits: 0 };
        change(hosts.entry((host, peer)).or_insert_with(new));
    };
    for link in &mesh.links {
        let Some(from) = link.from.first() else { continue };
        at(*from, link.to, &|pair| {
            pair.links += 1;
            pair.rtt_us = pair.rtt_us.max(rtt(link));
            pair.retransmits += u64::from(retransmits(link).unwrap_or_default());
        });
    }
    for (one, other) in &mesh.missing {
        at(*one, *other, &|pair| pair.missing += 1);
    }
    hosts.into_values().take(LINKS_MAX).collect()
}
