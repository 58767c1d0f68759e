//! Everything that can be set: one table, read from flags, environment and file, checked once.
//!
//! The parser of `repmd serve`, its help, the man page, the completions and `check-config` are all made
//! from [`TABLE`], so they cannot disagree. A setting is written in one file, among those that it belongs with: its row,
//! which says how its value is written, and what is read of it. All that is left to do then is to give it a place in
//! [`TABLE`].
//!
//! | module | noun |
//! |---|---|
//! | `table` | the rows, and their order |
//! | `values` | what was set, and by whom: flags, environment and file, merged |
//! | `reader` | what was set, read a row at a time, with what people hear of it |
//! | `parsing` | how values are written |
//! | `machine` | what this machine says of itself |
//! | all others | the settings of one part of the daemon |

mod admin;
mod backend;
mod dns;
mod files;
mod identity;
mod limits;
mod listening;
mod log;
mod machine;
mod parsing;
mod policy;
mod reader;
mod registry;
mod relay;
mod table;
mod topology;
mod values;

pub use admin::{ADMIN_ADDRESS, Admin};
pub use backend::Backend;
pub(crate) use machine::machine_name;
pub(crate) use parsing::duration;
pub use reader::Shown;
pub use table::{Setting, TABLE};
pub use values::{CONFIG_PATH, CONFIG_VARIABLE, Environment, Origin, SettingError, Values};

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use repmd_backend_api::HostId;

use crate::registry::Lookup;
use crate::server::{Limits, Policy, Topology};
use crate::telemetry::LogFormat;
use identity::{Identity, default_aliases};
use reader::Reader;

/// Everything that the daemon needs to know, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients find the daemon.
    pub port: u16,
    /// Whether somebody chose the port: a socket that a service manager passed has its own else.
    pub port_is_set: bool,
    /// Where to listen besides loopback; empty: everywhere.
    pub addresses: Vec<IpAddr>,
    /// Where registrations live.
    pub backend: Backend,
    /// The registry within the store.
    pub cluster: String,
    /// How long a shared store keeps a registration that is not renewed.
    pub lease_ttl: Duration,
    /// The host that this daemon's nodes are on.
    pub host: HostId,
    /// Other names of that host; `None`: as the machine says.
    pub aliases: Option<Vec<HostId>>,
    /// What tells this daemon from others of its host.
    pub instance_name: String,
    /// Where nodes of this host are reached; `None`: by the interface that leads to the store.
    pub advertise: Option<Vec<IpAddr>>,
    /// How far a bare name reaches.
    pub lookup: Lookup,
    /// How long to answer for nodes elsewhere while the store is away; `None`: as long as a lease lasts.
    pub stale_for: Option<Duration>,
    /// How the host is reached, and for which others this daemon answers.
    pub topology: Topology,
    /// Where to remember nodes that do not come back by themselves.
    pub orphans_file: Option<PathBuf>,
    /// Where to write the hosts of the cluster.
    pub hosts_file: Option<PathBuf>,
    /// Whose names are written there; `None`: all.
    pub hosts_file_domains: Option<Vec<HostId>>,
    /// What is asked by DNS.
    pub dns: crate::dns::Options,
    /// What is relayed; `None`: nothing.
    pub relay: Option<crate::relay::Limits>,
    /// Who may ask what.
    pub policy: Policy,
    /// The bounds of the server.
    pub limits: Limits,
    /// How long after its last node the daemon ends; `None`: never.
    pub exit_when_empty: Option<Duration>,
    /// Where operators look.
    pub admin: Admin,
    /// The file with the token that they must have.
    pub admin_token_file: Option<PathBuf>,
    /// Where to keep who did what, from where.
    pub audit_log: Option<PathBuf>,
    /// A filter of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is allowed, but most likely not meant.
    pub warnings: Vec<String>,
    /// Every setting, in the order of the table, for people.
    pub shown: Vec<Shown>,
}

impl Settings {
    /// Who chose the value of `key`.
    pub(crate) fn origin(&self, key: &str) -> &Origin {
        let shown = self.shown.iter().find(|shown| shown.key == key);
        &shown.expect("it is a key of the table").origin
    }

    /// Checks every value. `descriptors` is how many files the process may have open, on which the
    /// defaults of the limits depend; `check_backend` says whether daemons share the registry at a URL, or what it
    /// expects there.
    ///
    /// # Errors
    /// [`SettingError::Value`] for the first that is wrong.
    pub fn check(
        values: &Values,
        descriptors: usize,
        check_backend: &dyn Fn(&str) -> Result<bool, String>,
    ) -> Result<Self, SettingError> {
        let mut reader = Reader::new(values);
        let values = &mut reader;
        // Of several that are wrong, people hear of the first in this order.
        let policy = policy::read_look_ups(values)?;
        let (port, port_is_set) = listening::port(values)?;
        let addresses = listening::addresses(values)?;
        let backend = Backend::read(values, check_backend)?;
        let cluster = values.value(&registry::CLUSTER)?;
        let identity = Identity::read(values, port, &backend)?;
        let topology = topology::read(values)?;
        let relay = relay::read(values, descriptors, &topology)?;
        let lookup = values.value(&registry::LOOKUP)?;
        let topology = Topology { names: values.value(&topology::NAMES)?, ..topology };
        let orphans_file = values.chosen(&files::ORPHANS_FILE)?;
        let (hosts_file, hosts_file_domains) = files::hosts_file(values, &backend)?;
        let dns = dns::read(values)?;
        let lease_ttl = values.value(&registry::LEASE_TTL)?;
        let policy = policy::read_nodes(values, policy)?;
        let (admin, admin_token_file) = admin::read(values)?;
        let audit_log = values.chosen(&log::AUDIT_LOG)?;
        let log = values.value(&log::LOG)?;
        let log_format = values.value(&log::LOG_FORMAT)?;
        let relay_descriptors = relay.as_ref().map_or(0, crate::relay::Limits::descriptors_max);
        let others = relay_descriptors.saturating_add(dns.descriptors_max());
        let (limits, exit_when_empty) = limits::read(values, descriptors, others)?;
        let stale_for = registry::stale_for(values, lease_ttl)?;
        let policy = policy::read_others(values, policy)?;
        let (warnings, shown) = reader.noted();
        Ok(Self {
            port,
            port_is_set,
            addresses,
            backend,
            cluster,
            lease_ttl,
            host: identity.host,
            aliases: identity.aliases,
            instance_name: identity.instance_name,
            advertise: identity.advertise,
            lookup,
            stale_for,
            topology,
            orphans_file,
            hosts_file,
            hosts_file_domains,
            dns,
            relay,
            policy,
            limits,
            exit_when_empty,
            admin,
            admin_token_file,
            audit_log,
            log,
            log_format,
            warnings,
            shown,
        })
    }

    /// The other names of the host when it is reached at `addresses`: those that somebody chose, or else its full name and
    /// these addresses.
    pub(crate) fn aliases_at(&self, addresses: &[IpAddr]) -> Vec<HostId> {
        self.aliases.clone().unwrap_or_else(|| default_aliases(&self.host, addresses))
    }
}

#[cfg(test)]
mod tests {
    //! What the tests of all these files share.

    use super::*;

    pub(super) fn merge(
        flags: &[(&str, &str)],
        variables: &[(&str, &str)],
        file: &str,
    ) -> Result<Values, SettingError> {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, file).unwrap();
        let flags: Vec<_> = flags.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
        let environment =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned());
        Values::merge(&flags, &environment, Some(path.path()))
    }

    pub(super) fn check(
        flags: &[(&str, &str)],
        variables: &[(&str, &str)],
        file: &str,
    ) -> Result<Settings, SettingError> {
        let shared =
            |url: &str| if url == backend::BACKEND.default { Ok(false) } else { Err("a store".to_owned()) };
        Settings::check(&merge(flags, variables, file)?, 1024, &shared)
    }
}
