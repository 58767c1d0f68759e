//! The daemons of a registry, as this one remembers them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use repmd_backend_api::{HostId, Instance, Scope};

use super::look_ups::{Answer, Source, Told};
use super::slot::{Known, Slot};
use super::store::{NobodyKnows, Store};

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

/// What the store last said of the daemons: one list for every question that is about them.
#[derive(Debug)]
pub(super) struct KnownDaemons {
    store: Arc<Store>,
    slot: Slot<Arc<Daemons>>,
}

impl KnownDaemons {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, slot: Slot::default() }
    }

    /// As the store said within the last second. `None`: it does not say, or there is no shared one.
    pub(super) async fn all(&self) -> Option<Arc<Daemons>> {
        Some(self.load().await?.value)
    }

    async fn load(&self) -> Option<Known<Arc<Daemons>>> {
        if !self.store.is_shared() {
            return None;
        }
        let load = async {
            let seen = self.store.ask("daemons", |backend| backend.daemons(&Scope::Cluster)).await.ok()?;
            Some(Arc::new(Daemons::new(self.store.unreadable.note(seen))))
        };
        self.slot.fresh_or(self.store.is_fresh_list(), load).await
    }

    /// If they are known without waiting: as the store said within the last second, or last before it went away.
    pub(super) fn known(&self) -> Option<Result<Arc<Daemons>, NobodyKnows>> {
        if !self.store.is_shared() {
            return Some(Ok(Arc::default()));
        }
        match self.slot.fresh(self.store.is_fresh_list()) {
            Some(known) => Some(Ok(known.value)),
            None if self.store.is_away() => Some(self.last().map(|known| known.value)),
            None => None,
        }
    }

    /// The same, from the store where it has to be asked.
    pub(super) async fn current(&self) -> Result<Arc<Daemons>, NobodyKnows> {
        match self.known() {
            Some(known) => known,
            None => match self.all().await {
                Some(daemons) => Ok(daemons),
                None => self.last().map(|known| known.value),
            },
        }
    }

    /// The last list, while it may serve.
    fn last(&self) -> Result<Known<Arc<Daemons>>, NobodyKnows> {
        let may_serve = |last: &Known<Arc<Daemons>>| self.store.may_serve(last.asked, self.store.lease_ttl());
        self.slot.last().filter(may_serve).ok_or(NobodyKnows)
    }

    /// Whether one of them is at `address`, if that is known without waiting.
    pub(super) fn is_known_at(&self, address: IpAddr) -> Option<bool> {
        // One that was a moment ago may ask for as long as its names are answered.
        if self.last().is_ok_and(|last| last.value.has(address)) {
            return Some(true);
        }
        self.known().map(|daemons| daemons.is_ok_and(|daemons| daemons.has(address)))
    }

    /// The first one of `host`, if that is known without waiting.
    pub(super) fn known_of(&self, host: &HostId) -> Option<Told> {
        match self.slot.fresh(self.store.is_fresh_list()) {
            Some(known) => {
                self.store.stats.remembered.add();
                Some(daemon_of(&known, host, Source::Cache))
            }
            None if self.store.is_away() => Some(self.stale_of(host)),
            None => None,
        }
    }

    /// The first one of `host`, from the store.
    pub(super) async fn look_up(&self, host: &HostId) -> Told {
        match self.load().await {
            Some(known) => {
                self.store.stats.loaded.add();
                daemon_of(&known, host, Source::Registry)
            }
            None => self.stale_of(host),
        }
    }

    fn stale_of(&self, host: &HostId) -> Told {
        self.store.stats.stale.add();
        match self.last() {
            Ok(known) => daemon_of(&known, host, Source::Stale),
            Err(NobodyKnows) => Told { answer: Answer::Absent, source: Source::Stale, asked: None },
        }
    }

    /// `host` has another node, or one less. One that is not in the list has a daemon by now.
    pub(super) fn changed(&self, host: &HostId) {
        if self.slot.last().is_some_and(|known| known.value.of(host).is_empty()) {
            self.slot.out_of_date();
        }
    }

    /// Anything may have changed.
    pub(super) fn missed_changes(&self) {
        self.slot.out_of_date();
    }
}

/// The first daemon of `host` in a list.
fn daemon_of(known: &Known<Arc<Daemons>>, host: &HostId, source: Source) -> Told {
    let first = known.value.of(host).first();
    let answer = first.map_or(Answer::Absent, |daemon| Answer::Daemon(Arc::clone(daemon)));
    Told { answer, source, asked: Some(known.asked) }
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
