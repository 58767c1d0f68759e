//! What this daemon remembers of nodes that were on its host.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use repmd_backend_api::{AliveName, Creation, Creations};
use tokio::time::Instant;

/// How long a name of this host is not answered from elsewhere. RabbitMQ looks its own name up every
/// minute, and would adopt the port of another host's broker while its own is away.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// Names that are kept at most; the oldest are forgotten earlier where more depart in [`KEPT_FOR`].
const NAMES_MAX: usize = 65_536;

/// The names that were held on this host, and their creations.
#[derive(Debug)]
pub(super) struct Past {
    departures: HashMap<AliveName, Instant>,
    by_age: VecDeque<(Instant, AliveName)>,
    creations: Creations<AliveName>,
    offline: OfflineCreations,
}

impl Past {
    /// `salt` tells this run of the daemon from others.
    pub(super) fn new(salt: u128) -> Self {
        Self {
            departures: HashMap::new(),
            by_age: VecDeque::new(),
            creations: Creations::default(),
            offline: OfflineCreations { salt, used: HashMap::new() },
        }
    }

    /// A node has left this host.
    pub(super) fn departed(&mut self, name: &AliveName, creation: Creation) {
        self.creations.spend(name, creation);
        self.was_here(name);
    }

    /// A node has left a registry that only this daemon uses.
    pub(super) fn spent(&mut self, name: &AliveName, creation: Creation) {
        self.creations.spend(name, creation);
    }

    /// Somebody of this host has held `name` until now.
    pub(super) fn was_here(&mut self, name: &AliveName) {
        self.was_here_at(name, Instant::now());
    }

    fn was_here_at(&mut self, name: &AliveName, now: Instant) {
        self.departures.insert(name.clone(), now);
        self.by_age.push_back((now, name.clone()));
        while let Some((since, oldest)) = self.by_age.front() {
            if since.elapsed() < KEPT_FOR && self.by_age.len() <= NAMES_MAX {
                break;
            }
            // It may have departed again since.
            if self.departures.get(oldest) == Some(since) {
                self.departures.remove(oldest);
            }
            self.by_age.pop_front();
        }
    }

    /// Whether `name` has been held on this host of late.
    pub(super) fn had(&self, name: &AliveName) -> bool {
        self.departures.get(name).is_some_and(|since| since.elapsed() < KEPT_FOR)
    }

    /// The highest creation that `name` is known to have had.
    pub(super) fn last_creation(&self, name: &AliveName) -> Option<Creation> {
        self.creations.last(name)
    }

    /// What [`Past::resume`] goes on from.
    pub(super) fn carried(&self) -> CarriedPast {
        let is_current = |(since, name): &&(Instant, AliveName)| self.departures.get(name) == Some(since);
        CarriedPast {
            departures: self
                .by_age
                .iter()
                .filter(is_current)
                .map(|(since, name)| (name.clone(), since.elapsed()))
                .collect(),
            creations: self.creations.all(),
            highest_forgotten: self.creations.highest_forgotten(),
            offline: self.offline.used.iter().map(|(name, second)| (name.clone(), *second)).collect(),
        }
    }

    /// Remembers what the program or the run before did.
    pub(super) fn resume(&mut self, carried: CarriedPast) {
        let now = Instant::now();
        for (name, ago) in &carried.departures {
            // A clock that began since then has no such time.
            self.was_here_at(name, now.checked_sub(*ago).unwrap_or(now));
        }
        self.creations.forget_below(carried.highest_forgotten);
        for (name, creation) in &carried.creations {
            self.creations.spend(name, *creation);
        }
        self.offline.used.extend(carried.offline);
    }

    /// A creation for a node that is accepted without the store; `now` is the time since the Unix epoch.
    pub(super) fn offline_creation(&mut self, name: &AliveName, now: Duration) -> Creation {
        self.offline.next(name, now)
    }
}

/// What a daemon remembers of nodes that were on its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CarriedPast {
    /// Names of late, and how long ago they left, the longest first.
    pub departures: Vec<(AliveName, Duration)>,
    /// The last creation of names that left, the longest ago first.
    pub creations: Vec<(AliveName, Creation)>,
    /// None of those that left earlier had a higher one.
    pub highest_forgotten: Option<Creation>,
    /// The second, since the Unix epoch, whose creation a name has had without the store.
    pub offline: Vec<(AliveName, u64)>,
}

/// Hands out creations from the clock, for one run of a daemon. Each has its second for itself, per name.
#[derive(Debug)]
struct OfflineCreations {
    salt: u128,
    /// The last second of each name, as far as it is not over.
    used: HashMap<AliveName, u64>,
}

impl OfflineCreations {
    fn next(&mut self, name: &AliveName, now: Duration) -> Creation {
        let now = now.as_secs();
        self.used.retain(|_, second| now <= *second);
        let second = self.used.get(name).map_or(now, |used| now.max(used + 1));
        self.used.insert(name.clone(), second);
        Creation::offline(Duration::from_secs(second), self.salt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn name(text: &str) -> AliveName {
        AliveName::parse(text.as_bytes()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_this_hosts_for_ten_minutes_after_it_left() {
        let mut past = Past::new(1);
        past.departed(&name("rabbit"), Creation::FIRST);
        tokio::time::advance(KEPT_FOR / 2).await;
        past.was_here(&name("rabbit"));
        tokio::time::advance(KEPT_FOR - Duration::from_secs(1)).await;
        assert!(past.had(&name("rabbit")));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!past.had(&name("rabbit")));
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_left_are_remembered_within_bounds() {
        let mut past = Past::new(1);
        (0..NAMES_MAX + 10).for_each(|number| past.was_here(&name(&format!("n{number}"))));
        assert_eq!((past.departures.len(), past.by_age.len()), (NAMES_MAX, NAMES_MAX));
        assert!(!past.had(&name("n9")) && past.had(&name("n10")));
    }

    #[test]
    fn lives_within_one_second_get_different_creations_and_so_do_those_of_another_run() {
        let mut runs = [Past::new(1), Past::new(2)];
        let lives = (0..10).map(|life| runs[life % 2].offline_creation(&name("a"), NOW));
        assert_eq!(lives.collect::<HashSet<_>>().len(), 10);
    }

    #[test]
    fn seconds_that_are_over_are_not_remembered() {
        let mut past = Past::new(1);
        for number in 0..100 {
            past.offline_creation(&name(&format!("n{number}")), NOW + Duration::from_secs(number));
        }
        assert!(past.offline.used.len() <= 2);
    }
}
