//! What can be set: the rows, and their order.
//!
//! A row is written beside what reads it: `policy` has those of who may ask what, `dns` those of DNS.

use super::admin::{ADMIN, ADMIN_TOKEN_FILE};
use super::backend::BACKEND;
use super::dns::{DNS, DNS_FORWARD, DNS_NEGATIVE_TTL, DNS_RATE, DNS_TTL, DNS_ZONE};
use super::files::{HOSTS_FILE, HOSTS_FILE_DOMAINS, ORPHANS_FILE};
use super::identity::{ADVERTISE, ALIAS, HOST, INSTANCE_NAME};
use super::limits::{
    DELAY_ACCEPT, DELAY_WRITE, DRAIN_TIME, EXIT_WHEN_EMPTY, PACKET_TIMEOUT, REQUEST_RATE, WAITING_MAX,
    WAITING_PER_PEER_MAX,
};
use super::listening::{ADDRESS, PORT};
use super::log::{AUDIT_LOG, LOG, LOG_FORMAT};
use super::parsing::Form;
use super::policy::{
    ALLOW_ADMIN_FROM, ALLOW_DNS_FROM, ALLOW_LISTS_FROM, ALLOW_LOOKUPS_FROM, COMMAND_FROM, NODE_PORTS,
    NODE_PORTS_STRICT, REGISTER_FROM, RELAXED_COMMAND_CHECK,
};
use super::registry::{CLUSTER, LEASE_TTL, LOOKUP, STALE_FOR};
use super::relay::{
    RELAY, RELAY_CONNECTIONS, RELAY_CONNECTIONS_PER_PEER, RELAY_IDLE_TIME, RELAY_PORTS, RELAY_TARGET_PORTS,
};
use super::topology::{ADVERTISE_PORT, NAMES, VIRTUAL_HOST};

/// One thing that can be set, to a `T`: all that is to be said of it.
pub(super) struct Row<T> {
    /// The key in a file; `--key` is the flag.
    pub(super) key: &'static str,
    /// Environment variables, the strongest first.
    pub(super) variables: &'static [&'static str],
    /// How its value is written.
    pub(super) form: Form<T>,
    /// One sentence.
    pub(super) help: &'static str,
    /// What it is when nobody sets it: a value, or words if that depends on the machine.
    pub(super) default: &'static str,
}

impl<T> Row<T> {
    /// What help texts show.
    const fn setting(&self) -> Setting {
        Setting {
            key: self.key,
            variables: self.variables,
            value: self.form.value,
            help: self.help,
            default: self.default,
        }
    }
}

/// One thing that can be set, as help texts show it.
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
    PORT.setting(),
    ADDRESS.setting(),
    BACKEND.setting(),
    CLUSTER.setting(),
    HOST.setting(),
    ALIAS.setting(),
    INSTANCE_NAME.setting(),
    ADVERTISE.setting(),
    ADVERTISE_PORT.setting(),
    VIRTUAL_HOST.setting(),
    RELAY.setting(),
    RELAY_PORTS.setting(),
    RELAY_CONNECTIONS.setting(),
    RELAY_CONNECTIONS_PER_PEER.setting(),
    RELAY_TARGET_PORTS.setting(),
    RELAY_IDLE_TIME.setting(),
    LOOKUP.setting(),
    NAMES.setting(),
    ORPHANS_FILE.setting(),
    HOSTS_FILE.setting(),
    HOSTS_FILE_DOMAINS.setting(),
    DNS.setting(),
    DNS_ZONE.setting(),
    DNS_TTL.setting(),
    DNS_NEGATIVE_TTL.setting(),
    DNS_FORWARD.setting(),
    DNS_RATE.setting(),
    LEASE_TTL.setting(),
    STALE_FOR.setting(),
    ADMIN.setting(),
    ADMIN_TOKEN_FILE.setting(),
    ALLOW_LOOKUPS_FROM.setting(),
    ALLOW_LISTS_FROM.setting(),
    ALLOW_DNS_FROM.setting(),
    ALLOW_ADMIN_FROM.setting(),
    REGISTER_FROM.setting(),
    COMMAND_FROM.setting(),
    REQUEST_RATE.setting(),
    NODE_PORTS.setting(),
    NODE_PORTS_STRICT.setting(),
    RELAXED_COMMAND_CHECK.setting(),
    PACKET_TIMEOUT.setting(),
    WAITING_MAX.setting(),
    WAITING_PER_PEER_MAX.setting(),
    DRAIN_TIME.setting(),
    EXIT_WHEN_EMPTY.setting(),
    DELAY_ACCEPT.setting(),
    DELAY_WRITE.setting(),
    AUDIT_LOG.setting(),
    LOG.setting(),
    LOG_FORMAT.setting(),
];

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

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
}
