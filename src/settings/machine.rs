//! What this machine says of itself.

use std::net::IpAddr;

use repmd_backend_api::HostId;

/// The name that this machine has for itself.
pub(crate) fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

pub(super) fn short_host_name() -> HostId {
    let name = machine_name();
    let short = name.split('.').next().unwrap_or_default();
    HostId::parse(short).or_else(|_| HostId::parse("localhost")).expect("localhost is a host name")
}

/// What systemd and D-Bus tell machines apart by, if this one has it. Containers often do not.
pub(super) fn machine_id() -> Option<String> {
    let read = |path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let is_one = |text: &String| text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    ["/etc/machine-id", "/var/lib/dbus/machine-id"].into_iter().filter_map(read).find(is_one)
}

/// What every machine calls itself.
pub(super) fn is_localhost(host: &HostId) -> bool {
    let name = host.as_str();
    let is_loopback =
        name.parse().is_ok_and(|address: IpAddr| address.is_loopback() || address.is_unspecified());
    is_loopback || name == "localhost" || name.starts_with("localhost.") || name.ends_with(".localhost")
}
