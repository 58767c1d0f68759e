//! Who may look.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, HOST, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::api::failure;
use crate::printable::in_words;

/// Fewer characters are guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// What needs no token: whether the daemon is well, and a page that holds nothing of the cluster.
const OPEN: [&str; 7] = ["/livez", "/readyz", "/", "/app.js", "/links.js", "/history.js", "/style.css"];

/// A secret that operators have.
pub struct Token(String);

impl Token {
    /// Reads a token from its file, without space around it.
    ///
    /// # Errors
    /// When the file cannot be read, or what it holds is too short.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {}", path.display(), in_words(&error)))?;
        let token = text.trim();
        if token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "{} must hold {TOKEN_BYTES_MIN} or more letters, digits and signs, and no space",
                path.display()
            ));
        }
        Ok(Self(token.to_owned()))
    }

    /// What a client sends to show that it has it.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Compares all of it, so that the time tells nothing of where they differ.
    fn is(&self, other: &[u8]) -> bool {
        let differs = self.0.bytes().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other));
        self.0.len() == other.len() && differs == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// Lets a request pass, or says why not.
pub(super) async fn guard(State(state): State<Arc<super::State>>, request: Request, next: Next) -> Response {
    let may_look = may_look(&state, request.headers());
    let mut response = if !knows_the_way(&state, request.headers()) {
        // Another site's script, through a name of that site that leads here.
        failure(StatusCode::MISDIRECTED_REQUEST, "ask by address, or as localhost")
    } else if OPEN.contains(&request.uri().path()) || may_look {
        next.run(request).await
    } else {
        let asks = [(WWW_AUTHENTICATE, "Bearer")];
        (asks, failure(StatusCode::UNAUTHORIZED, "a token is needed")).into_response()
    };
    let headers = response.headers_mut();
    if !may_look {
        // A stranger gets its answer, and no place to stay.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether whoever sent these headers has the token, if one is needed.
pub(super) fn may_look(state: &super::State, headers: &HeaderMap) -> bool {
    let Some(token) = &state.token else { return true };
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    given.and_then(|given| given.strip_prefix(b"Bearer ")).is_some_and(|given| token.is(given))
}

/// Without a token the address is the only guard, so a browser must not be led here under a stranger's name.
fn knows_the_way(state: &super::State, headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    state.token.is_some() || host.to_str().is_ok_and(is_local_name)
}

fn is_local_name(host: &str) -> bool {
    let has_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = host.rsplit_once(':').filter(|(_, port)| has_port(port)).map_or(host, |(name, _)| name);
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_local_names_and_no_others() {
        for host in ["localhost", "LocalHost:4370", "127.0.0.1", "127.0.0.1:4370", "[::1]", "[::1]:4370"] {
            assert!(is_local_name(host), "{host}");
        }
        for host in ["", "example.com", "localhost.example.com:4370", "127.0.0.1.example.com", ":4370"] {
            assert!(!is_local_name(host), "{host}");
        }
    }

    #[test]
    fn a_token_is_equal_to_itself_alone() {
        let token = Token("0123456789abcdef".to_owned());
        assert!(token.is(b"0123456789abcdef"));
        for other in [&b""[..], b"0123456789abcde", b"0123456789abcdeF", b"0123456789abcdef0"] {
            assert!(!token.is(other));
        }
        assert_eq!(format!("{token:?}"), "Token(***)");
    }

    #[test]
    fn a_token_file_with_too_little_or_with_spaces_in_it_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, is_good) in [("\n0123456789abcdef \n", true), ("0123456789abcde", false), ("", false)]
            .into_iter()
            .chain([("01234567 89abcdef", false), ("0123456789abcdefé", false)])
        {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(Token::read(file.path()).is_ok(), is_good, "{text:?}");
        }
        assert!(Token::read(Path::new("/nowhere")).unwrap_err().contains("/nowhere"));
    }
}
