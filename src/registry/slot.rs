//! One remembered answer of the store, and the one request that renews it.

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

/// What takes the store longer than this is no small thing to ask. It then rests for so many times as long.
const LONG: Duration = Duration::from_millis(200);
const REST: u32 = 10;
const REST_MAX: Duration = Duration::from_secs(5);

/// What the store said, and when it was asked.
#[derive(Clone, Debug)]
pub(super) struct Known<T> {
    pub(super) value: T,
    /// When the question was sent, not when the answer came: what happened in between may not be in it.
    pub(super) asked: Instant,
    /// How long the store took.
    took: Duration,
}

/// A place for one answer. However many ask for it at once, the store is asked once.
#[derive(Debug)]
pub(super) struct Slot<T> {
    state: Mutex<State<T>>,
    /// Whether an answer that took long serves for a while, whatever changes.
    rests: bool,
    /// Held by whoever asks the store.
    gate: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State<T> {
    known: Option<Known<T>>,
    /// Answers to questions sent up to here are out of date.
    changed: Option<Instant>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        let state = Mutex::new(State { known: None, changed: None });
        Self { state, rests: false, gate: tokio::sync::Mutex::default() }
    }
}

impl<T: Clone> Slot<T> {
    /// One for an answer that is for people, where something changes all the time: what took longer than [`LONG`] serves
    /// for [`REST`] times as long, and for [`REST_MAX`] at most.
    pub(super) fn resting() -> Self {
        Self { rests: true, ..Self::default() }
    }

    /// The last answer, however old.
    pub(super) fn last(&self) -> Option<Known<T>> {
        self.lock().known.clone()
    }

    /// The last answer, unless something is known to have changed since, or `is_fresh` says no.
    pub(super) fn fresh(&self, is_fresh: impl Fn(&Known<T>) -> bool) -> Option<Known<T>> {
        let state = self.lock();
        let known = state.known.as_ref()?;
        let current = state.changed.is_none_or(|changed| changed < known.asked);
        let rest = known.took + (known.took * REST).min(REST_MAX);
        let rests = self.rests && LONG <= known.took && known.asked.elapsed() < rest;
        (rests || current && is_fresh(known)).then(|| known.clone())
    }

    /// A fresh answer: the one that is there, or the one that `load` brings. `None`: the store has none.
    /// Those who ask meanwhile wait for the same `load` (a single flight).
    pub(super) async fn fresh_or(
        &self,
        is_fresh: impl Fn(&Known<T>) -> bool,
        load: impl Future<Output = Option<T>>,
    ) -> Option<Known<T>> {
        let _gate = self.gate.lock().await;
        if let Some(known) = self.fresh(is_fresh) {
            return Some(known);
        }
        let asked = Instant::now();
        let value = load.await?;
        let known = Known { value, asked, took: asked.elapsed() };
        self.lock().known = Some(known.clone());
        Some(known)
    }

    /// The answer has changed, in a way that is not known; it may still serve while the store is away.
    pub(super) fn out_of_date(&self) {
        self.lock().changed = Some(Instant::now());
    }

    /// The answer is wrong now, so it must not serve any longer.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.known = None;
        state.changed = Some(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of `key`, which is made if there is none.
pub(super) fn slot_of<K: Clone + Eq + Hash, T: Clone>(
    slots: &Cache<K, Arc<Slot<T>>>,
    key: &K,
) -> Arc<Slot<T>> {
    slots.get(key).unwrap_or_else(|| {
        let slot = Arc::default();
        slots.insert(key.clone(), Arc::clone(&slot));
        slot
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SECOND: Duration = Duration::from_secs(1);

    fn young<T>(known: &Known<T>) -> bool {
        known.asked.elapsed() < SECOND
    }

    fn value(known: &Option<Known<usize>>) -> Option<usize> {
        known.as_ref().map(|known| known.value)
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_are_one_request() {
        let (slot, requests) = (Slot::default(), AtomicUsize::new(0));
        let load = || async {
            tokio::time::sleep(SECOND / 2).await;
            Some(requests.fetch_add(1, Ordering::Relaxed))
        };
        let asks = (0..10).map(|_| slot.fresh_or(young, load()));
        let answers = futures_util::future::join_all(asks).await;
        assert!(answers.iter().all(|known| value(known) == Some(0)), "{answers:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_a_request_makes_its_answer_out_of_date() {
        let slot = Slot::default();
        let load = async {
            tokio::time::sleep(SECOND / 2).await;
            slot.forget();
            Some(1)
        };
        assert_eq!(value(&slot.fresh_or(young, load).await), Some(1));
        assert_eq!(value(&slot.fresh(young)), None);
        assert_eq!(value(&slot.last()), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_took_long_rests_for_a_while_whatever_changes() {
        let slot = Slot::resting();
        let load = async |took: Duration, value: usize| {
            tokio::time::sleep(took).await;
            slot.out_of_date();
            Some(value)
        };
        let (quick, slow) = (LONG - Duration::from_millis(1), Duration::from_millis(300));
        assert_eq!(value(&slot.fresh_or(young, load(quick, 1)).await), Some(1));
        assert_eq!(value(&slot.fresh(young)), None, "what is quick is asked for again");
        assert_eq!(value(&slot.fresh_or(young, load(slow, 2)).await), Some(2));
        tokio::time::sleep(REST * slow - Duration::from_millis(1)).await;
        assert_eq!(value(&slot.fresh_or(young, load(slow, 3)).await), Some(2));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(value(&slot.fresh_or(young, load(slow, 3)).await), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_as_old_as_its_question() {
        let slot = Slot::default();
        let load = async {
            tokio::time::sleep(SECOND).await;
            Some(1)
        };
        assert_eq!(value(&slot.fresh_or(young, load).await), Some(1));
        assert_eq!(value(&slot.fresh(young)), None);
    }
}
