//! Where the store is and how to get in: one URL, checked once.

use std::fmt;
use std::time::Duration;

use repmd_backend_remote::url::{decode, part_of};
use repmd_backend_remote::{Access, Address, Login, Tls, Url};

pub use repmd_backend_remote::SettingsError;

/// The port of a PostgreSQL server.
const PORT: u16 = 5432;

/// Who logs in where the URL names nobody.
const USER: &str = "repmd";

/// What its URLs begin with.
pub(crate) const SCHEMES: [&str; 2] = ["postgres", "postgresql"];

/// What the query may have: what it has in the URLs of other clients of PostgreSQL, and a file for the password.
const KEYS: [&str; 6] =
    ["password_file", "sslcert", "sslkey", "sslmode", "sslrootcert", "target_session_attrs"];

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
    pub(crate) access: Access,
    database: String,
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
        settings.access.check_files()?;
        Ok(settings)
    }

    /// The same, without a look at the files.
    pub(crate) fn parse(url: &str, cluster: &str, lease_ttl: Duration) -> Result<Self, SettingsError> {
        if cluster.is_empty() || CLUSTER_BYTES_MAX < cluster.len() || cluster.contains(char::is_control) {
            let expected = format!("a name of {CLUSTER_BYTES_MAX} bytes at most");
            return Err(SettingsError::new("the cluster name", expected));
        }
        let url = Url::split(url);
        if !SCHEMES.contains(&url.scheme) {
            let expected = SCHEMES.map(|scheme| format!("{scheme}://")).join(" or ");
            return Err(SettingsError::new("the start", expected));
        }
        // A percent sign stands before the folder of a socket, in the URLs of others.
        let addresses = Address::parse_all(url.hosts, PORT, &['%'])?;
        let mut options = Options { login: Login::parse(url.login)?, verifies: None, tls: Tls::default() };
        if options.login.user.as_ref().is_some_and(|user| user.contains('\0')) {
            return Err(SettingsError::new("the user", "a name"));
        }
        for option in url.options(&KEYS, "sslrootcert=/etc/repmd/ca.pem") {
            let (key, value) = option?;
            options.set(key, value)?;
        }
        let Options { login, verifies, tls } = options;
        if tls.is_half() {
            return Err(SettingsError::new("sslcert and sslkey in the query", "both or neither"));
        }
        if verifies != Some(true) && (tls.authority.is_some() || tls.certificate.is_some()) {
            let expected = "verify-full: without it no certificate is used";
            return Err(SettingsError::new("sslmode in the query", expected));
        }
        let database = decode(url.path, "the database")?;
        if database.contains('/') || database.contains('\0') {
            return Err(SettingsError::new("the database", "one name, as in /repmd"));
        }
        let access = Access::new(login, verifies.unwrap_or_default().then_some(tls));
        Ok(Self { cluster: cluster.to_owned(), lease_ttl, addresses, access, database })
    }

    /// Who logs in.
    pub(crate) fn user(&self) -> &str {
        self.access.login.user.as_deref().unwrap_or(USER)
    }

    /// The database, which is called as the user is where the URL names none.
    pub(crate) fn database(&self) -> &str {
        if self.database.is_empty() { self.user() } else { &self.database }
    }

    /// The servers, for people.
    pub(crate) fn hosts(&self) -> String {
        Address::join(&self.addresses)
    }
}

/// The store's URL, without secrets.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = if self.access.login.has_password() { ":***" } else { "" };
        write!(f, "postgres://{}{password}@{}/{}", self.user(), self.hosts(), self.database())?;
        f.write_str(if self.access.tls.is_some() { "?sslmode=verify-full" } else { "" })
    }
}

/// What the query sets.
struct Options {
    login: Login,
    verifies: Option<bool>,
    tls: Tls,
}

impl Options {
    fn set(&mut self, key: &str, value: String) -> Result<(), SettingsError> {
        match key {
            "password_file" => return self.login.read_password_from(value.into()),
            "sslmode" => {
                self.verifies = Some(match &*value {
                    "disable" => false,
                    "verify-full" => true,
                    _ => {
                        let expected = "disable or verify-full: TLS that does not look who the server is \
                                        protects from nobody who can be in between";
                        return Err(SettingsError::new(part_of(key), expected));
                    }
                });
            }
            "sslrootcert" => self.tls.authority = Some(value.into()),
            "sslcert" => self.tls.certificate = Some(value.into()),
            "sslkey" => self.tls.key = Some(value.into()),
            // `target_session_attrs`
            _ if value == "read-write" || value == "primary" => {}
            _ => return Err(SettingsError::new(part_of(key), "read-write")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

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
            let secret = settings.access.login.password().unwrap();
            let debug = format!("{settings:?}");
            assert!(secret.is_none_or(|secret| !debug.contains(&format!("{:?}", secret.expose_secret()))));
        }
        let settings = read_url("postgres://u:p%40%3A@db").unwrap();
        assert_eq!(settings.access.login.password().unwrap().unwrap().expose_secret(), "p@:");
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
