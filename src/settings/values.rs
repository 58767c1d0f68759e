//! What every setting was set to, and by whom: merged from flags, environment and file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::backend::without_password;
use super::table::{STOCK_RELAXED, Setting, TABLE};
use crate::printable::in_words;

/// Environment variable that names the settings file.
pub const CONFIG_VARIABLE: &str = "REPMD_CONFIG";

/// The settings file that is read when it exists and no other is named.
pub const CONFIG_PATH: &str = "/etc/repmd/repmd.toml";

/// The settings that narrow who may ask. Set to nothing, they must not let everybody in: an empty variable is
/// no less set than an empty value in a file.
pub(super) const NARROWING: [&str; 4] =
    ["allow-lookups-from", "allow-lists-from", "allow-dns-from", "allow-admin-from"];

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Variable(&'static str),
    /// A flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Why the start is stopped: which setting, and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// A value is not what its setting takes.
    #[error("{key}: {value:?} (from {origin}) is wrong: expected {expected}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What it was set to.
        value: String,
        /// By whom.
        origin: Origin,
        /// What it takes.
        expected: String,
    },
    /// A key that no setting has.
    #[error("{key}: there is no such setting (from {})", .path.display())]
    Unknown {
        /// The key.
        key: String,
        /// The file that has it.
        path: PathBuf,
    },
    /// The file cannot be read, or is no TOML.
    #[error("config: cannot read {}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// The text of every setting, and where it came from.
#[derive(Clone, Debug)]
pub struct Values {
    pub(super) texts: BTreeMap<&'static str, (String, Origin)>,
    /// What was left out, and why.
    pub(super) warnings: Vec<String>,
}

/// Reads one variable of the environment. A parameter, so that no test sets a process variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Values {
    /// Merges the four sources: a flag wins over the environment, that over the file, that over the default.
    ///
    /// `flags` are pairs of key and text. The file is `config`, else the one that [`CONFIG_VARIABLE`]
    /// names, else [`CONFIG_PATH`] where it exists.
    ///
    /// # Errors
    /// [`SettingError::File`] and [`SettingError::Unknown`].
    pub fn merge(
        flags: &[(&str, String)],
        environment: Environment<'_>,
        config: Option<&Path>,
    ) -> Result<Self, SettingError> {
        let file = read_file(config, environment)?;
        let mut texts = BTreeMap::new();
        let mut warnings = Vec::new();
        for setting in TABLE {
            let flag = flags.iter().rev().find(|(key, _)| *key == setting.key);
            let mut variable = || {
                let set = |name: &&'static str| Some((environment(name)?, Origin::Variable(name)));
                // An empty variable counts as unset, but for the one that the stock daemon takes by its mere
                // presence, and for those that would let more in.
                let counts = |(text, origin): &(String, Origin)| {
                    !text.is_empty()
                        || *origin == Origin::Variable(STOCK_RELAXED)
                        || NARROWING.contains(&setting.key)
                };
                let is_ours = |(text, origin): &(String, Origin)| {
                    let is_platforms = setting.key == "port" && is_service_link(text);
                    if is_platforms {
                        warnings.push(format!(
                            "{origin}={text} is left out: Kubernetes and Docker set it for a service of that name"
                        ));
                    }
                    !is_platforms
                };
                setting.variables.iter().filter_map(set).filter(counts).find(is_ours)
            };
            let value = match flag {
                Some((_, text)) => (text.clone(), Origin::Flag),
                None => variable().or_else(|| file.get(setting.key).cloned()).unwrap_or_default(),
            };
            texts.insert(setting.key, value);
        }
        Ok(Self { texts, warnings })
    }

    /// A setting as it may be shown, and where it came from. `default`: what it comes to on this machine where nobody
    /// set it, if the table has only words for that.
    pub(super) fn shown(&self, setting: &Setting, default: Option<String>) -> Shown {
        let (text, origin) = &self.texts[setting.key];
        let value = match origin {
            Origin::Default => default.unwrap_or_else(|| setting.default.to_owned()),
            _ => shown(setting.key, text),
        };
        Shown { key: setting.key, value, origin: origin.clone() }
    }

    /// What `key` was set to, parsed; `None` when nobody set it.
    pub(super) fn parse<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, SettingError> {
        let (text, origin) = &self.texts[key];
        if *origin == Origin::Default {
            return Ok(None);
        }
        let wrong = || self.wrong(key, expected);
        parse(text.trim()).map(Some).ok_or_else(wrong)
    }

    pub(super) fn wrong(&self, key: &'static str, expected: &str) -> SettingError {
        let (text, origin) = &self.texts[key];
        SettingError::Value {
            key,
            // Where a URL is wrong, its password may stand anywhere.
            value: if key == "backend" { "***".to_owned() } else { text.clone() },
            origin: origin.clone(),
            expected: expected.to_owned(),
        }
    }
}

/// A value without its secrets.
fn shown(key: &str, text: &str) -> String {
    if key == "backend" { without_password(text) } else { text.to_owned() }
}

/// The settings of a file as text: arrays are joined by commas, as flags and variables write them.
fn read_file(
    config: Option<&Path>,
    environment: Environment<'_>,
) -> Result<BTreeMap<String, (String, Origin)>, SettingError> {
    let named = config.map(Path::to_path_buf);
    let named =
        named.or_else(|| environment(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from));
    let path = match named {
        Some(path) => path,
        None if Path::new(CONFIG_PATH).exists() => PathBuf::from(CONFIG_PATH),
        None => return Ok(BTreeMap::new()),
    };
    let unreadable = |reason: String| SettingError::File { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(in_words(&error)))?;
    let table: toml::Table = text.parse().map_err(|error| unreadable(place_of(&error, &text)))?;
    let mut settings = BTreeMap::new();
    for (key, value) in table {
        if TABLE.iter().all(|setting| setting.key != key) {
            return Err(SettingError::Unknown { key, path });
        }
        settings.insert(key, (file_text(&value), Origin::File(path.clone())));
    }
    Ok(settings)
}

/// Where TOML is broken, and how. Without the line itself: a password may stand in it.
fn place_of(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    // All that it says beyond the first line may be what it has read.
    let what = error.message().lines().next().unwrap_or_default();
    format!("line {line}, column {column}: {what}")
}

/// What a container's platform sets in REPMD_PORT where a service is called `repmd`, such as
/// `tcp://10.96.0.5:4369`: Kubernetes for each pod of the namespace, Docker for links.
fn is_service_link(text: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme))
}

fn file_text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) => items.iter().map(file_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A setting as it may be shown: without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The setting.
    pub key: &'static str,
    /// What it is set to; where nobody set it, what it comes to on this machine.
    pub value: String,
    /// By whom.
    pub origin: Origin,
}
