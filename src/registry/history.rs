//! What happened in each minute of the last hour, in short.
//!
//! The last events alone do not say it: in a cluster where nodes come and go, they are those of the last minutes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::events::Event;

/// How far back, in minutes.
const HISTORY_MINUTES: u64 = 60;

/// Events of one kind that are kept of a minute as they were; the others are counted.
const OF_A_KIND_MAX: usize = 8;

/// Events that are kept as they were, of all minutes.
const KEPT_MAX: usize = 1024;

const MINUTE: u64 = 60;

/// What happened in the last hour. All times are since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastHour {
    /// When it ended: now.
    pub now: Duration,
    /// When this daemon began to take note.
    pub since: Duration,
    /// The minutes in which something happened, oldest first, each with its begin.
    pub minutes: Vec<(Duration, Minute)>,
}

/// What happened in one minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// How many of each kind, by [`super::What::kind`].
    pub counts: BTreeMap<&'static str, u64>,
    /// Some of them, in the order in which they happened.
    pub events: VecDeque<Event>,
}

/// The minutes in which something happened.
#[derive(Debug, Default)]
pub(super) struct History {
    /// By their number since the Unix epoch.
    minutes: BTreeMap<u64, Minute>,
    kept: usize,
}

impl History {
    pub(super) fn note(&mut self, event: &Event) {
        let now = event.at.as_secs() / MINUTE;
        if !self.minutes.contains_key(&now) {
            // On both sides: a clock may have been set back.
            let left = self.minutes.extract_if(.., |minute, _| HISTORY_MINUTES < minute.abs_diff(now));
            self.kept -= left.map(|(_, minute)| minute.events.len()).sum::<usize>();
        }
        let minute = self.minutes.entry(now).or_default();
        let count = minute.counts.entry(event.what.kind()).or_default();
        *count += 1;
        if *count <= OF_A_KIND_MAX as u64 {
            minute.events.push_back(event.clone());
            self.kept += 1;
        }
        if KEPT_MAX < self.kept {
            let oldest = self.minutes.values_mut().find_map(|minute| minute.events.pop_front());
            self.kept -= usize::from(oldest.is_some());
        }
    }

    /// The minutes of the hour that ends with that of `now`, oldest first, each with its begin.
    pub(super) fn until(&self, now: Duration) -> Vec<(Duration, Minute)> {
        let now = now.as_secs() / MINUTE;
        let of_the_hour = now.saturating_sub(HISTORY_MINUTES - 1)..=now;
        let begin = |number: &u64| Duration::from_secs(number * MINUTE);
        self.minutes.range(of_the_hour).map(|(number, minute)| (begin(number), minute.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::events::What;
    use super::*;

    fn at(seconds: u64, what: What) -> Event {
        Event { id: seconds, at: Duration::from_secs(seconds), what }
    }

    /// The number of the minute, how many of this kind there were, and how many of all kinds are kept.
    fn minutes(history: &History, now: u64, kind: &str) -> Vec<(u64, u64, usize)> {
        let until = history.until(Duration::from_secs(now)).into_iter();
        until
            .map(|(begin, minute)| {
                (begin.as_secs() / 60, minute.counts.get(kind).copied().unwrap_or(0), minute.events.len())
            })
            .collect()
    }

    fn lost(reason: &str) -> What {
        What::StoreLost { reason: reason.to_owned() }
    }

    #[test]
    fn each_minute_of_the_last_hour_has_its_counts_and_its_first_events() {
        let mut history = History::default();
        history.note(&at(6000, lost("a")));
        (0..100).for_each(|second| history.note(&at(6060 + second, What::Missed)));
        history.note(&at(6119, lost("b")));
        assert_eq!(minutes(&history, 6200, "missed"), [(100, 0, 1), (101, 60, 9), (102, 40, 8)]);
        assert_eq!(minutes(&history, 6200, "store_lost"), [(100, 1, 1), (101, 1, 9), (102, 0, 8)]);
        let kept = &history.until(Duration::from_secs(6200))[1].1.events;
        assert_eq!(kept.back().map(|event| &event.what), Some(&lost("b")));
        // 100 minutes after the epoch is out of sight with the begin of the 160th.
        assert_eq!(minutes(&history, 6000 + 3600 - 1, "store_lost").len(), 3);
        assert_eq!(minutes(&history, 6000 + 3600, "store_lost").len(), 2);
        assert_eq!(minutes(&history, 60 * 162, "store_lost"), []);
    }

    #[test]
    fn memory_has_a_bound_however_much_happens_and_the_newest_events_are_kept() {
        let mut history = History::default();
        let kinds = [lost("a"), What::StoreBack { away_for: Duration::ZERO }, What::Missed];
        for second in 0..3 * 3600 {
            kinds.iter().for_each(|what| history.note(&at(second, what.clone())));
            let events: usize = history.minutes.values().map(|minute| minute.events.len()).sum();
            assert_eq!(history.kept, events);
            assert!(events <= KEPT_MAX && history.minutes.len() as u64 <= HISTORY_MINUTES + 1);
        }
        let now = minutes(&history, 3 * 3600 - 1, "missed");
        assert_eq!((now.len(), now.last()), (60, Some(&(179, 60, 24))));
        assert_eq!(now.iter().map(|(_, count, _)| count).sum::<u64>(), 3600);
        assert_eq!(now.first(), Some(&(120, 60, 0)), "the oldest are told by their number alone");
    }

    #[test]
    fn a_clock_that_is_set_shows_the_hour_that_it_has_then() {
        let mut history = History::default();
        history.note(&at(600_000, lost("a")));
        history.note(&at(60, lost("b")));
        assert_eq!(minutes(&history, 60, "store_lost"), [(1, 1, 1)]);
        assert_eq!((history.minutes.len(), history.kept), (1, 1));
        history.note(&at(0, lost("c")));
        assert_eq!(minutes(&history, 30, "store_lost"), [(0, 1, 1)]);
        assert_eq!(minutes(&history, 90, "store_lost"), [(0, 1, 1), (1, 1, 1)]);
    }
}
