//! Where registrations live.

use std::fmt;

use super::parsing::Form;
use super::reader::Reader;
use super::table::Row;
use super::values::SettingError;

/// Which URLs there are, the kinds of registry know.
pub(super) const BACKEND: Row<String> = Row {
    key: "backend",
    variables: &["REPMD_BACKEND"],
    form: Form { value: "BACKEND", expected: "a URL", parse: |text| Some(text.to_owned()) },
    help: "Where registrations live: `memory`, or a store that daemons share, such as redis://10.0.0.9 or postgres://10.0.0.9",
    default: "memory",
};

/// Where registrations live.
#[derive(Clone, PartialEq, Eq)]
pub struct Backend {
    url: String,
    is_shared: bool,
}

impl Backend {
    /// `check` says whether daemons share the registry at a URL, or what it expects there.
    pub(super) fn read(
        values: &Reader<'_>,
        check: &dyn Fn(&str) -> Result<bool, String>,
    ) -> Result<Self, SettingError> {
        let url = values.value(&BACKEND)?;
        let is_shared = check(&url).map_err(|expected| values.wrong(&BACKEND, &expected))?;
        Ok(Self { url, is_shared })
    }

    /// Where it is. It may hold a password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether daemons share it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }
}

impl fmt::Display for Backend {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.url))
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({self})")
    }
}

/// A URL as it may be shown: `scheme://user:***@host`.
pub(super) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    // A password may hold any character; the last `@` before the path ends it.
    let entry = match rest.rsplit_once('@') {
        Some((user_info, host)) => match user_info.split_once(':') {
            Some((user, _password)) => format!("{user}:***@{host}"),
            None => rest.to_owned(),
        },
        None => rest.to_owned(),
    };
    // Only a file is named there. Whoever writes a password there means no less to keep it.
    let hide = |pair: &str| match pair.split_once('=') {
        Some((key, _)) if key.contains("pass") && !key.ends_with("_file") => format!("{key}=***"),
        _ => pair.to_owned(),
    };
    let query = query.map(|query| format!("?{}", query.split('&').map(hide).collect::<Vec<_>>().join("&")));
    format!("{scheme}://{entry}{}", query.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, merge};
    use super::*;

    #[test]
    fn a_password_is_in_no_error_of_the_settings() {
        let broken = "port = 5000\nbackend = redis://u:s3cret@h\n";
        let error = merge(&[], &[], broken).unwrap_err().to_string();
        assert!(!error.contains("s3cret") && error.contains("line 2, column 11: "), "{error}");
        for url in ["redis:/u:s3cret@h", "redis://h?password=s3cret", "redis://u:s3cret@h/x?y=z", "s3cret"] {
            let error = check(&[("backend", url)], &[], "").unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
            assert!(!without_password(url).contains("s3cret"), "{}", without_password(url));
        }
        let shown = "rediss://u:***@h:1/2?password_file=/run/p&x=y";
        assert_eq!(without_password("rediss://u:p@h:1/2?password_file=/run/p&x=y"), shown);
    }

    #[test]
    fn a_user_without_a_password_is_shown_without_one() {
        for url in ["postgres://repmd@h/repmd", "etcds://u@h?password_file=/run/p", "redis://h"] {
            assert_eq!(without_password(url), url);
        }
    }
}
