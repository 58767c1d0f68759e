//! The live page: five files that are part of the program.

use std::hash::{DefaultHasher, Hasher};

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

/// The page may load and ask what comes from here, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) async fn index(headers: HeaderMap) -> Response {
    answer(&headers, "text/html; charset=utf-8", include_str!("page/index.html"))
}

pub(super) async fn script(headers: HeaderMap) -> Response {
    answer(&headers, "text/javascript; charset=utf-8", include_str!("page/app.js"))
}

pub(super) async fn links(headers: HeaderMap) -> Response {
    answer(&headers, "text/javascript; charset=utf-8", include_str!("page/links.js"))
}

pub(super) async fn history(headers: HeaderMap) -> Response {
    answer(&headers, "text/javascript; charset=utf-8", include_str!("page/history.js"))
}

pub(super) async fn style(headers: HeaderMap) -> Response {
    answer(&headers, "text/css; charset=utf-8", include_str!("page/style.css"))
}

/// A file, or that the browser's copy of it is still good.
fn answer(headers: &HeaderMap, kind: &'static str, text: &'static str) -> Response {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    let tag = format!("\"{:016x}\"", hasher.finish());
    let has_it = headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let tag = HeaderValue::from_str(&tag).expect("digits and quotes are a header's value");
    let head = [
        (ETAG, tag),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    if has_it { (StatusCode::NOT_MODIFIED, head).into_response() } else { (head, text).into_response() }
}
