//! Keeping what this daemon holds alive in the store, and hearing of what changes there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use repmd_backend_api::{
    AliveName, BackendError, Change, Holdings, HostId, Lease, NodeName, Renewed, Scope, liveness,
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::daemons::Daemons;
use super::events::What;
use super::question::Question;
use super::{Answer, Readiness, Registry};

/// Leases that are published by one call.
const PUBLISHED_MAX: usize = 500;

/// How many deadlines a call that renews or publishes may take: nobody waits for it.
const RENEWAL_PATIENCE: u32 = 4;

/// The pauses between tries while the store is away.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Rounds between two looks for daemons that have this one's identity, unless one shows itself, and how many
/// daemons make it one more: each look reads all of them, and each of them looks.
const ROUNDS_A_LOOK: u32 = 12;
const DAEMONS_A_ROUND: usize = 15;

/// Changes that are taken in one step.
const CHANGES_AT_ONCE: usize = 64;

/// How long to wait before watching a store again that ended the last watch.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

impl Registry {
    /// Renews what this daemon holds, publishes what it could not, and follows the changes of others, until
    /// `stop` fires. Returns at once where the registry is not shared.
    pub async fn keep(&self, stop: &CancellationToken) {
        let Some(lease_ttl) = self.lease_ttl() else { return };
        // In order, here and below, so that a simulation takes the same way each time.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.renew_for_ever(lease_ttl) => {}
            () = self.follow_changes() => {}
            () = self.look_for_itself(lease_ttl) => {}
        }
    }

    async fn renew_for_ever(&self, lease_ttl: Duration) {
        let interval = lease_ttl / 3;
        // The first round announces the daemon itself.
        let mut next_round = Instant::now();
        let mut failures = 0;
        let mut knows_its_past = false;
        // All that start, or find the store back, at the same moment would renew at the same moment for ever.
        let mut is_in_step = true;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(next_round) => {}
                () = self.store.nudged(), if failures == 0 => {}
            }
            self.follow_addresses();
            let started = Instant::now();
            let is_round = next_round <= started || self.store.is_away();
            let result = if self.store.is_away() {
                is_in_step = true;
                self.return_to_the_store(interval).await
            } else if is_round {
                // Not all at once: the thread that renews also serves the wire.
                self.renew(interval / 2).await
            } else {
                self.publish_the_rest().await
            };
            // The first connection may have come meanwhile, and a new one may lead from elsewhere.
            let has_moved = self.follow_addresses();
            self.tell_readiness(lease_ttl);
            match result {
                Err(BackendError::Unavailable { .. }) => {
                    failures += 1;
                    next_round = Instant::now() + self.pause(failures, interval);
                    continue;
                }
                // What the store refuses does not pass by itself, so it waits for the next round too.
                Ok(()) | Err(_) => failures = 0,
            }
            if has_moved {
                next_round = started;
            } else if is_round {
                next_round = started + if is_in_step { self.jitter(interval, 1) } else { interval };
                is_in_step = false;
            }
            if !knows_its_past {
                knows_its_past = self.learn_of_its_past().await;
            }
        }
    }

    /// Looks for other daemons that have this one's identity, when it starts, once its past must be over, when one shows
    /// itself, and from time to time. No renewal waits for it, and that it takes long says nothing of the store's health.
    async fn look_for_itself(&self, lease_ttl: Duration) {
        let interval = lease_ttl / 3;
        // One that ended just before this one began counts as alive for so long.
        let past_for = liveness(lease_ttl) + interval;
        let mut next_look = ROUNDS_A_LOOK;
        sleep(self.jitter(interval, 2)).await;
        for round in 0_u32.. {
            let is_due = matches!(round, 0 | 4) || next_look <= round;
            let has_company = self.has_company.swap(false, Ordering::Relaxed);
            if (is_due || has_company || !self.identity.complaints().is_empty())
                && !self.store.is_away()
                && let Ok(seen) = self.store.patiently(|backend| backend.daemons(&Scope::Cluster)).await
            {
                let daemons = Daemons::new(self.store.unreadable.note(seen));
                self.identity.look(&self.instance(), &daemons, past_for);
                if next_look <= round {
                    let more = u32::try_from(daemons.all().len() / DAEMONS_A_ROUND).unwrap_or(u32::MAX);
                    next_look = round.saturating_add(ROUNDS_A_LOOK).saturating_add(more);
                }
                self.tell_readiness(lease_ttl);
            }
            sleep(interval).await;
        }
    }

    /// Whether this daemon has other addresses than before: what it published says the old ones.
    fn follow_addresses(&self) -> bool {
        let Some(instance) = self.store.follow_addresses() else { return false };
        self.leases.hold_as(&instance);
        true
    }

    /// Asks an absent store for a sign of life, and if there is one brings everything back.
    async fn return_to_the_store(&self, interval: Duration) -> Result<(), BackendError> {
        self.publish(&[]).await?;
        // All daemons find the store back at the same moment.
        sleep(self.jitter(interval / 5, 0)).await;
        self.renew(Duration::ZERO).await
    }

    /// A round of renewals, over `spread`. Without leases the daemon still says that it is alive.
    ///
    /// A call that fails costs no lease but those that it took; the first error is returned once all were taken, or when
    /// a second call in a row had no answer.
    async fn renew(&self, spread: Duration) -> Result<(), BackendError> {
        let mut held = Holdings::new(self.leases.numbers().into_iter().map(|number| self.leases.get(number)));
        let all = held.len();
        let mut result = Ok(());
        let mut was_silent = false;
        loop {
            let (asked, left) = (Instant::now(), held.len());
            let answer = self.store.call("renew", RENEWAL_PATIENCE, |backend| backend.renew(&mut held)).await;
            let took = left - held.len();
            let renewed = match answer {
                Ok(renewed) => self.note_renewals(renewed, asked).await,
                Err(error) => Err(error),
            };
            let is_silent = matches!(renewed, Err(BackendError::Unavailable { .. }));
            // A refusal before any was taken is one of all.
            let goes_on = if is_silent { !was_silent } else { 0 < took };
            result = result.and(renewed);
            if held.is_empty() || !goes_on {
                return result;
            }
            was_silent = is_silent;
            sleep(spread.mul_f64(took as f64 / all as f64)).await;
        }
    }

    /// Publishes what the store does not know.
    async fn publish_the_rest(&self) -> Result<(), BackendError> {
        let mut result = Ok(());
        let mut was_silent = false;
        for numbers in self.leases.unpublished().chunks(PUBLISHED_MAX) {
            let leases: Vec<_> = numbers.iter().filter_map(|number| self.leases.get(*number)).collect();
            let published = self.publish(&leases).await;
            let is_silent = matches!(published, Err(BackendError::Unavailable { .. }));
            result = result.and(published);
            if was_silent && is_silent {
                break;
            }
            was_silent = is_silent;
        }
        result
    }

    async fn publish(&self, leases: &[Lease]) -> Result<(), BackendError> {
        let asked = Instant::now();
        let published = self.store.call("renew", RENEWAL_PATIENCE, |backend| backend.publish(leases)).await?;
        self.note_renewals(published, asked).await
    }

    /// Takes note of what became of leases.
    async fn note_renewals(&self, renewed: Vec<Renewed>, asked: Instant) -> Result<(), BackendError> {
        for lease in self.leases.note(renewed, asked) {
            // Its node left while the renewal was under way, which may have come after the release.
            self.store.call("release", 1, |backend| backend.release(&lease)).await?;
        }
        Ok(())
    }

    /// The nodes of this host that the store still knows have been here of late, though not with this run
    /// of the daemon.
    async fn learn_of_its_past(&self) -> bool {
        let scope = Scope::Host(self.store.me.host().clone());
        let Ok(seen) = self.store.call("list", RENEWAL_PATIENCE, |backend| backend.list(&scope)).await else {
            return false;
        };
        let found = self.store.unreadable.note(seen);
        let mut past = self.past();
        for found in found.iter().filter(|found| found.registration.instance.host == *self.store.me.host()) {
            past.was_here(&found.registration.node.name);
        }
        true
    }

    async fn follow_changes(&self) {
        loop {
            let mut changes = self.store.watch().ready_chunks(CHANGES_AT_ONCE);
            while let Some(mut at_once) = changes.next().await {
                // Each means to go through all that is remembered, and a store that comes back empty says it often.
                at_once.dedup_by(|next, before| *next == Change::Missed && next == before);
                for change in at_once {
                    self.tell_change(&change);
                    self.note_company(&change);
                    match change {
                        Change::Registered(name, host)
                        | Change::Released(name, host)
                        | Change::Expired(name, host) => self.changed(name, host),
                        Change::Missed => self.missed_changes(),
                    }
                }
            }
            self.missed_changes();
            self.events.tell(What::Missed);
            sleep(WATCH_PAUSE).await;
        }
    }

    fn tell_change(&self, change: &Change) {
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
            && *host == *self.store.me.host()
            && !self.has_company.load(Ordering::Relaxed)
            && !self.leases.has(name)
        {
            self.has_company.store(true, Ordering::Relaxed);
        }
    }

    fn changed(&self, name: AliveName, host: HostId) {
        self.cluster.out_of_date();
        // A host that is not in the list has a daemon by now.
        if self.daemons.last().is_some_and(|known| known.value.of(&host).is_empty()) {
            self.daemons.out_of_date();
        }
        self.lists.get(&host).inspect(|list| list.out_of_date());
        self.holders.get(&name).inspect(|list| list.out_of_date());
        for question in [Question::Bare(name.clone()), Question::On(host, name.clone())] {
            let Some(slot) = self.answers.get(&question) else { continue };
            if let Some(Answer::Node(registration)) = slot.last().map(|known| known.value.answer) {
                for alias in &registration.instance.aliases {
                    let by_alias = self.answers.get(&Question::On(alias.clone(), name.clone()));
                    by_alias.inspect(|slot| slot.forget());
                }
            }
            slot.forget();
        }
    }

    fn missed_changes(&self) {
        self.cluster.out_of_date();
        self.daemons.out_of_date();
        self.answers.iter().for_each(|(_, slot)| slot.out_of_date());
        self.lists.iter().for_each(|(_, list)| list.out_of_date());
        self.holders.iter().for_each(|(_, list)| list.out_of_date());
    }

    fn tell_readiness(&self, lease_ttl: Duration) {
        self.leases.end_those_that_ran_out(lease_ttl);
        let mut complaints = self.store.health.complaints(lease_ttl);
        complaints.extend(self.leases.complaints());
        complaints.extend(self.identity.complaints());
        self.readiness.send_if_modified(|readiness| {
            let mut notes = self.store.unreadable.in_words();
            notes.extend(self.store.me.complaint());
            let now = Readiness { complaints, notes };
            let is_new = *readiness != now;
            *readiness = now;
            is_new
        });
    }

    /// Longer after each failure, and never the same for two daemons.
    fn pause(&self, failures: u32, interval: Duration) -> Duration {
        let longest = PAUSE_MAX.min(interval);
        let pause = (PAUSE_MIN * 2u32.saturating_pow(failures.min(10) - 1)).min(longest);
        pause / 2 + self.jitter(pause / 2, failures)
    }

    /// Up to `most`, as this run of the daemon and `turn` have it.
    fn jitter(&self, most: Duration, turn: u32) -> Duration {
        let mut hasher = DefaultHasher::new();
        (self.store.me.id().0, turn).hash(&mut hasher);
        most.mul_f64(f64::from(hasher.finish() as u32) / f64::from(u32::MAX))
    }
}
