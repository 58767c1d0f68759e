//! A store's URL, taken apart and checked.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use repmd_backend_api::BackendError;

const UNKNOWN_KEY: &str = "a key of the query";

/// Why a URL or a cluster name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part} of the store's URL: expected {expected}")]
pub struct SettingsError {
    /// Which part is wrong. Never more of the URL than that: the rest may be a password.
    pub part: String,
    /// What it should be.
    pub expected: String,
}

impl SettingsError {
    /// `part` is wrong.
    pub fn new(part: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { part: part.into(), expected: expected.into() }
    }

    /// What was expected, as [`Kind::check`](repmd_backend_api::Kind::check) says it.
    #[must_use]
    pub fn expectation(self) -> String {
        let Self { part, expected } = self;
        format!("{expected} as {part}")
    }

    /// The same for whoever asked the store: a file that the URL names is gone since it was checked.
    #[must_use]
    pub fn into_unavailable(self) -> BackendError {
        BackendError::Unavailable { waited: Duration::ZERO, source: self.into() }
    }
}

/// `SCHEME://LOGIN@HOSTS/PATH?QUERY`, nothing of it decoded. What is not there is empty.
#[derive(Clone, Copy)]
pub struct Url<'a> {
    /// What it begins with.
    pub scheme: &'a str,
    /// `USER:PASSWORD`, or the user alone.
    pub login: &'a str,
    /// One, or more with commas between them.
    pub hosts: &'a str,
    /// Without the slash before it.
    pub path: &'a str,
    query: &'a str,
}

impl<'a> Url<'a> {
    /// Takes a URL apart. There is none that cannot be.
    #[must_use]
    pub fn split(url: &'a str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // The last @: one in a password should be encoded, but often is not.
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        Self { scheme, login, hosts, path, query }
    }

    /// What the query sets: a key, which is one of `keys`, and its value, which is not empty.
    ///
    /// # Errors
    /// At the first pair with another key, or without a value. `example` is one that is right.
    pub fn options(
        self,
        keys: &'static [&'static str],
        example: &'static str,
    ) -> impl Iterator<Item = Result<(&'static str, String), SettingsError>> {
        self.query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(key) = keys.iter().find(|known| **known == key) else {
                // It is not repeated: it may be the rest of a password with a question mark.
                return Err(SettingsError::new(UNKNOWN_KEY, format!("one of {}", keys.join(", "))));
            };
            let part = part_of(key);
            let value = decode(value, &part)?;
            if value.is_empty() {
                return Err(SettingsError::new(part, format!("a value, as in {example}")));
            }
            Ok((*key, value))
        })
    }
}

/// What a key of the query is called in an error.
#[must_use]
pub fn part_of(key: &str) -> String {
    format!("{key} in the query")
}

/// Text in which what has a meaning in URLs was percent-encoded.
///
/// # Errors
/// `part` is not UTF-8 then.
pub fn decode(text: &str, part: &str) -> Result<String, SettingsError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(SettingsError::new(part, "UTF-8 once its percent signs are decoded")),
    }
}
