//! Who this daemon is to others.

use std::net::IpAddr;

use repmd_backend_api::HostId;

use super::backend::Backend;
use super::machine::{is_localhost, machine_id, machine_name, short_host_name};
use super::parsing::{Form, list, list_of, word};
use super::reader::Reader;
use super::table::Row;
use super::values::SettingError;
use crate::registry::default_instance_name;

pub(super) const HOST: Row<HostId> = Row {
    key: "host",
    variables: &["REPMD_HOST"],
    form: Form { value: "NAME", expected: "a host name", parse: |text| HostId::parse(text).ok() },
    help: "The host that this daemon's nodes are on",
    default: "this machine's short host name",
};

pub(super) const ALIAS: Row<Vec<HostId>> = Row {
    key: "alias",
    variables: &["REPMD_ALIAS"],
    form: Form {
        value: "NAME,...",
        expected: "host names, separated by commas",
        parse: |text| list_of(text, |name| HostId::parse(name).ok()),
    },
    help: "Other names of that host, such as its full one",
    default: "this machine's full name, and the advertised addresses",
};

pub(super) const INSTANCE_NAME: Row<String> = Row {
    key: "instance-name",
    variables: &["REPMD_INSTANCE_NAME"],
    form: Form {
        value: "NAME",
        expected: "1 to 255 letters, digits, `-`, `_`, `.`, `:` and `/`",
        parse: |text| word(text, "-_.:/", 255),
    },
    help: "What tells this daemon from others of its host, and stays the same when it restarts",
    default: "this machine's name, what of its machine-id tells it from others, the host and the port",
};

pub(super) const ADVERTISE: Row<Vec<IpAddr>> = Row {
    key: "advertise",
    variables: &["REPMD_ADVERTISE"],
    form: Form {
        value: "ADDRESS,...",
        expected: "one or more IP addresses, separated by commas",
        parse: list,
    },
    help: "Where nodes of this host are reached from others",
    default: "this machine's address on the connection to the store, as it changes",
};

/// Who this daemon is to others.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) host: HostId,
    /// `None`: as the machine says.
    pub(super) aliases: Option<Vec<HostId>>,
    pub(super) instance_name: String,
    /// `None`: by the interface that leads to the store.
    pub(super) advertise: Option<Vec<IpAddr>>,
}

impl Identity {
    pub(super) fn read(values: &mut Reader<'_>, port: u16, backend: &Backend) -> Result<Self, SettingError> {
        let host = values.value_or(&HOST, short_host_name)?;
        if backend.is_shared() && is_localhost(&host) {
            let expected = format!(
                "a name that other machines do not have: each is {host} to itself, and `backend` is shared by all. Name this \
                 machine, or set --host"
            );
            return Err(values.wrong(&HOST, &expected));
        }
        let aliases = values.chosen(&ALIAS)?;
        let instance_name = values.value_or(&INSTANCE_NAME, || {
            default_instance_name(&short_host_name(), machine_id().as_deref(), &host, port)
        })?;
        let advertise = values.chosen(&ADVERTISE)?;
        let names = default_aliases(&host, advertise.as_deref().unwrap_or_default());
        let names = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        values.show_default(&ALIAS, if names.is_empty() { "none" } else { &names });
        if !backend.is_shared() {
            values.show_default(&ADVERTISE, "none");
        }
        Ok(Self { host, aliases, instance_name, advertise })
    }
}

/// The other names of `host` where nobody chose any, when it is reached at `addresses`: the full name of this machine and
/// these addresses.
pub(super) fn default_aliases(host: &HostId, addresses: &[IpAddr]) -> Vec<HostId> {
    let full_name = HostId::parse(&machine_name()).ok();
    let addresses = addresses.iter().flat_map(|address| HostId::parse(&address.to_string()));
    full_name.into_iter().chain(addresses).filter(|alias| alias != host).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::backend::BACKEND;
    use super::super::tests::merge;

    #[test]
    fn a_host_that_every_machine_is_to_itself_is_refused_with_a_shared_registry_and_host_is_named() {
        let shared = ("backend", "redis://10.0.0.9");
        let check = |flags: &[_]| {
            Settings::check(&merge(flags, &[], "").unwrap(), 1024, &|url| Ok(url != BACKEND.default))
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
