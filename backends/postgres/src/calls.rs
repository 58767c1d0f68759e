//! Which registrations calls change while a round of renewals is under way: what is in doubt, it neither restores nor
//! ends.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The claims that calls of one handle are about.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Claims, and how many calls are under way that make or end each.
    under_way: HashMap<u64, u32>,
    rounds: u32,
    /// Since the round began.
    touched: HashSet<u64>,
    released: HashSet<u64>,
}

impl Calls {
    /// Some registrations are made, until what is returned is dropped.
    pub(crate) fn make(&self, numbers: impl Iterator<Item = u64>) -> Call<'_> {
        let numbers: Vec<_> = numbers.collect();
        let mut state = self.state();
        for number in &numbers {
            *state.under_way.entry(*number).or_default() += 1;
        }
        Call { calls: self, numbers }
    }

    /// A registration is ended, until what is returned is dropped.
    pub(crate) fn release(&self, number: u64) -> Call<'_> {
        let call = self.make([number].into_iter());
        let mut state = self.state();
        if 0 < state.rounds {
            state.released.insert(number);
        }
        drop(state);
        call
    }

    /// A round of renewals begins. It goes on until what is returned is dropped.
    pub(crate) fn round(&self) -> Round<'_> {
        self.state().rounds += 1;
        Round(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is under way.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    calls: &'a Calls,
    numbers: Vec<u64>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut state = self.calls.state();
        for number in &self.numbers {
            let calls = state.under_way.entry(*number).or_insert(1);
            *calls -= 1;
            if *calls == 0 {
                state.under_way.remove(number);
            }
            if 0 < state.rounds {
                state.touched.insert(*number);
            }
        }
    }
}

/// A round of renewals that is under way.
#[derive(Debug)]
pub(crate) struct Round<'a>(&'a Calls);

impl Round<'_> {
    /// The claims that calls are or were about since the round began.
    pub(crate) fn in_doubt(&self) -> HashSet<u64> {
        let state = self.0.state();
        state.under_way.keys().chain(&state.touched).copied().collect()
    }

    /// Whether this was released since the round began.
    pub(crate) fn is_released(&self, number: u64) -> bool {
        self.0.state().released.contains(&number)
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.rounds -= 1;
        if state.rounds == 0 {
            state.touched.clear();
            state.released.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_under_way_at_any_time_of_a_round_is_in_doubt_and_nothing_before() {
        let calls = Calls::default();
        drop(calls.make([1].into_iter()));
        let early = calls.make([2, 2].into_iter());
        let round = calls.round();
        assert_eq!(round.in_doubt(), HashSet::from([2]));
        drop(early);
        drop(calls.release(3));
        let late = calls.make([9].into_iter());
        assert_eq!(round.in_doubt(), HashSet::from([2, 3, 9]));
        assert!(round.is_released(3) && !round.is_released(2));
        drop((round, late));
        let round = calls.round();
        assert!(round.in_doubt().is_empty() && !round.is_released(3));
        assert!(calls.state().under_way.is_empty());
    }
}
