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

/// The port of a PostgreSQL server.
const PORT: u16 = 5432;

/// Who logs in where the URL names nobody.
const USER: &str = "repmd";

/// What its URLs begin with.
pub(crate) const SCHEMES: [&str; 2] = ["postgres", "postgresql"];

/// What the query may have: what it has in the URLs of other clients of PostgreSQL, and a file for the password.
const KEYS: [&str; 6] =
    ["password_file", "sslcert", "sslkey", "sslmode", "sslrootcert", "target_session_attrs"];

const UNKNOWN_KEY: &str = "a key of the query";

/// The longest name of a cluster, in bytes: it is in each row.
const CLUSTER_BYTES_MAX: usize = 255;

/// What [`Postgres::open`](crate::Postgres::open) needs to know. Shows no password, whether by `Debug` or
/// `Display`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The registry's name in the store; daemons of other clusters see nothing of it.
    pub cluster: String,
    /// How long a registration outlives its last renewal.
    pub lease_ttl: Duration,
    /// One of them is the primary.
    pub(crate) addresses: Vec<Address>,
    pub(crate) login: Login,
    pub(crate) database: String,
    pub(crate) tls: Option<Tls>,
    /// For whoever reads the files, see `dial`.
    pub(crate) reading: Arc<Semaphore>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) user: String,
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
    /// Reads `postgres://USER:PASSWORD@HOST:5432,HOST/DATABASE`. `postgresql://` is the same.
    ///
    /// Of several hosts the primary is used, the one that takes writes, and looked for again when it is lost. Ports,
    /// user, password and database may be left out: the user is then `repmd`, and the database is called as the user
    /// is. What has a meaning in URLs is percent-encoded. After a `?` come, joined by `&`:
    ///
    /// | key | value |
    /// |---|---|
    /// | `password_file` | a file that holds the password, in place of one in the URL |
    /// | `sslmode` | `disable`, or `verify-full` for TLS with a server that proves its name; `disable` where it is missing |
    /// | `sslrootcert` | a PEM file with the authorities to trust, in place of the public ones |
    /// | `sslcert`, `sslkey` | PEM files with the client's certificate and key |
    /// | `target_session_attrs` | `read-write`, which is how it always is |
    ///
    /// # Errors
    /// Which part cannot be used, and what was expected: of the URL, of the cluster name, or a file that cannot be
    /// read.
    pub fn from_url(url: &str, cluster: &str, lease_ttl: Duration) -> Result<Self, SettingsError> {
        let settings = Self::parse(url, cluster, lease_ttl)?;
        settings.check_files()?;
        Ok(settings)
    }

    /// The same, without a look at the files.
    pub(crate) fn parse(url: &str, cluster: &str, lease_ttl: Duration) -> Result<Self, SettingsError> {
        if cluster.is_empty() || CLUSTER_BYTES_MAX < cluster.len() || cluster.contains(char::is_control) {
            let expected = format!("a name of {CLUSTER_BYTES_MAX} bytes at most");
            return Err(SettingsError::new("the cluster name", expected));
        }
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        if !SCHEMES.contains(&scheme) {
            let expected = SCHEMES.map(|scheme| format!("{scheme}://")).join(" or ");
            return Err(SettingsError::new("the start", expected));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // The last @: one in a password should be encoded, but often is not.
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let addresses = hosts.split(',').map(Address::parse).collect::<Result<_, _>>()?;
        let mut options = Options { login: Login::parse(login)?, verifies: None, tls: Tls::default() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            options.set(pair)?;
        }
        let Options { login, verifies, tls } = options;
        if tls.certificate.is_some() != tls.key.is_some() {
            return Err(SettingsError::new("sslcert and sslkey in the query", "both or neither"));
        }
        if verifies != Some(true) && (tls.authority.is_some() || tls.certificate.is_some()) {
            let expected = "verify-full: without it no certificate is used";
            return Err(SettingsError::new("sslmode in the query", expected));
        }
        let database = decode(path, "the database")?;
        if database.contains('/') || database.contains('\0') {
            return Err(SettingsError::new("the database", "one name, as in /repmd"));
        }
        Ok(Self {
            cluster: cluster.to_owned(),
            lease_ttl,
            addresses,
            database: if database.is_empty() { login.user.clone() } else { database },
            login,
            tls: verifies.unwrap_or_default().then_some(tls),
            reading: Arc::new(Semaphore::new(1)),
        })
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

    /// The servers, for people.
    pub(crate) fn hosts(&self) -> String {
        self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

/// The store's URL, without secrets.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = if self.login.password.is_some() { ":***" } else { "" };
        write!(f, "postgres://{}{password}@{}/{}", self.login.user, self.hosts(), self.database)?;
        f.write_str(if self.tls.is_some() { "?sslmode=verify-full" } else { "" })
    }
}

/// What the query sets.
struct Options {
    login: Login,
    verifies: Option<bool>,
    tls: Tls,
}

impl Options {
    fn set(&mut self, pair: &str) -> Result<(), SettingsError> {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // An unknown one is not repeated: it may be the rest of a password with a question mark.
        let part = if KEYS.contains(&key) { format!("{key} in the query") } else { UNKNOWN_KEY.to_owned() };
        let value = decode(value, &part)?;
        if value.is_empty() && part != UNKNOWN_KEY {
            return Err(SettingsError::new(part, "a value, as in sslrootcert=/etc/repmd/ca.pem"));
        }
        match key {
            "password_file" => {
                if self.login.password.is_some() {
                    return Err(SettingsError::new("the password", "either one in the URL or password_file"));
                }
                self.login.password = Some(Password::File(value.into()));
            }
            "sslmode" => {
                self.verifies = Some(match &*value {
                    "disable" => false,
                    "verify-full" => true,
                    _ => {
                        let expected = "disable or verify-full: TLS that does not look who the server is \
                                        protects from nobody who can be in between";
                        return Err(SettingsError::new(part, expected));
                    }
                });
            }
            "sslrootcert" => self.tls.authority = Some(value.into()),
            "sslcert" => self.tls.certificate = Some(value.into()),
            "sslkey" => self.tls.key = Some(value.into()),
            "target_session_attrs" if value == "read-write" || value == "primary" => {}
            "target_session_attrs" => return Err(SettingsError::new(part, "read-write")),
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
        if user.contains('\0') {
            return Err(SettingsError::new("the user", "a name"));
        }
        Ok(Self {
            user: if user.is_empty() { USER.to_owned() } else { user },
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
            None if port.is_empty() => PORT,
            None => return Err(bad()),
        };
        if host.is_empty() || host.contains(['/', '@', ' ', '%']) {
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
            ("postgres://db", "postgres://repmd@db:5432/repmd"),
            ("postgresql://u:p@db:1/d", "postgres://u:***@db:1/d"),
            ("postgres://u:p@ss@db/", "postgres://u:***@db:5432/u"),
            ("postgres://u%40h:p%40%3A@[::1],b:7/a%20b", "postgres://u@h:***@[::1]:5432,b:7/a b"),
            ("postgres://a,b/d?target_session_attrs=read-write", "postgres://repmd@a:5432,b:5432/d"),
            ("postgres://a/d?sslmode=disable", "postgres://repmd@a:5432/d"),
            ("postgres://a/d?sslmode=verify-full", "postgres://repmd@a:5432/d?sslmode=verify-full"),
        ] {
            let settings = read_url(url).unwrap();
            assert_eq!(settings.to_string(), shown);
            let secret = settings.login.password().unwrap();
            let debug = format!("{settings:?}");
            assert!(secret.is_none_or(|secret| !debug.contains(&format!("{:?}", secret.expose_secret()))));
        }
        let settings = read_url("postgres://u:p%40%3A@db").unwrap();
        assert_eq!(settings.login.password().unwrap().unwrap().expose_secret(), "p@:");
    }

    #[test]
    fn a_bad_url_says_which_part_is_wrong_and_what_was_expected() {
        for (url, part) in [
            ("", "the start"),
            ("secret", "the start"),
            ("mysql://db", "the start"),
            ("postgres:/u:secret@db", "the start"),
            ("postgres://", "the host"),
            ("postgres://a,,b", "the host"),
            ("postgres://db:port", "the host"),
            ("postgres://[::1", "the host"),
            ("postgres://%2Frun%2Fpostgresql/d", "the host"),
            ("postgres://u:pass/secret@db", "the host"),
            ("postgres://u:secret@db:secret", "the host"),
            ("postgres://db/a/b", "the database"),
            ("postgres://u:%ff@db", "the password"),
            ("postgres://db?sslmode=require", "sslmode in the query"),
            ("postgres://db?sslmode=", "sslmode in the query"),
            ("postgres://db?sslrootcert=/x", "sslmode in the query"),
            ("postgres://db?sslmode=disable&sslrootcert=/x", "sslmode in the query"),
            ("postgres://db?sslmode=verify-full&sslcert=/dev/null", "sslcert and sslkey in the query"),
            ("postgres://db?target_session_attrs=any", "target_session_attrs in the query"),
            ("postgres://db?pasword_file=/x", "a key of the query"),
            ("postgres://db?password=secret", "a key of the query"),
            ("postgres://u:pass?secret@db", "the host"),
            ("postgres://u:p@db?password_file=/dev/null", "the password"),
            ("postgres://db?password_file=/nowhere", "/nowhere: No such file or directory (os error 2)"),
            (
                "postgres://db?sslmode=verify-full&sslrootcert=/nowhere",
                "/nowhere: No such file or directory (os error 2)",
            ),
        ] {
            let error = read_url(url).expect_err(url);
            assert_eq!(error.part, part, "{url}");
            assert!(!error.expected.is_empty() && !error.to_string().contains("secret"));
        }
        for cluster in ["", "a\n", &*"x".repeat(256)] {
            let error = Settings::from_url("postgres://db", cluster, Duration::from_secs(15)).unwrap_err();
            assert_eq!(error.part, "the cluster name");
        }
    }
}
