//! Where the store is and how to get in: one URL, checked once.

use std::fmt;
use std::time::Duration;

use repmd_backend_remote::url::part_of;
use repmd_backend_remote::{Access, Address, Login, Tls, Url};

pub use repmd_backend_remote::SettingsError;

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
    pub(crate) access: Access,
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
        settings.access.check_files()?;
        Ok(settings)
    }

    fn parse(url: &str, cluster: &str, lease_ttl: Duration) -> Result<Self, SettingsError> {
        if cluster.is_empty() || cluster.chars().any(char::is_control) {
            return Err(SettingsError::new("the cluster name", "a name without control characters"));
        }
        let url = Url::split(url);
        let mut tls = match url.scheme {
            "etcd" => None,
            "etcds" => Some(Tls::default()),
            _ => return Err(SettingsError::new("the start", "etcd:// or, with TLS, etcds://")),
        };
        let endpoints = Address::parse_all(url.hosts, ETCD_PORT, &['"', '<', '>', '\\'])?;
        let mut login = Login::parse(url.login)?;
        if !url.path.is_empty() {
            return Err(SettingsError::new("the path", "none: the cluster is a setting of its own"));
        }
        for option in url.options(&KEYS, "ca=/etc/etcd/ca.pem") {
            let (key, value) = option?;
            set(key, value, &mut login, &mut tls)?;
        }
        if login.has_password() && login.user.is_none() {
            return Err(SettingsError::new(
                "the user",
                "one before the password, as in etcd://USER:PASSWORD@HOST",
            ));
        }
        if tls.as_ref().is_some_and(Tls::is_half) {
            return Err(SettingsError::new("cert and key in the query", "both or neither"));
        }
        let cluster = cluster.to_owned();
        Ok(Self { cluster, lease_ttl, endpoints, access: Access::new(login, tls) })
    }
}

/// The store's URL, without secrets.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.access.tls.is_some() { "etcds://" } else { "etcd://" })?;
        let login = &self.access.login;
        match (&login.user, login.has_password()) {
            (None, _) => {}
            (Some(user), false) => write!(f, "{user}@")?,
            (Some(user), true) => write!(f, "{user}:***@")?,
        }
        f.write_str(&Address::join(&self.endpoints))
    }
}

/// What the query may have.
const KEYS: [&str; 4] = ["password_file", "ca", "cert", "key"];

fn set(key: &str, value: String, login: &mut Login, tls: &mut Option<Tls>) -> Result<(), SettingsError> {
    match (key, tls) {
        ("password_file", _) => return login.read_password_from(value.into()),
        (_, None) => {
            return Err(SettingsError::new(part_of(key), "etcds:// before it: etcd:// is without TLS"));
        }
        ("ca", Some(tls)) => tls.authority = Some(value.into()),
        ("cert", Some(tls)) => tls.certificate = Some(value.into()),
        (_, Some(tls)) => tls.key = Some(value.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

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
        let password = read_url("etcd://u:s3%3Acret@db").unwrap().access.login.password().unwrap().unwrap();
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
