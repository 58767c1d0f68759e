//! Everything that can be set: one table, read from flags, environment and file, checked once.
//!
//! The parser of `repmd serve`, its help, the man page, the completions and `check-config` are all made
//! from [`TABLE`], so they cannot disagree.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::rr::Name;
use ipnet::IpNet;
use repmd_backend_api::HostId;
use rustls::pki_types::ServerName;
use tracing::level_filters::LevelFilter;

use crate::dns;
use crate::printable::in_words;
use crate::protocol::DEFAULT_PORT;
use crate::registry::{Lookup, default_instance_name};
use crate::relay;
use crate::server::{Limits, Names, Networks, Policy, Topology};
use crate::telemetry::LogFormat;

/// One thing that can be set.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key in a file; `--key` is the flag.
    pub key: &'static str,
    /// Environment variables, the strongest first.
    pub variables: &'static [&'static str],
    /// What its value is called in help texts.
    pub value: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What it is when nobody sets it, in words if it depends on the machine.
    pub default: &'static str,
}

/// Every setting, in the order of the help text.
pub const TABLE: &[Setting] = &[
    Setting {
        key: "port",
        variables: &["REPMD_PORT", "ERL_EPMD_PORT"],
        value: "PORT",
        help: "Listen on this port",
        default: "4369",
    },
    Setting {
        key: "address",
        variables: &["REPMD_ADDRESS", "ERL_EPMD_ADDRESS"],
        value: "ADDRESS,...",
        help: "Listen on these addresses, and on loopback",
        default: "every address",
    },
    Setting {
        key: "backend",
        variables: &["REPMD_BACKEND"],
        value: "BACKEND",
        help: "Where registrations live: `memory`, or a store that daemons share, such as redis://10.0.0.9 or postgres://10.0.0.9",
        default: "memory",
    },
    Setting {
        key: "cluster",
        variables: &["REPMD_CLUSTER"],
        value: "NAME",
        help: "The registry within the store; daemons of different clusters never see each other",
        default: "default",
    },
    Setting {
        key: "host",
        variables: &["REPMD_HOST"],
        value: "NAME",
        help: "The host that this daemon's nodes are on",
        default: "this machine's short host name",
    },
    Setting {
        key: "alias",
        variables: &["REPMD_ALIAS"],
        value: "NAME,...",
        help: "Other names of that host, such as its full one",
        default: "this machine's full name, and the advertised addresses",
    },
    Setting {
        key: "instance-name",
        variables: &["REPMD_INSTANCE_NAME"],
        value: "NAME",
        help: "What tells this daemon from others of its host, and stays the same when it restarts",
        default: "this machine's name, what of its machine-id tells it from others, the host and the port",
    },
    Setting {
        key: "advertise",
        variables: &["REPMD_ADVERTISE"],
        value: "ADDRESS,...",
        help: "Where nodes of this host are reached from others",
        default: "this machine's address on the connection to the store, as it changes",
    },
    Setting {
        key: "advertise-port",
        variables: &["REPMD_ADVERTISE_PORT"],
        value: "FROM=TO,...",
        help: "Tell other machines port TO for a node that listens on port FROM",
        default: "the node's own port",
    },
    Setting {
        key: "virtual-host",
        variables: &["REPMD_VIRTUAL_HOST"],
        value: "ADDRESS=HOST,...",
        help: "Answer for another host at this address of this machine",
        default: "none",
    },
    Setting {
        key: "relay",
        variables: &["REPMD_RELAY"],
        value: "CIDR,...",
        help: "Relay connections of those who ask at the address of a virtual host to nodes of these networks",
        default: "off",
    },
    Setting {
        key: "relay-ports",
        variables: &["REPMD_RELAY_PORTS"],
        value: "FROM-TO",
        help: "Listen for the relay on these ports, one for each node that is asked for",
        default: "any free port",
    },
    Setting {
        key: "relay-connections",
        variables: &["REPMD_RELAY_CONNECTIONS"],
        value: "NUMBER",
        help: "Most connections at once that are relayed",
        default: "a sixteenth of the open-file limit",
    },
    Setting {
        key: "relay-connections-per-peer",
        variables: &["REPMD_RELAY_CONNECTIONS_PER_PEER"],
        value: "NUMBER",
        help: "The same for one address that dials",
        default: "half of relay-connections",
    },
    Setting {
        key: "relay-target-ports",
        variables: &["REPMD_RELAY_TARGET_PORTS"],
        value: "FROM-TO",
        help: "Relay to nodes at these ports alone",
        default: "1024-65535",
    },
    Setting {
        key: "relay-idle-time",
        variables: &["REPMD_RELAY_IDLE_TIME"],
        value: "TIME",
        help: "End a relayed connection on which nothing was sent for this long, or up to twice as long",
        default: "5m",
    },
    Setting {
        key: "lookup",
        variables: &["REPMD_LOOKUP"],
        value: "SCOPE",
        help: "Where to look a name without a host up: on this `host`, or also in the `cluster`",
        default: "cluster",
    },
    Setting {
        key: "names",
        variables: &["REPMD_NAMES"],
        value: "SCOPE",
        help: "What NAMES lists: the nodes of the `host` that was asked, or its `scope`: and of all virtual hosts",
        default: "host",
    },
    Setting {
        key: "orphans-file",
        variables: &["REPMD_ORPHANS_FILE"],
        value: "PATH",
        help: "Remember the nodes in this file, and answer after a restart for those that do not come back by themselves, while something listens at their port",
        default: "none",
    },
    Setting {
        key: "hosts-file",
        variables: &["REPMD_HOSTS_FILE"],
        value: "PATH",
        help: "Write the addresses of the cluster's hosts into this file, for nodes without DNS, and an inetrc beside it",
        default: "none",
    },
    Setting {
        key: "hosts-file-domains",
        variables: &["REPMD_HOSTS_FILE_DOMAINS"],
        value: "DOMAIN,...",
        help: "Write other hosts' names into it only if they are in these domains, or have no dot",
        default: "any name",
    },
    Setting {
        key: "dns",
        variables: &["REPMD_DNS"],
        value: "ADDRESS:PORT,...",
        help: "Answer by DNS here, UDP and TCP: HOST.ZONE is where a host is, NAME.nodes.ZONE which hosts have a node",
        default: "off",
    },
    Setting {
        key: "dns-zone",
        variables: &["REPMD_DNS_ZONE"],
        value: "ZONE,...",
        help: "The zones whose names are the registry's",
        default: "repmd",
    },
    Setting {
        key: "dns-ttl",
        variables: &["REPMD_DNS_TTL"],
        value: "TIME",
        help: "How long resolvers may remember what they were told",
        default: "1s",
    },
    Setting {
        key: "dns-negative-ttl",
        variables: &["REPMD_DNS_NEGATIVE_TTL"],
        value: "TIME",
        help: "How long they may remember that there is nothing",
        default: "1s",
    },
    Setting {
        key: "dns-forward",
        variables: &["REPMD_DNS_FORWARD"],
        value: "ADDRESS,...",
        help: "Ask these name servers for names of all other zones, for this machine and for allow-lookups-from",
        default: "none: those names are refused",
    },
    Setting {
        key: "dns-rate",
        variables: &["REPMD_DNS_RATE"],
        value: "NUMBER",
        help: "Most answers a second by UDP to one network (/24 or /56) that is not this machine",
        default: "1000",
    },
    Setting {
        key: "lease-ttl",
        variables: &["REPMD_LEASE_TTL"],
        value: "TIME",
        help: "How long a shared store keeps a registration that is not renewed",
        default: "15s",
    },
    Setting {
        key: "stale-for",
        variables: &["REPMD_STALE_FOR"],
        value: "TIME",
        help: "How long to answer for nodes elsewhere from memory while the store is away",
        default: "lease-ttl",
    },
    Setting {
        key: "admin",
        variables: &["REPMD_ADMIN"],
        value: "ADDRESS:PORT",
        help: "Show the cluster by HTTP at this address: a page, an API, metrics, probes; or `off`",
        default: "127.0.0.1:4370, or a free port of 127.0.0.1 if that is taken; off with the stock command line",
    },
    Setting {
        key: "admin-token-file",
        variables: &["REPMD_ADMIN_TOKEN_FILE"],
        value: "PATH",
        help: "Demand the token in this file of those who look; without one `admin` must be a loopback address",
        default: "none",
    },
    Setting {
        key: "allow-lookups-from",
        variables: &["REPMD_ALLOW_LOOKUPS_FROM"],
        value: "NETWORK,...",
        help: "Answer look-ups only to these networks and to this machine",
        default: "any",
    },
    Setting {
        key: "allow-lists-from",
        variables: &["REPMD_ALLOW_LISTS_FROM"],
        value: "NETWORK,...",
        help: "List names only to these networks and to this machine",
        default: "allow-lookups-from; else private, cluster, or any with the stock command line",
    },
    Setting {
        key: "allow-dns-from",
        variables: &["REPMD_ALLOW_DNS_FROM"],
        value: "NETWORK,...",
        help: "Answer by DNS only to these networks and to this machine",
        default: "allow-lookups-from",
    },
    Setting {
        key: "allow-admin-from",
        variables: &["REPMD_ALLOW_ADMIN_FROM"],
        value: "NETWORK,...",
        help: "Show the cluster by HTTP only to these networks and to this machine",
        default: "any",
    },
    Setting {
        key: "register-from",
        variables: &["REPMD_REGISTER_FROM"],
        value: "NETWORK,...",
        help: "Let nodes of these networks register too",
        default: "loopback",
    },
    Setting {
        key: "command-from",
        variables: &["REPMD_COMMAND_FROM"],
        value: "NETWORK,...",
        help: "Let these networks too kill the daemon, stop nodes and dump what it holds, as this machine may",
        default: "loopback",
    },
    Setting {
        key: "request-rate",
        variables: &["REPMD_REQUEST_RATE"],
        value: "NUMBER",
        help: "Most requests a second of one address that is not this machine's; more are closed unanswered",
        default: "any number",
    },
    Setting {
        key: "node-ports",
        variables: &["REPMD_NODE_PORTS"],
        value: "PORT-PORT",
        help: "Where nodes are to listen; the log tells of those that listen elsewhere",
        default: "any port",
    },
    Setting {
        key: "node-ports-strict",
        variables: &["REPMD_NODE_PORTS_STRICT"],
        value: "BOOL",
        help: "Turn nodes away that listen elsewhere",
        default: "false",
    },
    Setting {
        key: "relaxed-command-check",
        variables: &["REPMD_RELAXED_COMMAND_CHECK", STOCK_RELAXED],
        value: "BOOL",
        help: "Let local clients stop nodes, and kill the daemon while nodes are registered",
        default: "false",
    },
    Setting {
        key: "packet-timeout",
        variables: &["REPMD_PACKET_TIMEOUT"],
        value: "TIME",
        help: "Close a connection that makes no progress for this long",
        default: "60s",
    },
    Setting {
        key: "waiting-max",
        variables: &["REPMD_WAITING_MAX"],
        value: "NUMBER",
        help: "Most connections at once whose request is not whole",
        default: "a quarter of the open-file limit",
    },
    Setting {
        key: "waiting-per-peer-max",
        variables: &["REPMD_WAITING_PER_PEER_MAX"],
        value: "NUMBER",
        help: "The same for one address that is not loopback",
        default: "a quarter of waiting-max",
    },
    Setting {
        key: "drain-time",
        variables: &["REPMD_DRAIN_TIME"],
        value: "TIME",
        help: "How long a stopping daemon waits for requests on their way",
        default: "5s",
    },
    Setting {
        key: "exit-when-empty",
        variables: &["REPMD_EXIT_WHEN_EMPTY"],
        value: "TIME",
        help: "End this long after the last node has left, unless another comes; a daemon that no node has come to goes on",
        default: "never",
    },
    Setting {
        key: "delay-accept",
        variables: &["REPMD_DELAY_ACCEPT"],
        value: "TIME",
        help: "Sleep before accepting, to test clients",
        default: "0s",
    },
    Setting {
        key: "delay-write",
        variables: &["REPMD_DELAY_WRITE"],
        value: "TIME",
        help: "Sleep before answering, to test clients",
        default: "0s",
    },
    Setting {
        key: "audit-log",
        variables: &["REPMD_AUDIT_LOG"],
        value: "PATH",
        help: "Also append to this file who registered, was refused or stopped what, and from where, as JSON",
        default: "none",
    },
    Setting {
        key: "log",
        variables: &["REPMD_LOG"],
        value: "LEVEL",
        help: "What to log: `error`, `warn`, `info`, `debug` or `trace`, or a filter such as \
               `info,repmd::requests=debug`, which adds each request and its answer",
        default: "info",
    },
    Setting {
        key: "log-format",
        variables: &["REPMD_LOG_FORMAT"],
        value: "FORMAT",
        help: "How to log: `text` or `json`",
        default: "text",
    },
];

/// Environment variable that names the settings file.
pub const CONFIG_VARIABLE: &str = "REPMD_CONFIG";

/// The registry where nobody named one.
const DEFAULT_BACKEND: &str = "memory";

/// The settings file that is read when it exists and no other is named.
pub const CONFIG_PATH: &str = "/etc/repmd/repmd.toml";

/// The settings that narrow who may ask. Set to nothing, they must not let everybody in: an empty variable is
/// no less set than an empty value in a file.
const NARROWING: [&str; 4] = ["allow-lookups-from", "allow-lists-from", "allow-dns-from", "allow-admin-from"];

/// The longest time that any setting takes: 30 days. Clocks reckon with much more, but not with all that fits a
/// number.
const TIME_MAX: Duration = Duration::from_secs(30 * 86_400);

/// The stock daemon's variable that counts by being set, whatever it says.
const STOCK_RELAXED: &str = "ERL_EPMD_RELAXED_COMMAND_CHECK";

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
    fn shown(&self, setting: &Setting, default: Option<String>) -> Shown {
        let (text, origin) = &self.texts[setting.key];
        let value = match origin {
            Origin::Default => default.unwrap_or_else(|| setting.default.to_owned()),
            _ => shown(setting.key, text),
        };
        Shown { key: setting.key, value, origin: origin.clone() }
    }

    /// What `key` was set to, parsed; `None` when nobody set it.
    fn parse<T>(
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

    fn wrong(&self, key: &'static str, expected: &str) -> SettingError {
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

/// Where registrations live.
#[derive(Clone, PartialEq, Eq)]
pub struct Backend {
    url: String,
    is_shared: bool,
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
fn without_password(url: &str) -> String {
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

/// Where operators look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Where nobody said otherwise: at [`ADMIN_ADDRESS`], or at a free port if that is taken; nowhere with the stock
    /// command line.
    Default,
    /// Nowhere.
    Off,
    /// Here and nowhere else.
    At(SocketAddr),
    /// For commands that ask: at a proxy of this name and port, which speaks TLS.
    Https(String, u16),
}

/// Where operators look for a daemon that was told nothing else.
pub const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4370);

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
    pub dns: dns::Options,
    /// What is relayed; `None`: nothing.
    pub relay: Option<relay::Limits>,
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
        const TIME: &str = "a time such as 60s or 500ms, or a number of seconds, of 30 days at most";
        const NETWORKS: &str = "one or more networks such as 10.0.0.0/8, separated by commas";
        const WHO: &str = "one or more networks such as 10.0.0.0/8, separated by commas, or the words any, private \
                           (what the internet does not route to), cluster (the hosts of its daemons) and loopback (this \
                           machine alone)";
        const COUNT: &str = "a number from 1 up";
        let time = |key| values.parse(key, TIME, duration);
        let networks = |key| values.parse(key, NETWORKS, list::<IpNet>).map(Option::unwrap_or_default);
        let is_something = |text: &str| text.split(',').any(|part| !part.trim().is_empty());
        let who = |key| values.parse(key, WHO, |text| Networks::parse(text).filter(|_| is_something(text)));
        let look_ups = who("allow-lookups-from")?;
        let lists = who("allow-lists-from")?;
        let count =
            |key| values.parse(key, COUNT, |text| text.parse().ok().filter(|count: &usize| 0 < *count));

        let port = values.parse("port", "a number from 1 to 65535", |text| {
            text.parse().ok().filter(|port: &u16| 0 < *port)
        })?;
        let addresses = values.parse("address", "one or more IP addresses, separated by commas", list)?;
        let url = values.parse("backend", "a URL", |text| Some(text.to_owned()))?;
        let url = url.unwrap_or_else(|| DEFAULT_BACKEND.to_owned());
        let is_shared = check_backend(&url).map_err(|expected| values.wrong("backend", &expected))?;
        let backend = Backend { url, is_shared };
        let cluster = values.parse("cluster", "1 to 64 letters, digits, `-`, `_` and `.`", cluster_name)?;
        let host = values.parse("host", "a host name", |text| HostId::parse(text).ok())?;
        let host = host.unwrap_or_else(short_host_name);
        if backend.is_shared && is_localhost(&host) {
            let expected = format!(
                "a name that other machines do not have: each is {host} to itself, and `backend` is shared by all. Name this \
                 machine, or set --host"
            );
            return Err(values.wrong("host", &expected));
        }
        let aliases = values.parse(
            "alias",
            "host names, separated by commas",
            list_of(|name| HostId::parse(name).ok()),
        )?;
        let instance_name = values.parse(
            "instance-name",
            "1 to 255 letters, digits, `-`, `_`, `.`, `:` and `/`",
            |text| {
                let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
                ((1..=255).contains(&text.len()) && text.chars().all(fits)).then(|| text.to_owned())
            },
        )?;
        let advertise = values.parse("advertise", "one or more IP addresses, separated by commas", list)?;
        let advertised_ports = values.parse(
            "advertise-port",
            "pairs of ports such as 9100=9101, separated by commas",
            pairs(|port: &str| port.parse().ok().filter(|port: &u16| 0 < *port), |port| port.parse().ok()),
        )?;
        let virtual_hosts = values.parse(
            "virtual-host",
            "pairs such as 10.0.0.7=hosta, separated by commas",
            pairs(|address| address.parse().ok(), |host| HostId::parse(host).ok()),
        )?;
        let relayed_networks = networks("relay")?;
        if !relayed_networks.is_empty() && virtual_hosts.as_ref().is_none_or(BTreeMap::is_empty) {
            return Err(values.wrong("relay", "virtual-host to be set too: only there is anything relayed"));
        }
        let relay_ports = values.parse("relay-ports", "two ports such as 25000-25999", port_range)?;
        let relay_target_ports =
            values.parse("relay-target-ports", "two ports such as 9100-9199", port_range)?;
        let relay_connections = count("relay-connections")?;
        let relay_connections_max = relay_connections.unwrap_or((descriptors / 16).clamp(8, 4096));
        let relay_connections_per_peer =
            count("relay-connections-per-peer")?.unwrap_or(relay_connections_max.div_ceil(2));
        let relay_idle_time = time("relay-idle-time")?;
        let lookup = values.parse("lookup", "`host` or `cluster`", |text| match text {
            "host" => Some(Lookup::Host),
            "cluster" => Some(Lookup::Cluster),
            _ => None,
        })?;
        let names = values.parse("names", "`host` or `scope`", |text| match text {
            "host" => Some(Names::Host),
            "scope" => Some(Names::Scope),
            _ => None,
        })?;
        let path = |text: &str| Some(PathBuf::from(text)).filter(|path| path.is_absolute());
        let orphans_file = values.parse("orphans-file", "an absolute path", path)?;
        let hosts_file = values.parse("hosts-file", "an absolute path", path)?;
        let hosts_file_domains = values.parse(
            "hosts-file-domains",
            "domains such as cluster.example, separated by commas",
            list_of(|domain| HostId::parse(domain.trim_start_matches('.')).ok()),
        )?;
        if hosts_file.is_some() && !backend.is_shared {
            return Err(
                values.wrong("hosts-file", "backend to be a shared store: only there are other hosts")
            );
        }
        let dns = dns::Options {
            addresses: values
                .parse("dns", "addresses with ports such as 127.0.0.1:53, separated by commas", list)?
                .unwrap_or_default(),
            zones: values
                .parse("dns-zone", "domains such as repmd or cluster.example, separated by commas", |text| {
                    list_of(zone)(text).filter(|zones| !zones.is_empty())
                })?
                .unwrap_or_else(|| vec![zone("repmd").expect("it is a domain")]),
            ttl: time("dns-ttl")?.unwrap_or(Duration::from_secs(1)),
            negative_ttl: time("dns-negative-ttl")?.unwrap_or(Duration::from_secs(1)),
            forward: values
                .parse("dns-forward", "addresses of name servers, separated by commas", |text| {
                    list_of(name_server)(text).filter(|servers| !servers.is_empty())
                })?
                .unwrap_or_default(),
            rate: values
                .parse("dns-rate", COUNT, |text| text.parse().ok().filter(|rate: &u32| 0 < *rate))?
                .unwrap_or(1000),
        };
        if dns.forward.iter().any(|server| dns.answers_at(*server)) {
            return Err(values.wrong("dns-forward", "other name servers than this daemon itself"));
        }
        let lease_ttl = values.parse("lease-ttl", "a time from 1s to 1h, such as 15s", |text| {
            duration(text).filter(|ttl| (1..=3600).contains(&ttl.as_secs()))
        })?;
        let mut warnings = values.warnings.clone();
        let node_ports = values.parse("node-ports", "two ports such as 9100-9199", port_range)?;
        let node_ports_are_strict =
            values.parse("node-ports-strict", "`true` or `false`", |text| text.parse().ok())?;
        let node_ports_are_strict = node_ports_are_strict.unwrap_or(false);
        if node_ports_are_strict && node_ports.is_none() {
            return Err(values.wrong("node-ports-strict", "node-ports to be set too"));
        }
        let relaxed_command_check = match &values.texts["relaxed-command-check"] {
            // The stock daemon is relaxed by the mere presence of its variable.
            (text, Origin::Variable(name @ STOCK_RELAXED)) => {
                if text.parse() != Ok(true) {
                    warnings.push(format!("{name} relaxes by being set, even to {text:?}"));
                }
                Some(true)
            }
            _ => values.parse("relaxed-command-check", "`true` or `false`", |text| text.parse().ok())?,
        };
        let admin_token_file = values.parse("admin-token-file", "an absolute path", path)?;
        let admin =
            values.parse("admin", "an address and port such as 127.0.0.1:4370, or `off`", |text| {
                if text == "off" {
                    Some(Admin::Off)
                } else {
                    https_place(text).or_else(|| admin_address(text).map(Admin::At))
                }
            })?;
        if let Some(Admin::At(address)) = admin
            && !address.ip().to_canonical().is_loopback()
            && admin_token_file.is_none()
        {
            return Err(values.wrong("admin", "a loopback address, unless admin-token-file is set"));
        }
        let audit_log = values.parse("audit-log", "an absolute path", path)?;
        let log = values.parse(
            "log",
            "`off`, `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,repmd::requests=debug`",
            log_filter,
        )?;
        let log_format = values.parse("log-format", "`text` or `json`", |text| match text {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        })?;

        let mut limits = Limits::for_descriptors(descriptors);
        set(&mut limits.packet_timeout, time("packet-timeout")?);
        if let Some(waiting_max) = count("waiting-max")? {
            limits.waiting_max = waiting_max;
            limits.waiting_per_peer_max = (waiting_max / 4).max(1);
        }
        set(&mut limits.waiting_per_peer_max, count("waiting-per-peer-max")?);
        limits.requests_per_peer_rate =
            count("request-rate")?.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX));
        set(&mut limits.drain_time, time("drain-time")?);
        let exit_when_empty = time("exit-when-empty")?;
        set(&mut limits.delay_accept, time("delay-accept")?);
        set(&mut limits.delay_write, time("delay-write")?);
        let relay = (!relayed_networks.is_empty()).then(|| relay::Limits {
            networks: relayed_networks,
            ports: relay_ports,
            target_ports: relay_target_ports.unwrap_or(1024..=u16::MAX),
            connections_max: relay_connections_max,
            connections_per_peer_max: relay_connections_per_peer,
            idle_time: relay_idle_time.unwrap_or(Duration::from_secs(300)),
            listeners_max: (descriptors / 16).clamp(8, 4096),
        });
        if let Some(relay) = &relay {
            limits.nodes_max = limits.nodes_max.saturating_sub(relay.descriptors_max()).max(1);
        }
        limits.nodes_max = limits.nodes_max.saturating_sub(dns.descriptors_max()).max(1);
        let port_or_default = port.unwrap_or(DEFAULT_PORT);
        let mut settings = Self {
            port: port_or_default,
            port_is_set: port.is_some(),
            addresses: addresses.unwrap_or_default(),
            backend,
            cluster: cluster.unwrap_or_else(|| "default".to_owned()),
            lease_ttl: lease_ttl.unwrap_or(Duration::from_secs(15)),
            instance_name: instance_name.unwrap_or_else(|| {
                let id = machine_id();
                default_instance_name(&short_host_name(), id.as_deref(), &host, port_or_default)
            }),
            host,
            aliases,
            advertise,
            lookup: lookup.unwrap_or(Lookup::Cluster),
            stale_for: time("stale-for")?,
            topology: Topology {
                advertised_ports: advertised_ports.unwrap_or_default(),
                virtual_hosts: virtual_hosts.unwrap_or_default(),
                names: names.unwrap_or_default(),
            },
            orphans_file,
            hosts_file,
            hosts_file_domains,
            dns,
            relay,
            policy: Policy {
                relaxed_command_check: relaxed_command_check.unwrap_or(false),
                lists: lists.clone().unwrap_or_else(|| look_ups.clone().unwrap_or_else(Networks::any)),
                dns: who("allow-dns-from")?.unwrap_or_else(|| look_ups.clone().unwrap_or_else(Networks::any)),
                operators: who("allow-admin-from")?.unwrap_or_else(Networks::any),
                registrations: who("register-from")?.unwrap_or_default(),
                commands: who("command-from")?.unwrap_or_default(),
                node_ports,
                node_ports_are_strict,
                lists_are_chosen: lists.is_some() || look_ups.is_some(),
                look_ups: look_ups.unwrap_or_else(Networks::any),
            },
            limits,
            exit_when_empty,
            admin: admin.unwrap_or(Admin::Default),
            admin_token_file,
            audit_log,
            log: log.unwrap_or_else(|| "info".to_owned()),
            log_format: log_format.unwrap_or(LogFormat::Text),
            warnings,
            shown: Vec::new(),
        };
        let default = |key: &str| match key {
            "relay-connections" => Some(relay_connections_max.to_string()),
            "relay-connections-per-peer" => Some(relay_connections_per_peer.to_string()),
            key => settings.default_of(key),
        };
        settings.shown = TABLE.iter().map(|setting| values.shown(setting, default(setting.key))).collect();
        Ok(settings)
    }

    /// What a setting that nobody set comes to on this machine. `None`: what the table says.
    fn default_of(&self, key: &str) -> Option<String> {
        Some(match key {
            "address" => "0.0.0.0,::".to_owned(),
            "host" => self.host.to_string(),
            "alias" => {
                let aliases = self.aliases_at(self.advertise.as_deref().unwrap_or_default());
                let aliases = aliases.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                if aliases.is_empty() { "none".to_owned() } else { aliases }
            }
            "instance-name" => self.instance_name.clone(),
            "advertise" if !self.backend.is_shared => "none".to_owned(),
            "advertise-port" | "dns-forward" => "none".to_owned(),
            "stale-for" => humantime::format_duration(self.lease_ttl).to_string(),
            "admin" => ADMIN_ADDRESS.to_string(),
            "allow-lookups-from" | "allow-admin-from" => "any".to_owned(),
            "allow-lists-from" if !self.policy.lists_are_chosen => "private,cluster".to_owned(),
            "allow-lists-from" | "allow-dns-from" => self.policy.look_ups.as_setting(),
            "waiting-max" => self.limits.waiting_max.to_string(),
            "waiting-per-peer-max" => self.limits.waiting_per_peer_max.to_string(),
            _ => return None,
        })
    }

    /// The other names of the host when it is reached at `addresses`: those that somebody chose, or else its full name and
    /// these addresses.
    pub(crate) fn aliases_at(&self, addresses: &[IpAddr]) -> Vec<HostId> {
        self.aliases.clone().unwrap_or_else(|| {
            let full_name = HostId::parse(&machine_name()).ok();
            let addresses = addresses.iter().flat_map(|address| HostId::parse(&address.to_string()));
            full_name.into_iter().chain(addresses).filter(|alias| *alias != self.host).collect()
        })
    }
}

fn set<T>(limit: &mut T, chosen: Option<T>) {
    if let Some(chosen) = chosen {
        *limit = chosen;
    }
}

/// `60s`, `1m 30s`, or a bare number of seconds as the stock flags take them; at most [`TIME_MAX`].
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let time = match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    time.filter(|time| *time <= TIME_MAX)
}

/// One or more items separated by commas or spaces. None at all is nothing that anybody means: where a list narrows
/// something down, an empty one would not.
fn list<T: std::str::FromStr>(text: &str) -> Option<Vec<T>> {
    list_of(|item| item.parse().ok())(text).filter(|items| !items.is_empty())
}

/// Items separated by commas or spaces, with a parser of the items; empty ones are passed over.
fn list_of<T>(item: impl Fn(&str) -> Option<T>) -> impl Fn(&str) -> Option<Vec<T>> {
    move |text| text.split([',', ' ']).filter(|text| !text.is_empty()).map(&item).collect()
}

/// `key=value` items.
fn pairs<K: Ord, V>(
    key: impl Fn(&str) -> Option<K>,
    value: impl Fn(&str) -> Option<V>,
) -> impl Fn(&str) -> Option<BTreeMap<K, V>> {
    let pair = move |text: &str| {
        let (left, right) = text.split_once('=')?;
        Some((key(left)?, value(right)?))
    };
    move |text| Some(list_of(&pair)(text)?.into_iter().collect())
}

/// A domain that names may be below of.
fn zone(text: &str) -> Option<Name> {
    let zone = HostId::parse(text.trim_matches('.')).ok().filter(HostId::is_resolvable)?;
    Name::from_ascii(format!("{zone}.")).ok()
}

/// An address with or without a port, which else is that of DNS.
fn name_server(text: &str) -> Option<SocketAddr> {
    let at_port_53 = || text.parse().ok().map(|address: IpAddr| SocketAddr::new(address, 53));
    text.parse().ok().or_else(at_port_53)
}

/// An address and port, also as a browser shows them: `http://localhost:4370/`.
fn admin_address(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    match text.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        None => text.parse().ok(),
    }
}

/// `https://NAME:PORT/`, where a proxy is.
fn https_place(text: &str) -> Option<Admin> {
    let place = text.strip_prefix("https://")?.trim_end_matches('/');
    let is_port = |port: &str| !port.contains(']');
    let (host, port) = match place.rsplit_once(':').filter(|(_, port)| is_port(port)) {
        Some((host, port)) => (host, port.parse().ok().filter(|port| 0 < *port)?),
        None => (place, 443),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host).is_ok().then(|| Admin::Https(host.to_owned(), port))
}

/// A bare word that is no level is refused: a filter takes it for the name of a part of a program, and logs nothing
/// but that.
fn log_filter(text: &str) -> Option<String> {
    let is_word = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_known = |part: &str| !is_word(part) || !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let is_filter = text.parse::<tracing_subscriber::EnvFilter>().is_ok();
    (is_filter && text.split(',').map(str::trim).all(is_known)).then(|| text.to_owned())
}

/// `FROM-TO`, neither of them 0.
fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (0 < first && first <= last).then_some(first..=last)
}

fn cluster_name(text: &str) -> Option<String> {
    let fits = (1..=64).contains(&text.len());
    (fits && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))).then(|| text.to_owned())
}

/// The name that this machine has for itself.
pub(crate) fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn short_host_name() -> HostId {
    let name = machine_name();
    let short = name.split('.').next().unwrap_or_default();
    HostId::parse(short).or_else(|_| HostId::parse("localhost")).expect("localhost is a host name")
}

/// What systemd and D-Bus tell machines apart by, if this one has it. Containers often do not.
fn machine_id() -> Option<String> {
    let read = |path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let is_one = |text: &String| text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    ["/etc/machine-id", "/var/lib/dbus/machine-id"].into_iter().filter_map(read).find(is_one)
}

/// What every machine calls itself.
fn is_localhost(host: &HostId) -> bool {
    let name = host.as_str();
    let is_loopback =
        name.parse().is_ok_and(|address: IpAddr| address.is_loopback() || address.is_unspecified());
    is_loopback || name == "localhost" || name.starts_with("localhost.") || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(flags: &[(&str, &str)], variables: &[(&str, &str)], file: &str) -> Result<Values, SettingError> {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, file).unwrap();
        let flags: Vec<_> = flags.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
        let environment =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned());
        Values::merge(&flags, &environment, Some(path.path()))
    }

    fn check(
        flags: &[(&str, &str)],
        variables: &[(&str, &str)],
        file: &str,
    ) -> Result<Settings, SettingError> {
        let backend = |url: &str| if url == DEFAULT_BACKEND { Ok(false) } else { Err("a store".to_owned()) };
        Settings::check(&merge(flags, variables, file)?, 1024, &backend)
    }

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
    fn every_setting_says_what_it_expected() {
        for setting in TABLE {
            let error = check(&[(setting.key, "?/[")], &[], "").expect_err(setting.key).to_string();
            // The store's URL may hold a password.
            let value = if setting.key == "backend" { "***" } else { "?/[" };
            let said = format!("{}: {value:?} (from flag) is wrong: expected ", setting.key);
            assert!(error.starts_with(&said), "{error}");
        }
    }

    #[test]
    fn the_admin_api_may_be_named_as_a_browser_shows_it() {
        let there = Admin::At(SocketAddr::from(([127, 0, 0, 1], 4371)));
        for text in ["127.0.0.1:4371", "localhost:4371", "http://127.0.0.1:4371", "http://localhost:4371/"] {
            assert_eq!(check(&[("admin", text)], &[], "").unwrap().admin, there, "{text}");
        }
        for text in ["localhost", "https://", "https://a:0", "https://a b", "http://", "localhost:70000"] {
            assert!(check(&[("admin", text)], &[], "").is_err(), "{text}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_of_the_log_is_an_error_that_lists_them() {
        let parse = |text: &str| check(&[("log", text)], &[], "").map(|settings| settings.log);
        for text in ["warning", "chatty", "", "info,verbose", ",", "repmd=loud"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("expected `off`, `error`, `warn`, `info`"), "{text:?}: {error}");
        }
        for text in
            ["off", "WARN", "trace", "info,repmd::requests=debug", "repmd::requests", "info,hickory=off"]
        {
            assert_eq!(parse(text).unwrap(), text);
        }
    }

    #[test]
    fn a_list_that_is_set_and_empty_is_an_error_and_never_lets_everybody_in() {
        let files = ["\"\"", "[]", "\",\"", "\" , \"", "[\"\"]"];
        for key in NARROWING {
            let variable = format!("REPMD_{}", key.to_uppercase().replace('-', "_"));
            let in_file = files.iter().map(|text| check(&[], &[], &format!("{key} = {text}")));
            let by_flag = [""; 1].iter().map(|text| check(&[(key, text)], &[], ""));
            let by_variable = ["", " ", ","].iter().map(|text| check(&[], &[(&variable, text)], ""));
            for result in in_file.chain(by_flag).chain(by_variable) {
                let error = result.unwrap_err().to_string();
                assert!(error.contains("loopback (this machine alone)"), "{error}");
            }
        }
        for key in ["address", "register-from", "command-from", "relay", "advertise"] {
            assert!(check(&[(key, "")], &[], "").is_err(), "{key}");
        }
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
    fn no_time_is_longer_than_clocks_reckon_with() {
        let times = TABLE.iter().filter(|setting| setting.value == "TIME");
        assert!(4 < times.clone().count());
        for Setting { key, .. } in times {
            for text in ["18446744073709551615", "31d", "600000000y"] {
                let error = check(&[(key, text)], &[], "").expect_err(key).to_string();
                assert!(error.contains(" is wrong: expected a time "), "{error}");
            }
            assert!(*key == "lease-ttl" || check(&[(key, "30d")], &[], "").is_ok(), "{key}");
        }
    }

    #[test]
    fn operators_are_served_beyond_loopback_only_with_a_token() {
        for address in ["0.0.0.0:4370", "[::]:4370", "10.0.0.1:4370", "[::ffff:10.0.0.1]:4370"] {
            let error = check(&[("admin", address)], &[], "").unwrap_err().to_string();
            let text = "is wrong: expected a loopback address, unless admin-token-file is set";
            assert_eq!(error, format!("admin: {address:?} (from flag) {text}"));
            let file = [("REPMD_ADMIN_TOKEN_FILE", "/run/token")];
            let admin = Admin::At(address.parse().unwrap());
            assert_eq!(check(&[("admin", address)], &file, "").unwrap().admin, admin);
        }
        for address in ["127.0.0.1:4370", "127.1.2.3:1", "[::1]:4370", "[::ffff:127.0.0.1]:4370"] {
            let admin = Admin::At(address.parse().unwrap());
            assert_eq!(check(&[], &[("REPMD_ADMIN", address)], "").unwrap().admin, admin);
        }
        assert_eq!(check(&[], &[], "admin = \"off\"").unwrap().admin, Admin::Off);
    }

    #[test]
    fn nothing_is_relayed_without_a_virtual_host() {
        let error = check(&[("relay", "10.0.0.0/8")], &[], "").unwrap_err().to_string();
        let text = "relay: \"10.0.0.0/8\" (from flag) is wrong: expected virtual-host to be set too";
        assert!(error.starts_with(text), "{error}");
        let virtual_host = ("virtual-host", "10.0.0.7=hosta");
        assert!(check(&[virtual_host], &[], "").unwrap().relay.is_none());
        let relay = check(&[virtual_host, ("relay", "10.0.0.0/8"), ("relay-ports", "25000-25999")], &[], "");
        assert_eq!(relay.unwrap().relay.unwrap().ports, Some(25000..=25999));
        for ports in ["25000", "2-1", "0-5", "1-65536", "1-2-3"] {
            assert!(check(&[("relay-ports", ports)], &[], "").is_err(), "{ports}");
        }
    }

    #[test]
    fn names_of_other_zones_are_never_asked_of_the_daemon_itself() {
        for (dns, forward) in
            [("127.0.0.1:53", "127.0.0.1"), ("0.0.0.0:53", "127.0.0.1"), ("[::1]:5353", "[::1]:5353")]
        {
            let error = check(&[("dns", dns), ("dns-forward", forward)], &[], "").unwrap_err().to_string();
            assert!(error.ends_with("expected other name servers than this daemon itself"), "{error}");
        }
        let settings =
            check(&[("dns", "127.0.0.1:53"), ("dns-forward", "127.0.0.11,[2001:db8::1]:5353")], &[], "");
        let forward = settings.unwrap().dns.forward;
        assert_eq!(forward, ["127.0.0.11:53", "[2001:db8::1]:5353"].map(|text| text.parse().unwrap()));
    }

    #[test]
    fn a_hosts_file_needs_a_registry_with_other_hosts() {
        let file = ("hosts-file", "/run/repmd/hosts");
        let error = check(&[file], &[], "").unwrap_err().to_string();
        assert!(error.ends_with("backend to be a shared store: only there are other hosts"), "{error}");
        let values = merge(&[file, ("backend", "redis://10.0.0.9")], &[], "").unwrap();
        let settings = Settings::check(&values, 1024, &|url| Ok(url != DEFAULT_BACKEND)).unwrap();
        assert_eq!(settings.hosts_file.as_deref(), Some(Path::new("/run/repmd/hosts")));
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

    #[test]
    fn the_stock_variable_relaxes_by_its_presence_even_when_it_says_0() {
        for text in ["", "0", "false", "anything"] {
            let settings = check(&[], &[("ERL_EPMD_RELAXED_COMMAND_CHECK", text)], "").unwrap();
            assert!(settings.policy.relaxed_command_check, "{text:?}");
        }
        assert!(
            !check(&[], &[("REPMD_RELAXED_COMMAND_CHECK", "false")], "")
                .unwrap()
                .policy
                .relaxed_command_check
        );
    }

    #[test]
    fn a_host_that_every_machine_is_to_itself_is_refused_with_a_shared_registry_and_host_is_named() {
        let shared = ("backend", "redis://10.0.0.9");
        let check = |flags: &[_]| {
            Settings::check(&merge(flags, &[], "").unwrap(), 1024, &|url| Ok(url != DEFAULT_BACKEND))
        };
        for host in
            ["localhost", "LOCALHOST", "localhost.localdomain", "127.0.0.1", "::1", "0.0.0.0", "a.localhost"]
        {
            let refused = check(&[shared, ("host", host)]).unwrap_err().to_string();
            assert!(refused.contains("--host"), "{refused}");
            assert!(check(&[("host", host)]).is_ok(), "{host} alone");
        }
        for host in ["hosta", "localhosts", "10.0.0.1"] {
            assert!(check(&[shared, ("host", host)]).is_ok(), "{host}");
        }
    }
}
