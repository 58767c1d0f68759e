//! Everything that can be set: one table, read from flags, environment and file, checked once.
//!
//! The parser of `repmd serve`, its help, the man page, the completions and `check-config` are all made
//! from [`TABLE`], so they cannot disagree.

mod admin;
mod backend;
mod machine;
mod parsing;
mod table;
mod values;

pub use admin::{ADMIN_ADDRESS, Admin};
pub use backend::Backend;
pub(crate) use machine::machine_name;
pub(crate) use parsing::duration;
pub use table::{Setting, TABLE};
pub use values::{CONFIG_PATH, CONFIG_VARIABLE, Environment, Origin, SettingError, Shown, Values};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use repmd_backend_api::HostId;

use crate::dns;
use crate::protocol::DEFAULT_PORT;
use crate::registry::{Lookup, default_instance_name};
use crate::relay;
use crate::server::{Limits, Names, Networks, Policy, Topology};
use crate::telemetry::LogFormat;
use admin::{admin_address, https_place};
use backend::DEFAULT_BACKEND;
use machine::{is_localhost, machine_id, short_host_name};
use parsing::{cluster_name, list, list_of, log_filter, name_server, pairs, port_range, zone};
use table::STOCK_RELAXED;

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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;

    use super::backend::without_password;
    use super::values::NARROWING;
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
