//! Where registrations live.

use std::fmt;

/// The registry where nobody named one.
pub(super) const DEFAULT_BACKEND: &str = "memory";

/// Where registrations live.
#[derive(Clone, PartialEq, Eq)]
pub struct Backend {
    pub(super) url: String,
    pub(super) is_shared: bool,
}

impl Backend {
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
        Some((user_info, host)) => format!("{}:***@{host}", user_info.split(':').next().unwrap_or_default()),
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
