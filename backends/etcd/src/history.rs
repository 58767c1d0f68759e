//! Whether the store goes on where it was.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::proto::ResponseHeader;

/// What answers have told of the store's revisions. They only grow, unless the store was emptied, or restored from
/// a backup.
#[derive(Debug, Default)]
pub(crate) struct History {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    revision: i64,
    store: u64,
    turns: u64,
}

impl History {
    /// The revision that a question which is asked now is answered in, at least.
    pub(crate) fn before(&self) -> i64 {
        self.seen().revision
    }

    /// Takes note of an answer to what was asked after [`Self::before`].
    pub(crate) fn after(&self, before: i64, header: Option<&ResponseHeader>) {
        let Some(header) = header else { return };
        let mut seen = self.seen();
        let is_another = seen.store != 0 && seen.store != header.cluster_id;
        if header.revision < before || is_another {
            seen.turns += 1;
            seen.revision = header.revision;
        }
        seen.store = header.cluster_id;
        seen.revision = seen.revision.max(header.revision);
    }

    /// How often the store has turned out to be another one, or to have gone back.
    pub(crate) fn turns(&self) -> u64 {
        self.seen().turns
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_another_one_or_goes_back_turns() {
        let history = History::default();
        let answer = |revision, cluster_id| Some(ResponseHeader { cluster_id, revision });
        for (before, revision, store, turns) in [
            (0, 5, 1, 0),
            (5, 9, 1, 0),
            // Asked before the last answer came.
            (5, 7, 1, 0),
            (9, 9, 1, 0),
            (9, 8, 1, 1),
            (8, 8, 1, 1),
            (8, 20, 2, 2),
        ] {
            history.after(before, answer(revision, store).as_ref());
            assert_eq!(history.turns(), turns, "{before} {revision} {store}");
        }
        history.after(20, None);
        assert_eq!((history.turns(), history.before()), (2, 20));
    }
}
