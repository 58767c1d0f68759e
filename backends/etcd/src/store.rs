//! One daemon's dealings with the store: what all calls share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::try_join;
use repmd_backend_api::Instance;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::creation::{Serial, epoch_after};
use crate::error::Fault;
use crate::holding::{Holding, Leases};
use crate::keys::Keys;
use crate::proto::{
    Compare, LeaseGrantRequest, LeaseGrantResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    RangeRequest, TxnRequest, delete, put,
};
use crate::record::encode_instance;

/// How often a step is tried again because somebody else changed the same keys.
pub(crate) const TRIES: usize = 8;

pub(crate) struct Store {
    pub(crate) connection: Connection,
    pub(crate) keys: Keys,
    pub(crate) holding: Holding,
    pub(crate) times: Times,
    /// Locked while leases are granted, so that calls that come at once get the same ones.
    granting: Mutex<()>,
    note_lease: Mutex<Option<i64>>,
    epoch: std::sync::Mutex<Option<Epoch>>,
    /// The furthest creations of this cluster that were seen, see [`Serial::progress`].
    progress: AtomicU64,
    /// The turns of the store's history that were minded.
    turns: AtomicU64,
}

/// How long leases last, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) names: i64,
    pub(crate) life: i64,
}

impl Times {
    /// etcd takes no less than this with its usual settings, and a lease must be longer than that.
    const SHORTEST: u64 = 2;

    pub(crate) fn of(lease_ttl: Duration) -> Self {
        let whole = lease_ttl.as_secs().saturating_add(u64::from(0 < lease_ttl.subsec_nanos()));
        let names = whole.clamp(Self::SHORTEST + 1, 9_000_000_000);
        let seconds = |number: u64| i64::try_from(number).expect("it was clamped");
        Self { names: seconds(names), life: seconds((names * 2).div_ceil(3)) }
    }

    pub(crate) fn lease_ttl(self) -> Duration {
        Duration::from_secs(self.names.unsigned_abs())
    }
}

/// Where creations count on from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    pub(crate) base: u64,
    /// In which revision it was written.
    pub(crate) revision: i64,
}

impl Store {
    pub(crate) fn new(connection: Connection, keys: Keys, instance: Arc<Instance>, times: Times) -> Self {
        Self {
            connection,
            keys,
            holding: Holding::new(instance),
            times,
            granting: Mutex::default(),
            note_lease: Mutex::default(),
            epoch: std::sync::Mutex::default(),
            progress: AtomicU64::default(),
            turns: AtomicU64::default(),
        }
    }

    /// Lets the daemon be written down, on leases that were there when they were last asked for.
    pub(crate) async fn appear(&self) -> Result<Leases, Fault> {
        let _granting = self.granting.lock().await;
        let leases = match self.holding.leases() {
            Some(leases) if self.holding.stands() => return Ok(leases),
            Some(leases) => leases,
            None => {
                let started = Instant::now();
                let (names, life) =
                    try_join(self.grant(self.times.names), self.grant(self.times.life)).await?;
                let leases = Leases { names, life };
                self.holding.set_leases(leases, started);
                leases
            }
        };
        let written = self.write_instance(leases).await;
        if written.as_ref().is_err_and(Fault::is_lost_lease) {
            self.holding.lose_leases();
        }
        written.map(|()| leases)
    }

    /// Lets leases begin anew. Whether they are still there.
    pub(crate) async fn renew(&self, leases: Leases) -> Result<bool, Fault> {
        let started = Instant::now();
        let left = self.connection.keep_alive(&[leases.life, leases.names]).await?;
        let are_there = left.iter().all(|left| 0 < *left);
        if are_there {
            self.holding.set_renewed(started);
        }
        Ok(are_there)
    }

    /// These leases are over.
    pub(crate) async fn lose(&self, lost: Leases) {
        let _granting = self.granting.lock().await;
        if self.holding.leases() == Some(lost) {
            self.holding.lose_leases();
            self.holding.set_standing(None);
        }
    }

    /// The lease of the daemon's notes, which begins anew.
    pub(crate) async fn note_lease(&self) -> Result<i64, Fault> {
        let mut lease = self.note_lease.lock().await;
        if let Some(id) = *lease
            && self.connection.keep_alive(&[id]).await?.iter().all(|left| 0 < *left)
        {
            return Ok(id);
        }
        Ok(*lease.insert(self.grant(self.times.life).await?))
    }

    /// The lease of the daemon's notes is over.
    pub(crate) async fn lose_note_lease(&self) {
        *self.note_lease.lock().await = None;
    }

    async fn grant(&self, ttl: i64) -> Result<i64, Fault> {
        let path = "/etcdserverpb.Lease/LeaseGrant";
        let granted: LeaseGrantResponse = self.connection.unary(path, LeaseGrantRequest { ttl }).await?;
        match granted.error.as_str() {
            "" => Ok(granted.id),
            refused => Err(Fault::Connection { reason: refused.to_owned() }),
        }
    }

    /// What the store says of a lease.
    pub(crate) async fn time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimeToLiveResponse, Fault> {
        let path = "/etcdserverpb.Lease/LeaseTimeToLive";
        self.connection.unary(path, LeaseTimeToLiveRequest { id, keys }).await
    }

    async fn write_instance(&self, leases: Leases) -> Result<(), Fault> {
        let (instance, before) = (self.holding.instance(), self.holding.written());
        let alias = |alias| self.keys.alias(alias, &instance.host, instance.id);
        let aliases: BTreeSet<_> = others(&instance).map(alias).collect();
        let gone: BTreeSet<_> = before.iter().flat_map(|before| others(before)).map(alias).collect();
        let daemon = put(&self.keys.daemon(instance.id), encode_instance(&instance), leases.life);
        let mut steps: Vec<_> = gone.difference(&aliases).map(|key| delete(key)).collect();
        steps.extend(aliases.iter().map(|key| put(key, "", leases.names)));
        // The daemon comes last: it is what is looked at to know that all of this is there.
        steps.push(daemon);
        for steps in steps.chunks(STEPS_MAX) {
            self.connection.transact(TxnRequest { success: steps.to_vec(), ..TxnRequest::default() }).await?;
        }
        self.holding.set_standing(Some(instance));
        Ok(())
    }

    /// Where creations count on from, if that is known.
    fn known_epoch(&self) -> Option<Epoch> {
        *self.epoch.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn set_epoch(&self, epoch: Option<Epoch>) {
        *self.epoch.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = epoch;
    }

    /// Where creations count on from. The first time, and after each turn of the store's history, it is raised above
    /// all that was seen, and to the clock.
    pub(crate) async fn epoch(&self) -> Result<Epoch, Fault> {
        let key = self.keys.epoch();
        for _ in 0..TRIES {
            if let Some(epoch) = self.known_epoch() {
                return Ok(epoch);
            }
            let answer = self.connection.range(RangeRequest::key(&key)).await?;
            let now = answer.header.map_or(0, |header| header.revision);
            let there = answer.kvs.first().map(|kv| (read_epoch(&kv.value), kv.mod_revision));
            let (base, revision) = there.map_or((None, 0), |(base, revision)| (base, revision));
            let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let least = epoch_after(now, self.progress.load(Ordering::Relaxed), since_epoch);
            if let Some(base) = base
                && least <= base
            {
                self.set_epoch(Some(Epoch { base, revision }));
                continue;
            }
            let base = base.unwrap_or_default().max(least);
            let raise = TxnRequest {
                compare: vec![Compare::unchanged(&key, revision)],
                success: vec![put(&key, base.to_string(), 0)],
                failure: Vec::new(),
            };
            let (raised, revision) = self.connection.transact(raise).await?;
            if raised.succeeded {
                self.set_epoch(Some(Epoch { base, revision }));
            }
        }
        Err(Fault::Raced { tries: TRIES })
    }

    /// If the store has turned out to be another one, or to have gone back, nothing that is known of it holds. Whether
    /// it has, since this was last asked.
    pub(crate) fn mind_history(&self) -> bool {
        let turns = self.connection.history().turns();
        let has_turned = self.turns.swap(turns, Ordering::Relaxed) != turns;
        if has_turned {
            self.set_epoch(None);
            self.holding.doubt();
        }
        has_turned
    }

    /// Creations have come as far as this.
    pub(crate) fn progress(&self, serial: Serial, revision: i64) {
        self.progress.fetch_max(serial.progress(revision), Ordering::Relaxed);
    }
}

/// The most steps of one transaction; etcd takes 128, unless it is told otherwise.
pub(crate) const STEPS_MAX: usize = 120;

/// The aliases that lead to other hosts' names.
fn others(instance: &Instance) -> impl Iterator<Item = &repmd_backend_api::HostId> {
    instance.aliases.iter().filter(|alias| **alias != instance.host)
}

/// An epoch, as it is written; `None` where somebody else wrote there.
pub(crate) fn read_epoch(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_counts_as_alive_for_less_than_its_leases_last_in_whole_seconds() {
        for (asked, names, life) in
            [(15_000, 15, 10), (10_000, 10, 7), (1_200, 3, 2), (0, 3, 2), (3_001, 4, 3)]
        {
            assert_eq!(Times::of(Duration::from_millis(asked)), Times { names, life }, "{asked} ms");
        }
        assert!(0 < Times::of(Duration::MAX).life);
    }
}
