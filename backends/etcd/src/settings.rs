//! Where the store is and how to get in: one URL, checked once.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use crate::error::Fault;

/// The port on which etcd serves its clients.
const ETCD_PORT: u16 = 2379;

/// What its URLs begin with.
pub(crate) const SCHEMES: [&str; 2] = ["etcd", "etcds"];

/// What [`Etcd::open`](crate::Etcd::open) needs to know. Shows no password, whether by `Debug` or `Display`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The registry's name in the store; daemons of other clusters see nothing of it.
    pub cluster: String,
    /// How long a registration outlives its last renewal, at least. etcd counts in whole seconds: it is rounded up.
    pub lease_ttl: Duration,
    pub(crate) endpoints: Vec<Address>,
    pub(crate) login: Login,
    pub(crate) tls: Option<Tls>,
    /// For whoever reads the files, see `dial`.
    pub(crate) reading: Arc<Semaphore>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Login {
    pub(crate) user: Option<String>,
    password: Option<Password>,
}

#[derive(Clone, Debug)]
enum Password {
    Given(SecretString),
    File(PathBuf),
}

/// Files are read for each connection, so that a renewed certificate or password needs no restart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    pub(crate) authority: Option<PathBuf>,
    /// The client's own. With its key, or neither.
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

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
    fn new(part: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { part: part.into(), expected: expected.into() }
    }
}

impl Settings {
    /// Reads a URL, `etcd://USER:PASSWORD@HOST:2379,HOST`, with the members of one etcd.
    ///
    /// Ports, user and password may be left out; what has a meaning in URLs is percent-encoded. With `etcds` instead
    /// of `etcd` all connections use TLS. After a `?` come, joined by `&`:
    ///
    /// | key | value |
    /// |---|---|
    /// | `password_file` | a file that holds the password, in place of one in the URL |
    /// | `ca` | a PEM file with the authorities to trust, in place of the public ones |
    /// | `cert`, `key` | PEM files with the client's certificate and key |
    ///
    /// # Errors
    /// [`SettingsError`] names the part that is wrong, and what was expected. A file that cannot be read
    /// is such a part.
    pub fn from_url(url: &str, cluster: &str, lease_ttl: Duration) -> Result<Self, SettingsError> {
        let settings = Self::parse(url, cluster, lease_ttl)?;
        settings.check_files()?;
        Ok(settings)
    }

    fn parse(url: &str, cluster: &str, lease_ttl: Duration) -> Result<Self, SettingsError> {
        if cluster.is_empty() || cluster.chars().any(char::is_control) {
            return Err(SettingsError::new("the cluster name", "a name without control characters"));
        }
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let mut tls = match scheme {
            "etcd" => None,
            "etcds" => Some(Tls::default()),
            _ => return Err(SettingsError::new("the start", "etcd:// or, with TLS, etcds://")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // The last @: one in a password should be encoded, but often is not.
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let endpoints: Result<_, _> = hosts.split(',').map(Address::parse).collect();
        let (endpoints, mut login) = (endpoints?, Login::parse(login)?);
        if !path.is_empty() {
            return Err(SettingsError::new("the path", "none: the cluster is a setting of its own"));
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            set(pair, &mut login, &mut tls)?;
        }
        if login.password.is_some() && login.user.is_none() {
            return Err(SettingsError::new(
                "the user",
                "one before the password, as in etcd://USER:PASSWORD@HOST",
            ));
        }
        if tls.as_ref().is_some_and(|tls| tls.certificate.is_some() != tls.key.is_some()) {
            return Err(SettingsError::new("cert and key in the query", "both or neither"));
        }
        let cluster = cluster.to_owned();
        Ok(Self { cluster, lease_ttl, endpoints, login, tls, reading: Arc::new(Semaphore::new(1)) })
    }

    fn check_files(&self) -> Result<(), SettingsError> {
        let unusable = |fault: Fault| SettingsError::new(fault.to_string(), "a file that can be read");
        self.login.password().map_err(unusable)?;
        let Some(tls) = &self.tls else { return Ok(()) };
        for path in [&tls.authority, &tls.certificate, &tls.key].into_iter().flatten() {
            read(path).map_err(unusable)?;
        }
        Ok(())
    }
}

/// The store's URL, without secrets.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls.is_some() { "etcds://" } else { "etcd://" })?;
        match (&self.login.user, &self.login.password) {
            (None, _) => {}
            (Some(user), None) => write!(f, "{user}@")?,
            (Some(user), Some(_)) => write!(f, "{user}:***@")?,
        }
        for (index, address) in self.endpoints.iter().enumerate() {
            write!(f, "{}{address}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// What the query may have.
const KEYS: [&str; 4] = ["password_file", "ca", "cert", "key"];

const UNKNOWN_KEY: &str = "a key of the query";

fn set(pair: &str, login: &mut Login, tls: &mut Option<Tls>) -> Result<(), SettingsError> {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    // An unknown one is not repeated: it may be the rest of a password with a question mark.
    let part = if KEYS.contains(&key) { format!("{key} in the query") } else { UNKNOWN_KEY.to_owned() };
    let value = decode(value, &part)?;
    if value.is_empty() && part != UNKNOWN_KEY {
        return Err(SettingsError::new(part, "a value, as in ca=/etc/etcd/ca.pem"));
    }
    match (key, tls) {
        ("password_file", _) if login.password.is_some() => {
            return Err(SettingsError::new("the password", "either one in the URL or password_file"));
        }
        ("password_file", _) => login.password = Some(Password::File(value.into())),
        ("ca" | "cert" | "key", None) => {
            return Err(SettingsError::new(part, "etcds:// before it: etcd:// is without TLS"));
        }
        ("ca", Some(tls)) => tls.authority = Some(value.into()),
        ("cert", Some(tls)) => tls.certificate = Some(value.into()),
        ("key", Some(tls)) => tls.key = Some(value.into()),
        _ => return Err(SettingsError::new(UNKNOWN_KEY, format!("one of {}", KEYS.join(", ")))),
    }
    Ok(())
}

impl Login {
    fn parse(text: &str) -> Result<Self, SettingsError> {
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (text, None),
        };
        let user = decode(user, "the user")?;
        let password = password.filter(|password| !password.is_empty());
        let password = password.map(|password| decode(password, "the password")).transpose()?;
        Ok(Self {
            user: Some(user).filter(|user| !user.is_empty()),
            password: password.map(|password| Password::Given(password.into())),
        })
    }

    /// The password as it is now.
    pub(crate) fn password(&self) -> Result<Option<SecretString>, Fault> {
        match &self.password {
            None => Ok(None),
            Some(Password::Given(password)) => Ok(Some(password.clone())),
            Some(Password::File(path)) => {
                // Editors and `echo` end files with a newline.
                let text = SecretString::from(String::from_utf8_lossy(&read(path)?).into_owned());
                Ok(Some(text.expose_secret().trim_end_matches(['\r', '\n']).into()))
            }
        }
    }
}

impl Address {
    fn parse(text: &str) -> Result<Self, SettingsError> {
        let bad = || SettingsError::new("the host", "HOST, HOST:PORT or [IPv6]:PORT");
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(bad)?,
            None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| bad())?,
            None if port.is_empty() => ETCD_PORT,
            None => return Err(bad()),
        };
        if host.is_empty() || host.contains(['/', '@', ' ', ',', '"', '<', '>', '\\']) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// What is in a file that the settings name.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    fs::read(path).map_err(|error| Fault::of_file(path, error))
}

fn decode(text: &str, part: &str) -> Result<String, SettingsError> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| SettingsError::new(part, "UTF-8, percent-encoded"))?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_url(url: &str) -> Result<Settings, SettingsError> {
        Settings::from_url(url, "repmd", Duration::from_secs(15))
    }

    #[test]
    fn what_is_left_out_has_a_default_and_no_password_is_shown() {
        for (url, shown) in [
            ("etcd://db", "etcd://db:2379"),
            ("etcd://db/", "etcd://db:2379"),
            ("etcd://a,b:1,[::1]:2,[fe80::1]", "etcd://a:2379,b:1,[::1]:2,[fe80::1]:2379"),
            ("etcd://user:s3cret@db", "etcd://user:***@db:2379"),
            ("etcd://u%40x:s3%3Acret@db", "etcd://u@x:***@db:2379"),
            ("etcd://user:s3@cret@db", "etcd://user:***@db:2379"),
            ("etcds://user@db", "etcds://user@db:2379"),
            ("etcds://user@db?password_file=/dev/null&ca=/dev/null", "etcds://user:***@db:2379"),
        ] {
            let settings = read_url(url).unwrap();
            assert_eq!(settings.to_string(), shown);
            assert!(!format!("{settings:?}").contains("s3"), "{settings:?}");
        }
        let password = read_url("etcd://u:s3%3Acret@db").unwrap().login.password().unwrap().unwrap();
        assert_eq!(password.expose_secret(), "s3:cret");
    }

    #[test]
    fn what_is_wrong_is_named_without_a_password() {
        for (url, part) in [
            ("http://db", "the start"),
            ("etcd+cluster://db", "the start"),
            ("etcd:/u:secret@db", "the start"),
            ("etcd://", "the host"),
            ("etcd://a,,b", "the host"),
            ("etcd://db:port", "the host"),
            ("etcd://u:pass/secret@db", "the host"),
            ("etcd://u:secret@db:secret", "the host"),
            ("etcd://db/secret", "the path"),
            ("etcd://:secret@db", "the user"),
            ("etcd://%ff:secret@db", "the user"),
            ("etcd://u:%ff@db", "the password"),
            ("etcd://u:p@db?password_file=/dev/null", "the password"),
            ("etcd://db?password_file=/dev/null", "the user"),
            ("etcd://db?ca=/x", "ca in the query"),
            ("etcds://db?ca=", "ca in the query"),
            ("etcds://db?cert=/dev/null", "cert and key in the query"),
            ("etcd://db?pasword_file=/x", "a key of the query"),
            ("etcd://u:pass?secret@db", "the host"),
            ("etcd://u@db?password_file=/nowhere", "/nowhere: No such file or directory (os error 2)"),
            ("etcds://db?ca=/nowhere", "/nowhere: No such file or directory (os error 2)"),
        ] {
            let error = read_url(url).unwrap_err();
            assert_eq!(error.part, part, "{url}");
            assert!(!error.expected.is_empty() && !error.to_string().contains("secret"), "{url}");
        }
        for cluster in ["", "a\n"] {
            let error = Settings::from_url("etcd://db", cluster, Duration::from_secs(15)).unwrap_err();
            assert_eq!(error.part, "the cluster name");
        }
    }
}
