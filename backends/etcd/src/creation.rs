//! Which creation a registration gets: one that comes of the store's revision.
//!
//! Each change of an etcd has a revision, one above the last, so no two of them make one creation. A store that was
//! emptied, or restored from a backup, counts its revisions again. That is what the *epoch* is for, a key with no lease
//! that holds a number which is added to each revision, and is only ever raised: by a daemon that starts, to where
//! the clock is, and by one that sees the revisions go back, above all that it has seen.

use std::time::Duration;

use repmd_backend_api::Creation;
use serde::{Deserialize, Serialize};

/// Creations of this many numbers, from the first one on, all in the lower half. A multiple of three.
const NUMBERS: u64 = (1 << 31) - 8;

/// Creations that belong to each revision: one of each of the three that nodes below version 6 know.
const STEP: u64 = 3;

/// What makes a creation, together with the revision in which it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Serial {
    /// The epoch, in 64ths of a second.
    pub(crate) base: u64,
    /// 0 to 2: chosen by what the last life of the name had.
    pub(crate) skew: u8,
}

impl Serial {
    /// One whose creations differ from each of `others`, and in the two-byte form, too, from the first two of them.
    pub(crate) fn beside(base: u64, others: &[Option<Creation>]) -> Self {
        let taken = |skew: u8| {
            let legacy = Self { base, skew }.creation(0).as_legacy();
            others.iter().flatten().any(|other| other.as_legacy() == legacy)
        };
        Self { base, skew: (0..3).find(|skew| !taken(*skew)).unwrap_or_default() }
    }

    /// How far creations have come; always more than in an earlier revision of the same or a lower epoch.
    pub(crate) fn progress(self, revision: i64) -> u64 {
        let counted = STEP.wrapping_mul(u64::try_from(revision).unwrap_or_default());
        self.base.wrapping_add(counted).wrapping_add(self.skew.into())
    }

    /// The creation of what is written in `revision`.
    pub(crate) fn creation(self, revision: i64) -> Creation {
        let number = u64::from(Creation::FIRST.get()) + self.progress(revision) % NUMBERS;
        u32::try_from(number).ok().and_then(Creation::new).expect("it is in the lower half, and at least 4")
    }
}

/// The lowest epoch with which what is written after `revision` is above `seen`, and not behind the clock.
pub(crate) fn epoch_after(revision: i64, seen: u64, now: Duration) -> u64 {
    let clock = u64::try_from(now.as_millis() * 64 / 1000).unwrap_or(u64::MAX);
    let counted = STEP.wrapping_mul(u64::try_from(revision).unwrap_or_default());
    clock.max(seen.saturating_add(STEP)).saturating_sub(counted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_revision_has_another_creation_in_the_lower_half() {
        for base in [0, NUMBERS - 30, 1_800_000_000 * 64] {
            let mut seen = HashSet::new();
            for revision in 1..100 {
                for skew in 0..3 {
                    let creation = Serial { base, skew }.creation(revision);
                    assert!(!creation.is_offline() && seen.insert(creation), "{base} {revision} {skew}");
                }
            }
        }
        // What a store may say.
        for revision in [i64::MIN, -1, 0, i64::MAX] {
            assert!(!Serial { base: u64::MAX, skew: 255 }.creation(revision).is_offline());
        }
    }

    #[test]
    fn the_next_life_has_another_creation_in_both_forms() {
        for others in [[4, 5], [4, 4], [6, 5], [u32::MAX, 4]] {
            let others = others.map(Creation::new);
            for base in 0..4 {
                for revision in 1..9 {
                    let creation = Serial::beside(base, &others).creation(revision);
                    for other in others.into_iter().flatten() {
                        assert_ne!(creation.as_legacy(), other.as_legacy(), "{base} {revision}");
                    }
                }
            }
        }
    }

    #[test]
    fn after_the_revisions_went_back_creations_go_on_above_what_was_seen() {
        let old = Serial { base: 1_000_000, skew: 2 };
        let seen = old.progress(5_000);
        let base = epoch_after(100, seen, Duration::from_secs(1));
        assert!(seen < Serial { base, skew: 0 }.progress(101));
        // Nothing was seen: the clock stands in.
        let base = epoch_after(0, 0, Duration::from_secs(1_800_000_000));
        assert_eq!(base, 1_800_000_000 * 64);
    }
}
