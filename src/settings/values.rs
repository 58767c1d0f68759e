//! What every setting was set to, and by whom: merged from flags, environment and file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::backend::{BACKEND, without_password};
use super::listening::PORT;
use super::policy::{NARROWING, STOCK_RELAXED};
use super::table::TABLE;
use crate::printable::in_words;

/// Environment variable that names the settings file.
pub const CONFIG_VARIABLE: &str = "REPMD_CONFIG";

/// The settings file that is read when it exists and no other is named.
pub const CONFIG_PATH: &str = "/etc/repmd/repmd.toml";

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
    texts: BTreeMap<&'static str, (String, Origin)>,
    /// What was left out, and why.
    warnings: Vec<String>,
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
                    let is_platforms = setting.key == PORT.key && is_service_link(text);
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

    /// What was left out, and why.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What `key` was set to, as it was written, and by whom.
    pub(super) fn get(&self, key: &str) -> (&str, &Origin) {
        let (text, origin) = &self.texts[key];
        (text, origin)
    }

    /// The same as it may be shown: without secrets.
    pub(super) fn shown(&self, key: &str) -> (String, Origin) {
        let (text, origin) = self.get(key);
        let shown = if key == BACKEND.key { without_password(text) } else { text.to_owned() };
        (shown, origin.clone())
    }

    /// That `key` was set to something else than was expected.
    pub(super) fn wrong(&self, key: &'static str, expected: &str) -> SettingError {
        let (text, origin) = self.get(key);
        SettingError::Value {
            key,
            // Where a URL is wrong, its password may stand anywhere.
            value: if key == BACKEND.key { "***".to_owned() } else { text.to_owned() },
            origin: origin.clone(),
            expected: expected.to_owned(),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{check, merge};

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let (variable, file) = (&[("REPMD_PORT", "5001")][..], "port = 5002");
        assert_eq!(check(&[("port", "5000")], variable, file).unwrap().port, 5000);
        assert_eq!(check(&[], variable, file).unwrap().port, 5001);
        assert_eq!(check(&[], &[], file).unwrap().port, 5002);
        assert_eq!(check(&[], &[], "").unwrap().port, 4369);
    }

    #[test]
    fn repmds_own_variable_wins_over_the_stock_daemons() {
        let both = [("ERL_EPMD_PORT", "5001"), ("REPMD_PORT", "5000")];
        assert_eq!(check(&[], &both, "").unwrap().port, 5000);
        assert_eq!(check(&[], &both[..1], "").unwrap().port, 5001);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_origin_and_what_was_expected() {
        let error = check(&[], &[("ERL_EPMD_PORT", "70000")], "").unwrap_err();
        let text = "port: \"70000\" (from ERL_EPMD_PORT) is wrong: expected a number from 1 to 65535";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn what_a_platform_sets_for_a_service_called_repmd_is_left_out_with_a_warning() {
        for (name, other) in [("REPMD_PORT", "ERL_EPMD_PORT"), ("ERL_EPMD_PORT", "REPMD_PORT")] {
            let link = (name, "tcp://10.96.0.5:4369");
            let settings = check(&[], &[link], "").unwrap();
            assert_eq!((settings.port, settings.port_is_set), (4369, false));
            assert!(settings.warnings[0].contains("REPMD_PORT=tcp") || name != "REPMD_PORT");
            assert!(settings.warnings[0].starts_with(name), "{:?}", settings.warnings);
            assert_eq!(check(&[], &[link, (other, "5000")], "").unwrap().port, 5000);
        }
    }

    #[test]
    fn a_key_that_no_setting_has_is_named() {
        let error = merge(&[], &[], "prot = 5000").unwrap_err();
        assert!(error.to_string().starts_with("prot: there is no such setting (from /"), "{error}");
    }

    #[test]
    fn a_file_may_write_lists_as_arrays_and_numbers_as_numbers() {
        let file = "address = [\"10.0.0.1\", \"::1\"]\nrelaxed-command-check = true\npacket-timeout = 5";
        let settings = check(&[], &[], file).unwrap();
        assert_eq!(settings.addresses.len(), 2);
        assert!(settings.policy.relaxed_command_check);
        assert_eq!(settings.limits.packet_timeout, Duration::from_secs(5));
    }
}
