//! How this daemon's host is reached from others, and for which other hosts it answers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use repmd_backend_api::HostId;

use super::parsing::{Form, pairs, positive};
use super::reader::Reader;
use super::table::Row;
use super::values::SettingError;
use crate::server::{Names, Topology};

pub(super) const ADVERTISE_PORT: Row<BTreeMap<u16, u16>> = Row {
    key: "advertise-port",
    variables: &["REPMD_ADVERTISE_PORT"],
    form: Form {
        value: "FROM=TO,...",
        expected: "pairs of ports such as 9100=9101, separated by commas",
        parse: |text| pairs(text, positive, |port| port.parse().ok()),
    },
    help: "Tell other machines port TO for a node that listens on port FROM",
    default: "the node's own port",
};

pub(super) const VIRTUAL_HOST: Row<BTreeMap<IpAddr, HostId>> = Row {
    key: "virtual-host",
    variables: &["REPMD_VIRTUAL_HOST"],
    form: Form {
        value: "ADDRESS=HOST,...",
        expected: "pairs such as 10.0.0.7=hosta, separated by commas",
        parse: |text| pairs(text, |address| address.parse().ok(), |host| HostId::parse(host).ok()),
    },
    help: "Answer for another host at this address of this machine",
    default: "none",
};

pub(super) const NAMES: Row<Names> = Row {
    key: "names",
    variables: &["REPMD_NAMES"],
    form: Form {
        value: "SCOPE",
        expected: "`host` or `scope`",
        parse: |text| match text {
            "host" => Some(Names::Host),
            "scope" => Some(Names::Scope),
            _ => None,
        },
    },
    help: "What NAMES lists: the nodes of the `host` that was asked, or its `scope`: and of all virtual hosts",
    default: "host",
};

/// All but [`NAMES`].
pub(super) fn read(values: &mut Reader<'_>) -> Result<Topology, SettingError> {
    values.show_default(&ADVERTISE_PORT, "none");
    Ok(Topology {
        advertised_ports: values.chosen(&ADVERTISE_PORT)?.unwrap_or_default(),
        virtual_hosts: values.chosen(&VIRTUAL_HOST)?.unwrap_or_default(),
        ..Topology::default()
    })
}
