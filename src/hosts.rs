//! The hosts of a registry as a resolver may be told of them: whose a name is, and where it is reached.
//!
//! Daemons say of themselves what they are called. What one says of another's name, or of an address that cannot be
//! a host's, does not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use repmd_backend_api::{HostId, Instance, is_reachable};

/// Hosts, by what they are.
#[derive(Debug, Default)]
pub(crate) struct Hosts(BTreeMap<HostId, Host>);

#[derive(Debug, Default)]
struct Host {
    aliases: BTreeSet<HostId>,
    addresses: BTreeSet<IpAddr>,
}

/// A host with the names that are its alone.
#[derive(Debug)]
pub(crate) struct Named<'a> {
    /// What it is.
    pub(crate) id: &'a HostId,
    /// What it calls itself, its id first, whether or not others claim that too.
    pub(crate) claims: Vec<&'a HostId>,
    /// Those of these that mean it and nobody else.
    pub(crate) names: Vec<&'a HostId>,
    /// Where it is reached.
    pub(crate) addresses: &'a BTreeSet<IpAddr>,
}

impl Hosts {
    /// The hosts of these daemons, and this one. What this host is this daemon alone says.
    pub(crate) fn of<'a>(own: &'a Instance, daemons: impl IntoIterator<Item = &'a Instance>) -> Self {
        let mut hosts = BTreeMap::<HostId, Host>::new();
        for daemon in daemons.into_iter().filter(|daemon| !own.answers_to(&daemon.host)).chain([own]) {
            let host = hosts.entry(daemon.host.clone()).or_default();
            host.aliases.extend(daemon.aliases.iter().cloned());
            host.addresses.extend(daemon.addresses.iter().filter(|address| is_reachable(**address)));
        }
        Self(hosts)
    }

    /// What they are.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &HostId> {
        self.0.keys()
    }

    /// Whether one of them is this.
    pub(crate) fn has(&self, id: &HostId) -> bool {
        self.0.contains_key(id)
    }

    /// Takes `newer` in, in the place of what was known of them, and leaves out those that are not to stay.
    pub(crate) fn replace(&mut self, newer: Self, stays: impl Fn(&HostId) -> bool) {
        self.0.retain(|id, _| stays(id));
        self.0.extend(newer.0);
    }

    /// The hosts with their names. One that means several hosts means none; but a host is always called what it is.
    pub(crate) fn named<'a>(&'a self, own: &Instance) -> Vec<Named<'a>> {
        let mut claims = HashMap::new();
        for (id, host) in &self.0 {
            for name in host.names(id) {
                *claims.entry(name).or_insert(0) += 1;
            }
        }
        let named = |(id, host): (&'a HostId, &'a Host)| {
            let is_its = |name: &&HostId| {
                let is_its = *name == id || claims[name] == 1;
                // Nobody else has a say in what this host's names mean here.
                let is_its = if own.answers_to(name) { *id == own.host } else { is_its };
                is_its && name.is_resolvable()
            };
            let names = host.names(id).filter(is_its).collect();
            Named { id, claims: host.names(id).collect(), names, addresses: &host.addresses }
        };
        self.0.iter().map(named).collect()
    }
}

impl Host {
    /// Itself, and its aliases.
    fn names<'a>(&'a self, id: &'a HostId) -> impl Iterator<Item = &'a HostId> {
        [id].into_iter().chain(self.aliases.iter().filter(move |alias| *alias != id))
    }
}

/// The addresses of this machine at which it stands for a host: there it is reached from here.
pub(crate) fn stand_ins(virtual_hosts: &BTreeMap<IpAddr, HostId>, host: &Named<'_>) -> BTreeSet<IpAddr> {
    let stands_for_it = virtual_hosts.iter().filter(|(_, name)| host.claims.contains(name));
    stands_for_it.map(|(address, _)| *address).collect()
}
