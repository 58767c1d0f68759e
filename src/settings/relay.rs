//! What is relayed, and how much.

use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::parsing::{Form, TIME, list, port_range};
use super::reader::Reader;
use super::table::Row;
use super::values::SettingError;
use crate::relay::Limits;
use crate::server::Topology;

pub(super) const RELAY: Row<Vec<IpNet>> = Row {
    key: "relay",
    variables: &["REPMD_RELAY"],
    form: Form {
        value: "CIDR,...",
        expected: "one or more networks such as 10.0.0.0/8, separated by commas",
        parse: list,
    },
    help: "Relay connections of those who ask at the address of a virtual host to nodes of these networks",
    default: "off",
};

pub(super) const RELAY_PORTS: Row<RangeInclusive<u16>> = Row {
    key: "relay-ports",
    variables: &["REPMD_RELAY_PORTS"],
    form: Form { value: "FROM-TO", expected: "two ports such as 25000-25999", parse: port_range },
    help: "Listen for the relay on these ports, one for each node that is asked for",
    default: "any free port",
};

pub(super) const RELAY_CONNECTIONS: Row<usize> = Row {
    key: "relay-connections",
    variables: &["REPMD_RELAY_CONNECTIONS"],
    form: Form::COUNT,
    help: "Most connections at once that are relayed",
    default: "a sixteenth of the open-file limit",
};

pub(super) const RELAY_CONNECTIONS_PER_PEER: Row<usize> = Row {
    key: "relay-connections-per-peer",
    variables: &["REPMD_RELAY_CONNECTIONS_PER_PEER"],
    form: Form::COUNT,
    help: "The same for one address that dials",
    default: "half of relay-connections",
};

pub(super) const RELAY_TARGET_PORTS: Row<RangeInclusive<u16>> = Row {
    key: "relay-target-ports",
    variables: &["REPMD_RELAY_TARGET_PORTS"],
    form: Form { value: "FROM-TO", expected: "two ports such as 9100-9199", parse: port_range },
    help: "Relay to nodes at these ports alone",
    default: "1024-65535",
};

pub(super) const RELAY_IDLE_TIME: Row<Duration> = Row {
    key: "relay-idle-time",
    variables: &["REPMD_RELAY_IDLE_TIME"],
    form: TIME,
    help: "End a relayed connection on which nothing was sent for this long, or up to twice as long",
    default: "5m",
};

/// `None`: nothing is relayed.
pub(super) fn read(
    values: &mut Reader<'_>,
    descriptors: usize,
    topology: &Topology,
) -> Result<Option<Limits>, SettingError> {
    let networks = values.chosen(&RELAY)?;
    if networks.is_some() && topology.virtual_hosts.is_empty() {
        return Err(values.wrong(&RELAY, "virtual-host to be set too: only there is anything relayed"));
    }
    let a_sixteenth = (descriptors / 16).clamp(8, 4096);
    let ports = values.chosen(&RELAY_PORTS)?;
    let target_ports = values.value(&RELAY_TARGET_PORTS)?;
    let connections_max = values.value_or(&RELAY_CONNECTIONS, || a_sixteenth)?;
    let half = || connections_max.div_ceil(2);
    let connections_per_peer_max = values.value_or(&RELAY_CONNECTIONS_PER_PEER, half)?;
    let idle_time = values.value(&RELAY_IDLE_TIME)?;
    Ok(networks.map(|networks| Limits {
        networks,
        target_ports,
        ports,
        connections_max,
        connections_per_peer_max,
        idle_time,
        listeners_max: a_sixteenth,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

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
}
