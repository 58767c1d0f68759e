//! How this daemon's host is reached from others, and for which other hosts it answers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use repmd_backend_api::HostId;

/// Which nodes NAMES and DUMP list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// Those of the host that was asked: this one, or the virtual host of the address that was asked.
    #[default]
    Host,
    /// And those of every virtual host, for a daemon in front of several.
    Scope,
}

/// Ports and addresses that stand for others.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// The ports by which other machines reach nodes, where they are not the nodes' own.
    pub advertised_ports: BTreeMap<u16, u16>,
    /// Local addresses at which this daemon answers for another host.
    pub virtual_hosts: BTreeMap<IpAddr, HostId>,
    /// Which nodes NAMES and DUMP list.
    pub names: Names,
}

impl Topology {
    /// The port by which other machines reach a node of this host that listens on `port`.
    pub(super) fn advertised_port(&self, port: u16) -> u16 {
        self.advertised_ports.get(&port).copied().unwrap_or(port)
    }

    /// The host whose address a request came to, if it is not this one, and that address. `local` is asked
    /// only when there are virtual hosts.
    pub(super) fn virtual_host(&self, local: impl FnOnce() -> Option<IpAddr>) -> Option<(IpAddr, &HostId)> {
        if self.virtual_hosts.is_empty() {
            return None;
        }
        let local = local()?;
        self.virtual_hosts.get(&local).map(|host| (local, host))
    }
}
