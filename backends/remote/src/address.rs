//! Where a server is.

use std::fmt;

use crate::url::SettingsError;

/// What no host of a URL has in it.
const NEVER: [char; 4] = ['/', '@', ' ', ','];

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Without the brackets of an IPv6 address.
    pub host: String,
    /// Where it listens.
    pub port: u16,
}

impl Address {
    /// Reads `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
    ///
    /// # Errors
    /// When it is none, or has one of `without` in its host.
    pub fn parse(text: &str, default_port: u16, without: &[char]) -> Result<Self, SettingsError> {
        let bad = || SettingsError::new("the host", "HOST, HOST:PORT or [IPv6]:PORT");
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(bad)?,
            None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| bad())?,
            None if port.is_empty() => default_port,
            None => return Err(bad()),
        };
        if host.is_empty() || host.contains(NEVER) || host.contains(without) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// Reads addresses with commas between them.
    ///
    /// # Errors
    /// As [`Address::parse`], of the first that is none.
    pub fn parse_all(hosts: &str, default_port: u16, without: &[char]) -> Result<Vec<Self>, SettingsError> {
        hosts.split(',').map(|host| Self::parse(host, default_port, without)).collect()
    }

    /// Several of them, as a URL has them.
    #[must_use]
    pub fn join(addresses: &[Self]) -> String {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}
