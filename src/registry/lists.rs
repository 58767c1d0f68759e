//! The nodes that other daemons hold, as lists: of the cluster, of a host, of a name.

use std::net::IpAddr;
use std::sync::Arc;

use quick_cache::sync::Cache;
use repmd_backend_api::{AliveName, Found, HostId, Registration, Scope, Search};
use tokio::time::Instant;

use super::slot::{Known, Slot, slot_of};
use super::store::{NobodyKnows, Store};

/// Hosts whose lists of nodes are remembered at most.
const HOSTS_MAX: usize = 1024;

/// Names of which all holders are remembered at most.
const NAMES_MAX: usize = 4096;

/// Nodes of one name, on all hosts, of which those are told who ask for all.
const HOLDERS_MAX: usize = 1024;

/// The nodes of the whole cluster that other daemons hold, as far as they are known.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What the store last listed, by host, name and daemon.
    pub nodes: Arc<Vec<Found>>,
    /// When it was asked for that; `None`: it never answered, or there is no shared one.
    pub asked: Option<Instant>,
    /// Whether the store did not answer when it should have: the list may be out of date.
    pub is_stale: bool,
}

/// What the store last listed of nodes that other daemons hold.
#[derive(Debug)]
pub(super) struct Lists {
    store: Arc<Store>,
    cluster: Slot<Arc<Vec<Found>>>,
    by_host: Cache<HostId, Arc<Slot<Arc<Vec<Found>>>>>,
    by_name: Cache<AliveName, Arc<Slot<Arc<Vec<Found>>>>>,
}

impl Lists {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            cluster: Slot::resting(),
            by_host: Cache::new(HOSTS_MAX),
            by_name: Cache::new(NAMES_MAX),
        }
    }

    /// Those on all hosts.
    pub(super) async fn cluster(&self) -> Cluster {
        if !self.store.is_shared() {
            return Cluster { nodes: Arc::default(), asked: None, is_stale: false };
        }
        let load = async {
            if self.store.is_away() {
                return None;
            }
            let seen = self.store.patiently(|backend| backend.list(&Scope::Cluster)).await.ok()?;
            let mut found = self.store.unreadable.note(seen);
            found.retain(|found| !self.store.me.holds(&found.registration));
            found.sort_unstable_by(|one, other| place(&one.registration).cmp(&place(&other.registration)));
            Some(Arc::new(found))
        };
        let is_current = self.cluster.fresh_or(self.store.is_fresh_list(), load).await.is_some();
        let is_stale = !is_current || self.store.is_away();
        match self.cluster.last() {
            Some(Known { value, asked, .. }) => Cluster { nodes: value, asked: Some(asked), is_stale },
            None => Cluster { nodes: Arc::default(), asked: None, is_stale },
        }
    }

    /// [`Lists::cluster`] where that is no burden to the store, else as it was last listed.
    pub(super) async fn cluster_at_leisure(&self) -> Arc<Vec<Found>> {
        if self.store.is_slow() {
            return self.cluster.last().map_or_else(Arc::default, |known| known.value);
        }
        self.cluster().await.nodes
    }

    /// Those of `host`, newest first, if they are known without waiting.
    pub(super) fn known_nodes(&self, host: &HostId) -> Option<Arc<Vec<Found>>> {
        if !self.store.is_shared() {
            return Some(Arc::default());
        }
        let slot = self.by_host.get(host);
        let fresh = slot.as_ref().and_then(|slot| slot.fresh(self.store.is_fresh_list()));
        let fresh = fresh.map(|known| known.value);
        fresh.or_else(|| self.store.is_away().then(|| self.stale_nodes(slot.as_deref())))
    }

    /// Those of `host`, newest first.
    pub(super) async fn nodes(&self, host: &HostId) -> Arc<Vec<Found>> {
        if let Some(known) = self.known_nodes(host) {
            return known;
        }
        let slot = slot_of(&self.by_host, host);
        let scope = Scope::Host(host.clone());
        let load = async {
            let seen = self.store.ask("list", |backend| backend.list(&scope)).await.ok()?;
            let mut found = self.of_others(self.store.unreadable.note(seen));
            newest_first(&mut found);
            Some(Arc::new(found))
        };
        let fresh = slot.fresh_or(self.store.is_fresh_list(), load).await;
        fresh.map_or_else(|| self.stale_nodes(Some(&slot)), |known| known.value)
    }

    fn stale_nodes(&self, slot: Option<&Slot<Arc<Vec<Found>>>>) -> Arc<Vec<Found>> {
        let Some(Known { value, asked, .. }) = slot.and_then(Slot::last) else { return Arc::default() };
        Arc::new(self.that_may_live(&value, asked))
    }

    /// Those called `name`, on all hosts, if they are known without waiting.
    pub(super) fn known_holders(&self, name: &AliveName) -> Option<Result<Arc<Vec<Found>>, NobodyKnows>> {
        if !self.store.is_shared() {
            return Some(Ok(Arc::default()));
        }
        let slot = self.by_name.get(name);
        match slot.as_ref().and_then(|slot| slot.fresh(self.store.is_fresh_list())) {
            Some(known) => Some(Ok(known.value)),
            None if self.store.is_away() => Some(self.stale_holders(slot.as_deref())),
            None => None,
        }
    }

    /// Those called `name`, on all hosts.
    pub(super) async fn holders(
        &self,
        name: &AliveName,
        asker: IpAddr,
    ) -> Result<Arc<Vec<Found>>, NobodyKnows> {
        if let Some(known) = self.known_holders(name) {
            return known;
        }
        let slot = slot_of(&self.by_name, name);
        let load = async {
            let near = self.store.me.host();
            let search = Search { name, scope: &Scope::Cluster, near, most: HOLDERS_MAX };
            let seen = self.store.find(&search, Some(asker)).await?;
            Some(Arc::new(self.of_others(self.store.unreadable.note(seen))))
        };
        match slot.fresh_or(self.store.is_fresh_list(), load).await {
            Some(known) => Ok(known.value),
            None => self.stale_holders(Some(&slot)),
        }
    }

    fn stale_holders(&self, slot: Option<&Slot<Arc<Vec<Found>>>>) -> Result<Arc<Vec<Found>>, NobodyKnows> {
        let Known { value, asked, .. } = slot.and_then(Slot::last).ok_or(NobodyKnows)?;
        let living = self.that_may_live(&value, asked);
        // That nobody had the name is known no longer than that somebody had it.
        if living.is_empty() && !(value.is_empty() && self.store.may_serve(asked, self.store.lease_ttl())) {
            return Err(NobodyKnows);
        }
        Ok(Arc::new(living))
    }

    /// Those that no run of this daemon holds. Whether the nodes of an earlier run live nobody knows: they may have died
    /// with it. A node that finds its own name in a list refuses to boot, and those that live are back within seconds.
    fn of_others(&self, mut found: Vec<Found>) -> Vec<Found> {
        found.retain(|found| found.registration.instance.name != self.store.me.name());
        found
    }

    fn that_may_live(&self, found: &[Found], asked: Instant) -> Vec<Found> {
        found.iter().filter(|found| self.store.may_serve(asked, found.left)).cloned().collect()
    }

    /// `host` has another node called `name`, or none any longer.
    pub(super) fn changed(&self, name: &AliveName, host: &HostId) {
        self.cluster.out_of_date();
        self.by_host.get(host).inspect(|list| list.out_of_date());
        self.by_name.get(name).inspect(|list| list.out_of_date());
    }

    /// Anything may have changed.
    pub(super) fn missed_changes(&self) {
        self.cluster.out_of_date();
        self.by_host.iter().for_each(|(_, list)| list.out_of_date());
        self.by_name.iter().for_each(|(_, list)| list.out_of_date());
    }
}

/// The place of a registration in a list of the cluster: by host, name and daemon.
#[must_use]
pub fn place(registration: &Registration) -> (&str, &str, &str) {
    let Registration { node, instance, .. } = registration;
    (instance.host.as_str(), node.name.as_str(), &instance.name)
}

/// As the stock daemon lists its nodes. A store has no order, and daemons of one host have one clock.
fn newest_first(found: &mut [Found]) {
    let age = |found: &Found| std::cmp::Reverse(found.registration.registered_at);
    found.sort_by(|a, b| {
        let by_name = || a.registration.node.name.cmp(&b.registration.node.name);
        age(a).cmp(&age(b)).then_with(by_name)
    });
}
