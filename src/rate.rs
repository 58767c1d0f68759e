//! A bound on how often somebody is answered in a second.

use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

/// Askers that are told apart. Those that share a place share a rate; who does differs from run to run.
const PLACES: usize = 4096;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Rate {
    a_second: u32,
    places: Vec<(Instant, u32)>,
    hash: RandomState,
}

impl Rate {
    pub(crate) fn new(a_second: u32) -> Self {
        Self { a_second, places: vec![(Instant::now(), 0); PLACES], hash: RandomState::new() }
    }

    /// `asker` asks at `now`. Returns by how many questions that is above the rate in this second.
    pub(crate) fn excess(&mut self, asker: impl Hash, now: Instant) -> u32 {
        let place = self.hash.hash_one(asker) as usize % PLACES;
        let (since, count) = &mut self.places[place];
        if SECOND <= now.saturating_duration_since(*since) {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        count.saturating_sub(self.a_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_asker_has_a_rate_of_its_own_which_begins_anew_each_second() {
        let mut rate = Rate::new(10);
        let start = Instant::now();
        let mut within = |asker: u8, now| (0..20).filter(|_| rate.excess(asker, now) == 0).count();
        assert_eq!(within(1, start), 10);
        // One in 4,096 runs two askers share a place.
        assert_eq!(within(2, start), 10, "another asker");
        assert_eq!(within(1, start), 0, "the same second");
        assert_eq!(within(1, start + SECOND), 10, "a second later");
    }
}
