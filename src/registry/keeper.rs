//! Keeping what this daemon holds alive in the store, and telling operators whether all of it is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use repmd_backend_api::{BackendError, Holdings, Lease, Renewed, Scope, liveness};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::daemons::Daemons;
use super::holding::Holding;
use super::identity::Identity;
use super::store::Store;

/// Leases that are published by one call.
const PUBLISHED_MAX: usize = 500;

/// How many deadlines a call that renews or publishes may take: nobody waits for it.
const RENEWAL_PATIENCE: u32 = 4;

/// The pauses between tries while the store is away.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Rounds between two looks for daemons that have this one's identity, unless one shows itself.
const ROUNDS_A_LOOK: u32 = 12;

/// Whether the registry is whole, for operators and service managers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What is wrong; empty when all is well.
    pub complaints: Vec<String>,
    /// What costs single names alone: entries of the store that cannot be read.
    pub notes: Vec<String>,
}

/// What a daemon does for what it holds, for as long as it runs.
#[derive(Debug)]
pub(super) struct Keeper<'a> {
    pub(super) store: &'a Store,
    pub(super) holding: &'a Holding,
    pub(super) identity: &'a Identity,
    pub(super) readiness: &'a watch::Sender<Readiness>,
    pub(super) lease_ttl: Duration,
}

impl Keeper<'_> {
    /// Renews what this daemon holds, and publishes what it could not.
    pub(super) async fn renew_for_ever(&self) {
        let interval = self.interval();
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
            self.tell_readiness();
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
    pub(super) async fn look_for_itself(&self) {
        let interval = self.interval();
        // One that ended just before this one began counts as alive for so long.
        let past_for = liveness(self.lease_ttl) + interval;
        let of_host = Scope::Host(self.store.me.host().clone());
        sleep(self.jitter(interval, 2)).await;
        for round in 0_u32.. {
            let is_due = round == 4 || round.is_multiple_of(ROUNDS_A_LOOK);
            let has_company = self.identity.take_company();
            if (is_due || has_company || !self.identity.complaints().is_empty())
                && !self.store.is_away()
                && let Ok(seen) = self.store.patiently(|backend| backend.daemons(&of_host)).await
            {
                let daemons = Daemons::new(self.store.unreadable.note(seen));
                self.identity.look(&self.store.me.now(), &daemons, past_for);
                self.tell_readiness();
            }
            sleep(interval).await;
        }
    }

    /// Whether this daemon has other addresses than before: what it published says the old ones.
    fn follow_addresses(&self) -> bool {
        let Some(instance) = self.store.follow_addresses() else { return false };
        self.holding.leases.hold_as(&instance);
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
        let mut held = Holdings::new(
            self.holding.leases.numbers().into_iter().map(|number| self.holding.leases.get(number)),
        );
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
        for numbers in self.holding.leases.unpublished().chunks(PUBLISHED_MAX) {
            let leases: Vec<_> =
                numbers.iter().filter_map(|number| self.holding.leases.get(*number)).collect();
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
        for lease in self.holding.leases.note(renewed, asked) {
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
        let of_host = found.iter().map(|found| &*found.registration);
        let of_host = of_host.filter(|registration| registration.instance.host == *self.store.me.host());
        self.holding.were_here(of_host.map(|registration| &registration.node.name));
        true
    }

    fn tell_readiness(&self) {
        self.holding.leases.end_those_that_ran_out(self.lease_ttl);
        let mut complaints = self.store.health.complaints(self.lease_ttl);
        complaints.extend(self.holding.leases.complaints());
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

    /// Between two rounds.
    fn interval(&self) -> Duration {
        self.lease_ttl / 3
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
