//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get};

use super::{State, api, events, guard, history, links, lookup, metrics, nodes, page};

/// A path, and what answers there.
type Route = (&'static str, fn() -> MethodRouter<Arc<State>>);

const TABLE: [Route; 16] = [
    ("/livez", || get(api::live)),
    ("/readyz", || get(api::ready)),
    ("/metrics", || get(metrics::answer)),
    ("/api/v1/status", || get(api::status)),
    ("/api/v1/config", || get(api::config)),
    ("/api/v1/nodes", || get(nodes::list)),
    ("/api/v1/nodes/{node}", || get(nodes::one)),
    ("/api/v1/links", || get(links::list)),
    ("/api/v1/lookups/{name}", || get(lookup::answer)),
    ("/api/v1/events", || get(events::follow)),
    ("/api/v1/history", || get(history::last_hour)),
    ("/", || get(page::index)),
    ("/app.js", || get(page::script)),
    ("/links.js", || get(page::links)),
    ("/history.js", || get(page::history)),
    ("/style.css", || get(page::style)),
];

/// Every path that is answered, as `docs/openapi.json` writes them.
pub const ROUTES: [&str; TABLE.len()] = {
    let mut paths = [""; TABLE.len()];
    let mut number = 0;
    while number < TABLE.len() {
        paths[number] = TABLE[number].0;
        number += 1;
    }
    paths
};

pub(super) fn router(state: &Arc<State>) -> Router {
    let routes = TABLE.iter().fold(Router::new(), |router, (path, method)| router.route(path, method()));
    routes
        .fallback(async || api::failure(StatusCode::NOT_FOUND, "there is nothing here"))
        .layer(from_fn_with_state(Arc::clone(state), guard::guard))
        .with_state(Arc::clone(state))
}
