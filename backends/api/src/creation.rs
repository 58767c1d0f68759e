//! The number that tells the lives of one name apart.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Tells the lives of one node name apart: two lives with an equal creation make old pids look alive.
///
/// Always 4 to 2^32 - 1, because 0 means "any" and 1 to 3 belong to peers below version 6. The lower half
/// is for registries, which count; the upper half for daemons that accept a node while their registry is
/// away ([`Creation::offline`]). So neither hands out a value of the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Creation(u32);

/// Where the upper half starts.
const OFFLINE: u32 = 1 << 31;

/// Offline creations that are of one remainder by three.
const OFFLINE_OF_A_REMAINDER: u64 = (1 << 31) / 3;

impl Creation {
    /// The smallest value of all.
    pub const FIRST: Self = Self(4);

    /// `value`, or `None` below 4.
    #[must_use]
    pub fn new(value: u32) -> Option<Self> {
        (Self::FIRST.0 <= value).then_some(Self(value))
    }

    /// Where a registry of one daemon counts on from for a name that it does not know, as the stock daemon
    /// does: the seconds of `now`, the time since the Unix epoch. From 2038 on its lower bits do as well.
    #[must_use]
    pub fn from_seconds(now: Duration) -> Self {
        Self((now.as_secs() as u32 & !OFFLINE).max(Self::FIRST.0))
    }

    /// Where a shared registry counts on from: `now` in 64ths of a second, which come back after 388 days.
    /// Finer than seconds, because such a registry may lose its count and then be asked again at once.
    #[must_use]
    pub fn from_ticks(now: Duration) -> Self {
        Self(((now.as_millis() * 64 / 1000) as u32 & !OFFLINE).max(Self::FIRST.0))
    }

    /// A value that no registry hands out, for a daemon that accepts a node without asking one, in the second `now`.
    /// `salt` tells the runs of daemons apart: nobody knows what another one has given out, so the value is as good as
    /// drawn, and two are equal once in 700 million times. Those of seconds in a row differ in their legacy form, too.
    #[must_use]
    pub fn offline(now: Duration, salt: u128) -> Self {
        let seconds = now.as_secs();
        let mut hasher = DefaultHasher::new();
        (salt, seconds).hash(&mut hasher);
        let drawn = (hasher.finish() % OFFLINE_OF_A_REMAINDER) as u32;
        // Such that the whole has the remainder of the second: that of the half itself is two.
        let remainder = (seconds % 3 + 1) % 3;
        Self(OFFLINE + 3 * drawn + remainder as u32)
    }

    /// Whether [`Creation::offline`] made it.
    #[must_use]
    pub fn is_offline(self) -> bool {
        OFFLINE <= self.0
    }

    /// The creation that a registry gives a name that it last saw with `self`: one more; after the lower
    /// half comes 4.
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0.wrapping_add(1) & !OFFLINE).max(Self::FIRST.0))
    }

    /// The four-byte form, for peers of version 6 and above.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The two-byte form, for peers below version 6: always 1, 2 or 3.
    #[must_use]
    pub fn as_legacy(self) -> u16 {
        (self.0 % 3 + 1) as u16
    }
}

impl fmt::Display for Creation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn after_the_last_creation_of_a_registry_comes_4() {
        assert_eq!(Creation::new(OFFLINE - 1).unwrap().next(), Creation::FIRST);
    }

    #[test]
    fn offline_creations_are_apart_from_those_of_registries_and_from_those_of_other_daemons() {
        let now = Duration::from_secs(1_800_000_000);
        let mut creations = HashSet::new();
        for salt in 0..1000 {
            let lives = [0, 1, 2].map(|later| Creation::offline(now + Duration::from_secs(later), salt));
            assert!(lives.iter().all(|creation| creation.is_offline()));
            assert_eq!(lives.map(Creation::as_legacy).into_iter().collect::<HashSet<_>>().len(), 3);
            creations.extend(lives);
        }
        assert_eq!(creations.len(), 3000, "runs that give out creations in one second give out the same");
        for now in [Duration::from_secs(u64::MAX / 1000), now] {
            assert!(!Creation::from_seconds(now).is_offline() && !Creation::from_ticks(now).is_offline());
        }
    }

    #[test]
    fn creations_0_to_3_do_not_exist() {
        assert_eq!((0..4).find_map(Creation::new), None);
        assert_eq!(Creation::new(4), Some(Creation::FIRST));
    }

    #[test]
    fn the_legacy_form_goes_round_in_three() {
        let mut creation = Creation::new(9).unwrap();
        let legacy: Vec<_> = (0..4)
            .map(|_| {
                creation = creation.next();
                creation.as_legacy()
            })
            .collect();
        assert_eq!(legacy, [2, 3, 1, 2]);
    }
}
