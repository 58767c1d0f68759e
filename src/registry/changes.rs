//! Following what others change in the store: what is remembered is out of date then. A speed-up: what is not heard of
//! is noticed when an answer is no longer fresh.

use std::time::Duration;

use futures_util::StreamExt;
use repmd_backend_api::{AliveName, Change, HostId, NodeName};
use tokio::time::sleep;

use super::daemons::KnownDaemons;
use super::events::{Events, What};
use super::holding::Holding;
use super::identity::Identity;
use super::lists::Lists;
use super::look_ups::LookUps;
use super::store::Store;

/// Changes that are taken in one step.
const CHANGES_AT_ONCE: usize = 64;

/// How long to wait before watching a store again that ended the last watch.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// Whom a change concerns.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    pub(super) store: &'a Store,
    pub(super) look_ups: &'a LookUps,
    pub(super) daemons: &'a KnownDaemons,
    pub(super) lists: &'a Lists,
    pub(super) holding: &'a Holding,
    pub(super) identity: &'a Identity,
    pub(super) events: &'a Events,
}

impl Changes<'_> {
    pub(super) async fn follow(&self) {
        loop {
            let mut changes = self.store.watch().ready_chunks(CHANGES_AT_ONCE);
            while let Some(mut at_once) = changes.next().await {
                // Each means to go through all that is remembered, and a store that comes back empty says it often.
                at_once.dedup_by(|next, before| *next == Change::Missed && next == before);
                for change in at_once {
                    self.tell(&change);
                    self.note_company(&change);
                    match change {
                        Change::Registered(name, host)
                        | Change::Released(name, host)
                        | Change::Expired(name, host) => self.changed(name, host),
                        Change::Missed => self.missed(),
                    }
                }
            }
            self.missed();
            self.events.tell(What::Missed);
            sleep(WATCH_PAUSE).await;
        }
    }

    fn tell(&self, change: &Change) {
        let node = |alive: &AliveName, host: &HostId| NodeName { alive: alive.clone(), host: host.clone() };
        self.events.tell(match change {
            Change::Registered(name, host) => What::Registered { node: node(name, host), port: None },
            Change::Released(name, host) => What::Released { node: node(name, host) },
            Change::Expired(name, host) => What::Expired { node: node(name, host) },
            Change::Missed => What::Missed,
        });
    }

    /// A name of this host that no lease of this daemon has: another daemon serves the host, or has its identity.
    fn note_company(&self, change: &Change) {
        if let Change::Registered(name, host) = change
            && host == self.store.me.host()
            && !self.identity.has_company()
            && !self.holding.leases.has(name)
        {
            self.identity.found_company();
        }
    }

    fn changed(&self, name: AliveName, host: HostId) {
        self.daemons.changed(&host);
        self.lists.changed(&name, &host);
        self.look_ups.changed(name, host);
    }

    fn missed(&self) {
        self.daemons.missed_changes();
        self.lists.missed_changes();
        self.look_ups.missed_changes();
    }
}
