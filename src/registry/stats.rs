//! What is counted of a registry's use.

use std::time::Duration;

use crate::metrics::{Counter, Timings};

/// What can be asked of a store.
pub const VERBS: [&str; 7] = ["register", "renew", "release", "retire", "find", "list", "daemons"];

/// Counted since the start of the daemon.
#[derive(Debug, Default)]
pub struct Stats {
    /// Questions that were answered from memory, freshly enough.
    pub remembered: Counter,
    /// Questions that waited for the store's answer.
    pub loaded: Counter,
    /// Questions that were answered without the store because it was away.
    pub stale: Counter,
    /// Questions whose answer was withheld, because more than one node was meant.
    pub ambiguous: Counter,
    calls: [Calls; VERBS.len()],
}

#[derive(Debug, Default)]
struct Calls {
    timings: Timings,
    failed: Counter,
}

impl Stats {
    pub(super) fn called(&self, verb: &'static str, time: Duration, is_ok: bool) {
        let Some(verb) = VERBS.iter().position(|known| *known == verb) else {
            return debug_assert!(false, "{verb} is not among the verbs");
        };
        self.calls[verb].timings.add(time);
        if !is_ok {
            self.calls[verb].failed.add();
        }
    }

    /// By verb: how long the store's answers took, and how many were no success.
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, &Timings, u64)> {
        VERBS.into_iter().zip(&self.calls).map(|(verb, calls)| (verb, &calls.timings, calls.failed.get()))
    }
}
