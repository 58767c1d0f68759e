//! The hosts of a registry by their names and addresses.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use repmd_backend_api::{HostId, Instance};

use crate::hosts::{Hosts, stand_ins};
use crate::registry::Daemons;

/// A host.
#[derive(Debug)]
pub(super) struct Entry {
    /// What it is called here, unless no resolver may be told that.
    pub(super) name: Option<String>,
    /// Where it is reached.
    pub(super) addresses: Vec<IpAddr>,
    /// Whether this machine stands for it: then its ports are this machine's.
    pub(super) is_stood_for: bool,
}

/// Made anew when daemons come and go.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    by_id: HashMap<HostId, usize>,
    by_address: HashMap<IpAddr, Vec<usize>>,
    /// Names with others below them.
    between: HashSet<String>,
}

impl Index {
    pub(super) fn new(own: &Instance, daemons: &Daemons, virtual_hosts: &BTreeMap<IpAddr, HostId>) -> Self {
        let hosts = Hosts::of(own, daemons.all().iter().map(|daemon| &**daemon));
        let mut index = Self::default();
        for named in hosts.named(own) {
            let number = index.entries.len();
            let names: Vec<_> =
                named.names.iter().map(|name| name.as_str().trim_end_matches('.').to_owned()).collect();
            let stand_ins = stand_ins(virtual_hosts, &named);
            let is_stood_for = !stand_ins.is_empty();
            let addresses = if is_stood_for { &stand_ins } else { named.addresses };
            let addresses: Vec<_> = addresses.iter().map(IpAddr::to_canonical).collect();
            for address in &addresses {
                index.by_address.entry(*address).or_default().push(number);
            }
            for name in &names {
                let parents = name.match_indices('.').map(|(dot, _)| name[dot + 1..].to_owned());
                index.between.extend(parents);
                index.by_name.insert(name.clone(), number);
            }
            index.by_id.insert(named.id.clone(), number);
            // Its own name before aliases, if a resolver may be told that.
            index.entries.push(Entry { name: names.into_iter().next(), addresses, is_stood_for });
        }
        index
    }

    /// The host that is called so.
    pub(super) fn named(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|number| &self.entries[*number])
    }

    /// The host that registrations call so.
    pub(super) fn of(&self, id: &HostId) -> Option<&Entry> {
        self.by_id.get(id).map(|number| &self.entries[*number])
    }

    /// Whether there are names below this one.
    pub(super) fn is_between(&self, name: &str) -> bool {
        self.between.contains(name)
    }

    /// The names of the hosts at an address.
    pub(super) fn at(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        let numbers = self.by_address.get(&address).into_iter().flatten();
        numbers.filter_map(|number| self.entries[*number].name.as_deref())
    }

    /// Whether a host is at an address within `network`.
    pub(super) fn has_any_in(&self, network: &IpNet) -> bool {
        self.by_address.keys().any(|address| network.contains(address))
    }
}
