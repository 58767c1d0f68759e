//! Entries of the store that this daemon cannot read: of a later version, or somebody else's.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use repmd_backend_api::Seen;
use tokio::time::Instant;
use tracing::warn;

use crate::metrics::Counter;

/// Entries that are told apart; more are only counted.
const ENTRIES_MAX: usize = 64;

/// How long an entry is shown after it was last met.
const SHOWN_FOR: Duration = Duration::from_secs(60);

/// What was met of late, by where it is in the store.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    met: Mutex<BTreeMap<String, Met>>,
    /// How often an entry could not be read.
    pub(super) count: Counter,
}

#[derive(Debug)]
struct Met {
    last: Instant,
    reason: String,
}

impl Unreadable {
    /// Takes what could be read from an answer, and notes what could not.
    pub(super) fn note<T>(&self, seen: Seen<T>) -> Vec<T> {
        self.note_of(&seen);
        seen.items
    }

    /// Notes what of an answer could not be read. Each entry is logged once.
    pub(super) fn note_of<T>(&self, seen: &Seen<T>) {
        if 0 < seen.unreadable {
            self.count.add_many(seen.unreadable as u64);
            let mut met = self.lock();
            for repmd_backend_api::Unreadable { at, reason } in seen.examples.iter().cloned() {
                if !met.contains_key(&at) && met.len() < ENTRIES_MAX {
                    warn!(entry = at, reason, "left out: an entry of the registry cannot be read");
                }
                if met.contains_key(&at) || met.len() < ENTRIES_MAX {
                    met.insert(at, Met { last: Instant::now(), reason });
                }
            }
        }
    }

    /// What was met within the last minute, in words for an operator.
    pub(super) fn in_words(&self) -> Vec<String> {
        self.lock().iter().map(|(at, met)| format!("{at} cannot be read: {}", met.reason)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Met>> {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.retain(|_, met| met.last.elapsed() < SHOWN_FOR);
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn entries_that_cannot_be_read_are_counted_and_shown_for_a_while_within_bounds() {
        let unreadable = Unreadable::default();
        for entry in 0..1000 {
            let mut seen = Seen::default();
            seen.add(String::new, Ok::<_, String>(entry));
            seen.add(|| format!("node:a/{entry}"), Err("no"));
            assert_eq!(unreadable.note(seen), [entry]);
        }
        assert_eq!((unreadable.count.get(), unreadable.in_words().len()), (1000, ENTRIES_MAX));
        assert_eq!(unreadable.in_words()[0], "node:a/0 cannot be read: no");
        tokio::time::advance(SHOWN_FOR).await;
        assert_eq!(unreadable.in_words(), [""; 0]);
    }
}
