//! Who may ask what.

use std::ops::RangeInclusive;

use super::parsing::{BOOL, Form, port_range};
use super::reader::Reader;
use super::table::Row;
use super::values::{Origin, SettingError};
use crate::server::{Networks, Policy};

/// A list of nothing is an error: where it narrows something down, it must not let everybody in.
const WHO: Form<Networks> = Form {
    value: "NETWORK,...",
    expected: "one or more networks such as 10.0.0.0/8, separated by commas, or the words any, private (what the internet \
               does not route to), cluster (the hosts of its daemons) and loopback (this machine alone)",
    parse: |text| {
        let is_something = text.split(',').any(|part| !part.trim().is_empty());
        Networks::parse(text).filter(|_| is_something)
    },
};

pub(super) const ALLOW_LOOKUPS_FROM: Row<Networks> = Row {
    key: "allow-lookups-from",
    variables: &["REPMD_ALLOW_LOOKUPS_FROM"],
    form: WHO,
    help: "Answer look-ups only to these networks and to this machine",
    default: "any",
};

pub(super) const ALLOW_LISTS_FROM: Row<Networks> = Row {
    key: "allow-lists-from",
    variables: &["REPMD_ALLOW_LISTS_FROM"],
    form: WHO,
    help: "List names only to these networks and to this machine",
    default: "allow-lookups-from; else private, cluster, or any with the stock command line",
};

pub(super) const ALLOW_DNS_FROM: Row<Networks> = Row {
    key: "allow-dns-from",
    variables: &["REPMD_ALLOW_DNS_FROM"],
    form: WHO,
    help: "Answer by DNS only to these networks and to this machine",
    default: "allow-lookups-from",
};

pub(super) const ALLOW_ADMIN_FROM: Row<Networks> = Row {
    key: "allow-admin-from",
    variables: &["REPMD_ALLOW_ADMIN_FROM"],
    form: WHO,
    help: "Show the cluster by HTTP only to these networks and to this machine",
    default: "any",
};

/// The settings that narrow who may ask. Set to nothing, they must not let everybody in: an empty variable is
/// no less set than an empty value in a file.
pub(super) const NARROWING: [&str; 4] =
    [ALLOW_LOOKUPS_FROM.key, ALLOW_LISTS_FROM.key, ALLOW_DNS_FROM.key, ALLOW_ADMIN_FROM.key];

pub(super) const REGISTER_FROM: Row<Networks> = Row {
    key: "register-from",
    variables: &["REPMD_REGISTER_FROM"],
    form: WHO,
    help: "Let nodes of these networks register too",
    default: "loopback",
};

pub(super) const COMMAND_FROM: Row<Networks> = Row {
    key: "command-from",
    variables: &["REPMD_COMMAND_FROM"],
    form: WHO,
    help: "Let these networks too kill the daemon, stop nodes and dump what it holds, as this machine may",
    default: "loopback",
};

pub(super) const NODE_PORTS: Row<RangeInclusive<u16>> = Row {
    key: "node-ports",
    variables: &["REPMD_NODE_PORTS"],
    form: Form { value: "PORT-PORT", expected: "two ports such as 9100-9199", parse: port_range },
    help: "Where nodes are to listen; the log tells of those that listen elsewhere",
    default: "any port",
};

pub(super) const NODE_PORTS_STRICT: Row<bool> = Row {
    key: "node-ports-strict",
    variables: &["REPMD_NODE_PORTS_STRICT"],
    form: BOOL,
    help: "Turn nodes away that listen elsewhere",
    default: "false",
};

/// The stock daemon's variable that counts by being set, whatever it says.
pub(super) const STOCK_RELAXED: &str = "ERL_EPMD_RELAXED_COMMAND_CHECK";

pub(super) const RELAXED_COMMAND_CHECK: Row<bool> = Row {
    key: "relaxed-command-check",
    variables: &["REPMD_RELAXED_COMMAND_CHECK", STOCK_RELAXED],
    form: BOOL,
    help: "Let local clients stop nodes, and kill the daemon while nodes are registered",
    default: "false",
};

/// First of three parts: who may look names up, and list them.
pub(super) fn read_look_ups(values: &mut Reader<'_>) -> Result<Policy, SettingError> {
    let look_ups = values.value(&ALLOW_LOOKUPS_FROM)?;
    let look_ups_are_chosen = values.chosen(&ALLOW_LOOKUPS_FROM)?.is_some();
    let lists = values.chosen(&ALLOW_LISTS_FROM)?;
    let lists_are_chosen = lists.is_some() || look_ups_are_chosen;
    let shown = if lists_are_chosen { look_ups.as_setting() } else { "private,cluster".to_owned() };
    values.show_default(&ALLOW_LISTS_FROM, shown);
    let lists = lists.unwrap_or_else(|| look_ups.clone());
    Ok(Policy { look_ups, lists, lists_are_chosen, ..Policy::default() })
}

/// Second: where nodes listen, and how they are stopped.
pub(super) fn read_nodes(values: &mut Reader<'_>, policy: Policy) -> Result<Policy, SettingError> {
    let (node_ports, node_ports_are_strict) =
        (values.chosen(&NODE_PORTS)?, values.value(&NODE_PORTS_STRICT)?);
    if node_ports_are_strict && node_ports.is_none() {
        return Err(values.wrong(&NODE_PORTS_STRICT, "node-ports to be set too"));
    }
    let relaxed_command_check = match values.text(&RELAXED_COMMAND_CHECK) {
        // The stock daemon is relaxed by the mere presence of its variable.
        (text, Origin::Variable(name @ STOCK_RELAXED)) => {
            if text.parse() != Ok(true) {
                values.warn(format!("{name} relaxes by being set, even to {text:?}"));
            }
            true
        }
        _ => values.value(&RELAXED_COMMAND_CHECK)?,
    };
    Ok(Policy { node_ports, node_ports_are_strict, relaxed_command_check, ..policy })
}

/// Third: who may do all else.
pub(super) fn read_others(values: &mut Reader<'_>, policy: Policy) -> Result<Policy, SettingError> {
    values.show_default(&ALLOW_DNS_FROM, policy.look_ups.as_setting());
    Ok(Policy {
        dns: values.chosen(&ALLOW_DNS_FROM)?.unwrap_or_else(|| policy.look_ups.clone()),
        operators: values.value(&ALLOW_ADMIN_FROM)?,
        registrations: values.value(&REGISTER_FROM)?,
        commands: values.value(&COMMAND_FROM)?,
        ..policy
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::NARROWING;

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
}
