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

/// The port of a Redis server.
const REDIS_PORT: u16 = 6379;

/// The port of a Sentinel.
const SENTINEL_PORT: u16 = 26379;

/// What [`Redis::open`](crate::Redis::open) needs to know. Shows no password, whether by `Debug` or
/// `Display`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The registry's name in the store; daemons of other clusters see nothing of it.
    pub cluster: String,
    /// How long a registration outlives its last renewal.
    pub lease_ttl: Duration,
    pub(crate) topology: Topology,
    pub(crate) login: Login,
    pub(crate) tls: Option<Tls>,
    pub(crate) database: i64,
    /// For whoever reads the files, see `dial`.
    pub(crate) reading: Arc<Semaphore>,
}

/// How the servers are arranged, and so how the primary is found.
#[derive(Clone, Debug)]
pub(crate) enum Topology {
    /// One server, or an address that always leads to the primary.
    Alone(Address),
    /// Sentinels know the primary.
    Sentinel { sentinels: Vec<Address>, master: String, login: Login },
    /// The servers of a Redis Cluster know it. All keys have one hash tag and so one primary.
    Cluster(Vec<Address>),
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
    /// Reads a URL:
    ///
    /// | URL | store |
    /// |---|---|
    /// | `redis://USER:PASSWORD@HOST:6379/DATABASE` | one server |
    /// | `redis+sentinel://USER:PASSWORD@HOST:26379,HOST/MASTER/DATABASE` | the master that these Sentinels name |
    /// | `redis+cluster://USER:PASSWORD@HOST:6379,HOST` | a Redis Cluster that these servers belong to |
    ///
    /// Ports, user, password and database may be left out; what has a meaning in URLs is percent-encoded.
    /// With `rediss` instead of `redis` all connections use TLS. After a `?` come, joined by `&`:
    ///
    /// | key | value |
    /// |---|---|
    /// | `password_file` | a file that holds the password, in place of one in the URL |
    /// | `ca` | a PEM file with the authorities to trust, in place of the public ones |
    /// | `cert`, `key` | PEM files with the client's certificate and key |
    /// | `sentinel_user`, `sentinel_password_file` | how to log in to the Sentinels, if they ask for it |
    ///
    /// # Errors
    /// [`SettingsError`] names the part that is wrong, and what was expected. A file that cannot be read
    /// is such a part.
    pub fn from_url(url: &str, cluster: &str, lease_ttl: Duration) -> Result<Self, SettingsError> {
        let settings = Self::parse(url, cluster, lease_ttl)?;
        settings.check_files()?;
        Ok(settings)
    }

    /// [`Settings::from_url`] without a look at the files.
    pub(crate) fn parse(url: &str, cluster: &str, lease_ttl: Duration) -> Result<Self, SettingsError> {
        if cluster.is_empty() || cluster.chars().any(|c| "{}".contains(c) || c.is_control()) {
            // The name is the hash tag of every key, and braces delimit that.
            return Err(SettingsError::new("the cluster name", "a name without braces"));
        }
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let (family, arrangement) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match family {
            "redis" => None,
            "rediss" => Some(Tls::default()),
            _ => return Err(bad_scheme()),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // The last @: one in a password should be encoded, but often is not.
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let login = Login::parse(login)?;
        let mut options = Options { login, tls, sentinel: Login::default() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            options.set(pair)?;
        }
        let Options { login, tls, sentinel } = options;
        if tls.as_ref().is_some_and(|tls| tls.certificate.is_some() != tls.key.is_some()) {
            return Err(SettingsError::new("cert and key in the query", "both or neither"));
        }
        let (topology, database) = match arrangement {
            "" => (Topology::Alone(Address::parse(hosts, REDIS_PORT)?), path),
            "sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(SettingsError::new(
                        "the path",
                        "/MASTER, as in redis+sentinel://h1,h2/mymaster",
                    ));
                }
                let sentinels = Address::parse_all(hosts, SENTINEL_PORT)?;
                let master = decode(master, "the master's name")?;
                (Topology::Sentinel { sentinels, master, login: sentinel }, database)
            }
            "cluster" if path.is_empty() => (Topology::Cluster(Address::parse_all(hosts, REDIS_PORT)?), path),
            "cluster" => {
                return Err(SettingsError::new("the path", "none: a Redis Cluster has one database"));
            }
            _ => return Err(bad_scheme()),
        };
        let database = match database {
            "" => 0,
            number => match number.parse::<u16>() {
                Ok(number) => i64::from(number),
                Err(_) => return Err(SettingsError::new("the database", "a small number, as in /0")),
            },
        };
        let cluster = cluster.to_owned();
        Ok(Self { cluster, lease_ttl, topology, login, tls, database, reading: Arc::new(Semaphore::new(1)) })
    }

    fn check_files(&self) -> Result<(), SettingsError> {
        let unusable = |fault: Fault| SettingsError::new(fault.to_string(), "a file that can be read");
        self.login.password().map_err(unusable)?;
        if let Topology::Sentinel { login, .. } = &self.topology {
            login.password().map_err(unusable)?;
        }
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
        f.write_str(if self.tls.is_some() { "rediss" } else { "redis" })?;
        let (arrangement, hosts) = match &self.topology {
            Topology::Alone(address) => ("", std::slice::from_ref(address)),
            Topology::Sentinel { sentinels, .. } => ("+sentinel", &sentinels[..]),
            Topology::Cluster(seeds) => ("+cluster", &seeds[..]),
        };
        write!(f, "{arrangement}://")?;
        match (&self.login.user, &self.login.password) {
            (None, None) => {}
            (user, None) => write!(f, "{}@", user.as_deref().unwrap_or_default())?,
            (user, Some(_)) => write!(f, "{}:***@", user.as_deref().unwrap_or_default())?,
        }
        for (index, address) in hosts.iter().enumerate() {
            write!(f, "{}{address}", if index == 0 { "" } else { "," })?;
        }
        match &self.topology {
            Topology::Alone(_) => write!(f, "/{}", self.database),
            Topology::Sentinel { master, .. } => write!(f, "/{master}/{}", self.database),
            Topology::Cluster(_) => Ok(()),
        }
    }
}

/// What its URLs begin with.
pub(crate) const SCHEMES: [&str; 6] =
    ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"];

/// What the query may have.
const KEYS: [&str; 6] = ["password_file", "ca", "cert", "key", "sentinel_user", "sentinel_password_file"];

const UNKNOWN_KEY: &str = "a key of the query";

/// What the query sets.
struct Options {
    login: Login,
    tls: Option<Tls>,
    sentinel: Login,
}

impl Options {
    fn set(&mut self, pair: &str) -> Result<(), SettingsError> {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // An unknown one is not repeated: it may be the rest of a password with a question mark.
        let part = if KEYS.contains(&key) { format!("{key} in the query") } else { UNKNOWN_KEY.to_owned() };
        let value = decode(value, &part)?;
        if value.is_empty() && part != UNKNOWN_KEY {
            return Err(SettingsError::new(part, "a value, as in ca=/etc/redis/ca.pem"));
        }
        match key {
            "password_file" => {
                if self.login.password.is_some() {
                    return Err(SettingsError::new("the password", "either one in the URL or password_file"));
                }
                self.login.password = Some(Password::File(value.into()));
            }
            "sentinel_user" => self.sentinel.user = Some(value),
            "sentinel_password_file" => self.sentinel.password = Some(Password::File(value.into())),
            "ca" | "cert" | "key" => {
                let Some(tls) = &mut self.tls else {
                    return Err(SettingsError::new(part, "rediss:// before it: redis:// is without TLS"));
                };
                let file = match key {
                    "ca" => &mut tls.authority,
                    "cert" => &mut tls.certificate,
                    _ => &mut tls.key,
                };
                *file = Some(value.into());
            }
            _ => return Err(SettingsError::new(UNKNOWN_KEY, format!("one of {}", KEYS.join(", ")))),
        }
        Ok(())
    }
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
    fn parse(text: &str, default_port: u16) -> Result<Self, SettingsError> {
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
        if host.is_empty() || host.contains(['/', '@', ' ', ',']) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }

    fn parse_all(hosts: &str, default_port: u16) -> Result<Vec<Self>, SettingsError> {
        hosts.split(',').map(|host| Self::parse(host, default_port)).collect()
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

fn bad_scheme() -> SettingsError {
    SettingsError::new("the start", SCHEMES.map(|scheme| format!("{scheme}://")).join(", "))
}

fn decode(text: &str, part: &str) -> Result<String, SettingsError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(SettingsError::new(part, "UTF-8 once its percent signs are decoded")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_url(url: &str) -> Result<Settings, SettingsError> {
        Settings::from_url(url, "test", Duration::from_secs(15))
    }

    #[test]
    fn every_kind_of_url_is_understood_and_shown_without_its_password() {
        for (url, shown) in [
            ("redis://db", "redis://db:6379/0"),
            ("redis://:p@db:1/2", "redis://:***@db:1/2"),
            ("rediss://u:p%40%3A@[::1]", "rediss://u:***@[::1]:6379/0"),
            ("redis://u:p@ss@db", "redis://u:***@db:6379/0"),
            ("redis+sentinel://a,b:7/m", "redis+sentinel://a:26379,b:7/m/0"),
            ("rediss+sentinel://u@a/m/3", "rediss+sentinel://u@a:26379/m/3"),
            ("redis+cluster://a,b,[fe80::1]:9", "redis+cluster://a:6379,b:6379,[fe80::1]:9"),
            ("rediss+cluster://a", "rediss+cluster://a:6379"),
        ] {
            let settings = read_url(url).unwrap();
            assert_eq!(settings.to_string(), shown);
            let secret = settings.login.password().unwrap();
            let debug = format!("{settings:?}");
            assert!(secret.is_none_or(|secret| !debug.contains(&format!("{:?}", secret.expose_secret()))));
        }
        let settings = read_url("rediss://u:p%40%3A@db").unwrap();
        assert_eq!(settings.login.password().unwrap().unwrap().expose_secret(), "p@:");
    }

    #[test]
    fn a_bad_url_says_which_part_is_wrong_and_what_was_expected() {
        for (url, part) in [
            ("", "the start"),
            ("secret", "the start"),
            ("http://db", "the start"),
            ("redis+ring://db", "the start"),
            ("redis://", "the host"),
            ("redis://a,b", "the host"),
            ("redis://db:port", "the host"),
            ("redis://[::1", "the host"),
            ("redis+cluster://a,,b", "the host"),
            ("redis://db/zero", "the database"),
            ("redis+sentinel://a", "the path"),
            ("redis+cluster://a/1", "the path"),
            ("redis://u:%ff@db", "the password"),
            ("redis://db?ca=/x", "ca in the query"),
            ("redis://db?pasword_file=/x", "a key of the query"),
            ("redis://db?password=secret", "a key of the query"),
            ("redis://u:pass?secret@db", "a key of the query"),
            ("redis:/u:secret@db", "the start"),
            ("redis://u:pass/secret@db", "the host"),
            ("redis://u:secret@db:secret", "the host"),
            ("redis+sentinel://u:secret@db", "the path"),
            ("redis://db/secret", "the database"),
            ("rediss://db?ca=", "ca in the query"),
            ("rediss://db?cert=/dev/null", "cert and key in the query"),
            ("redis://u:p@db?password_file=/dev/null", "the password"),
            ("redis://db?password_file=/nowhere", "/nowhere: No such file or directory (os error 2)"),
            ("rediss://db?ca=/nowhere", "/nowhere: No such file or directory (os error 2)"),
        ] {
            let error = read_url(url).unwrap_err();
            assert_eq!(error.part, part, "{url}");
            assert!(!error.expected.is_empty() && !error.to_string().contains("secret"));
        }
        for cluster in ["", "a{b", "a}", "a\n"] {
            let error = Settings::from_url("redis://db", cluster, Duration::from_secs(15)).unwrap_err();
            assert_eq!(error.part, "the cluster name");
        }
    }
}
