//! Where the store is and how to get in: one URL, checked once.

use std::fmt;
use std::time::Duration;

use repmd_backend_remote::url::{decode, part_of};
use repmd_backend_remote::{Access, Address, Login, Tls, Url};

pub use repmd_backend_remote::SettingsError;

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
    pub(crate) access: Access,
    pub(crate) database: i64,
}

/// How the servers are arranged, and so how the primary is found.
#[derive(Clone, Debug)]
pub(crate) enum Topology {
    /// One server, or an address that always leads to the primary.
    Alone(Address),
    /// Sentinels know the primary.
    Sentinel { sentinels: Vec<Address>, master: String, access: Access },
    /// The servers of a Redis Cluster know it. All keys have one hash tag and so one primary.
    Cluster(Vec<Address>),
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
        let url = Url::split(url);
        let (family, arrangement) = url.scheme.split_once('+').unwrap_or((url.scheme, ""));
        let tls = match family {
            "redis" => None,
            "rediss" => Some(Tls::default()),
            _ => return Err(bad_scheme()),
        };
        let mut options = Options { login: Login::parse(url.login)?, tls, sentinel: Login::default() };
        for option in url.options(&KEYS, "ca=/etc/redis/ca.pem") {
            let (key, value) = option?;
            options.set(key, value)?;
        }
        let Options { login, tls, sentinel } = options;
        if tls.as_ref().is_some_and(Tls::is_half) {
            return Err(SettingsError::new("cert and key in the query", "both or neither"));
        }
        let access = Access::new(login, tls);
        let (hosts, path) = (url.hosts, url.path);
        let (topology, database) = match arrangement {
            "" => (Topology::Alone(Address::parse(hosts, REDIS_PORT, &[])?), path),
            "sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(SettingsError::new(
                        "the path",
                        "/MASTER, as in redis+sentinel://h1,h2/mymaster",
                    ));
                }
                let sentinels = Address::parse_all(hosts, SENTINEL_PORT, &[])?;
                let master = decode(master, "the master's name")?;
                (Topology::Sentinel { sentinels, master, access: access.as_user(&sentinel) }, database)
            }
            "cluster" if path.is_empty() => {
                (Topology::Cluster(Address::parse_all(hosts, REDIS_PORT, &[])?), path)
            }
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
        Ok(Self { cluster, lease_ttl, topology, access, database })
    }

    fn check_files(&self) -> Result<(), SettingsError> {
        self.access.check_files()?;
        match &self.topology {
            Topology::Sentinel { access, .. } => access.check_files(),
            Topology::Alone(_) | Topology::Cluster(_) => Ok(()),
        }
    }
}

/// The store's URL, without secrets.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.access.tls.is_some() { "rediss" } else { "redis" })?;
        let (arrangement, hosts) = match &self.topology {
            Topology::Alone(address) => ("", std::slice::from_ref(address)),
            Topology::Sentinel { sentinels, .. } => ("+sentinel", &sentinels[..]),
            Topology::Cluster(seeds) => ("+cluster", &seeds[..]),
        };
        write!(f, "{arrangement}://")?;
        let login = &self.access.login;
        match (&login.user, login.has_password()) {
            (None, false) => {}
            (user, false) => write!(f, "{}@", user.as_deref().unwrap_or_default())?,
            (user, true) => write!(f, "{}:***@", user.as_deref().unwrap_or_default())?,
        }
        f.write_str(&Address::join(hosts))?;
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

/// What the query sets.
struct Options {
    login: Login,
    tls: Option<Tls>,
    sentinel: Login,
}

impl Options {
    fn set(&mut self, key: &str, value: String) -> Result<(), SettingsError> {
        match key {
            "password_file" => return self.login.read_password_from(value.into()),
            "sentinel_user" => self.sentinel.user = Some(value),
            "sentinel_password_file" => return self.sentinel.read_password_from(value.into()),
            _ => {
                let Some(tls) = &mut self.tls else {
                    let expected = "rediss:// before it: redis:// is without TLS";
                    return Err(SettingsError::new(part_of(key), expected));
                };
                let file = match key {
                    "ca" => &mut tls.authority,
                    "cert" => &mut tls.certificate,
                    _ => &mut tls.key,
                };
                *file = Some(value.into());
            }
        }
        Ok(())
    }
}

fn bad_scheme() -> SettingsError {
    SettingsError::new("the start", SCHEMES.map(|scheme| format!("{scheme}://")).join(", "))
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
            let secret = settings.access.login.password().unwrap();
            let debug = format!("{settings:?}");
            assert!(secret.is_none_or(|secret| !debug.contains(&format!("{:?}", secret.expose_secret()))));
        }
        let settings = read_url("rediss://u:p%40%3A@db").unwrap();
        assert_eq!(settings.access.login.password().unwrap().unwrap().expose_secret(), "p@:");
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
