//! The daemons of a registry, as this one remembers them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use repmd_backend_api::{HostId, Instance};

/// The daemons that count as alive, on all hosts.
#[derive(Debug, Default)]
pub struct Daemons {
    all: Vec<Arc<Instance>>,
    by_host: HashMap<HostId, Vec<Arc<Instance>>>,
    addresses: HashSet<IpAddr>,
}

impl Daemons {
    pub(super) fn new(mut all: Vec<Arc<Instance>>) -> Self {
        // All daemons of one host answer alike; which of them is named must not change with each look-up.
        all.sort_unstable_by(|one, other| (&one.name, one.id).cmp(&(&other.name, other.id)));
        let mut by_host = HashMap::<_, Vec<_>>::new();
        for daemon in &all {
            by_host.entry(daemon.host.clone()).or_default().push(Arc::clone(daemon));
        }
        // Those of the host itself come before those of hosts that have it as an alias.
        for daemon in &all {
            for alias in daemon.aliases.iter().filter(|alias| **alias != daemon.host) {
                by_host.entry(alias.clone()).or_default().push(Arc::clone(daemon));
            }
        }
        let addresses = all.iter().flat_map(|daemon| &daemon.addresses).copied().collect();
        Self { all, by_host, addresses }
    }

    /// All of them, by their instance names.
    #[must_use]
    pub fn all(&self) -> &[Arc<Instance>] {
        &self.all
    }

    /// Whether the host of one of them is reached at `address`.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Those whose host, or one of whose aliases, is this: the host's own first.
    #[must_use]
    pub fn of(&self, host: &HostId) -> &[Arc<Instance>] {
        self.by_host.get(host).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repmd_backend_api::InstanceId;

    #[test]
    fn the_daemons_of_a_host_come_before_those_that_have_it_as_an_alias_and_in_one_order() {
        let host = |name: &str| HostId::parse(name).unwrap();
        let daemon = |name: &str, of: &str, alias: &str| {
            Arc::new(Instance {
                id: InstanceId::random(),
                name: name.to_owned(),
                host: host(of),
                aliases: vec![host(alias)],
                addresses: Vec::new(),
                port: 4369,
            })
        };
        let all = [daemon("a", "x", "y"), daemon("c", "y", "x"), daemon("b", "y", "z")];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let daemons = Daemons::new(order.map(|index| Arc::clone(&all[index])).to_vec());
            let names =
                |of: &str| daemons.of(&host(of)).iter().map(|daemon| &*daemon.name).collect::<String>();
            assert_eq!(["x", "Y", "z", "w"].map(names), ["ac", "bca", "b", ""]);
        }
    }
}
