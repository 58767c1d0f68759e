//! A bound on how often a fault is logged.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many lines may be logged in each [`WINDOW`].
const LINES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Lets ten lines pass every ten seconds, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Throttle {
    /// How many lines were left out since the last one that passed, or `None` if this one is left out too.
    pub(crate) fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.since.is_none_or(|since| WINDOW <= now - since) {
            window.since = Some(now);
            window.lines = 0;
        }
        if window.lines == LINES_MAX {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

/// Groups of peers or names, so that the noise of one does not hide what another does.
const GROUPS: usize = 16;

/// A throttle for each kind of line and each group of those whom it is about. Who shares a group differs from run to run, so
/// that nobody can choose whose lines to hide.
#[derive(Debug)]
pub(crate) struct Throttles<const KINDS: usize> {
    kinds: [[Throttle; GROUPS]; KINDS],
    groups: RandomState,
}

impl<const KINDS: usize> Throttles<KINDS> {
    pub(crate) fn new() -> Self {
        Self { kinds: std::array::from_fn(|_| Default::default()), groups: RandomState::new() }
    }

    pub(crate) fn of(&self, kind: usize, whom: impl Hash) -> &Throttle {
        &self.kinds[kind][self.groups.hash_one(whom) as usize % GROUPS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn the_first_line_after_a_flood_says_how_many_were_left_out() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let passed = (0..100).filter(|_| throttle.pass_at(start).is_some()).count();
        assert_eq!(passed, 10);
        assert_eq!(throttle.pass_at(start + WINDOW), Some(90));
        assert_eq!(throttle.pass_at(start + WINDOW), Some(0));
    }

    #[test]
    fn the_noise_of_one_peer_or_kind_does_not_hide_the_lines_of_others() {
        let throttles = Throttles::<2>::new();
        let noisy = IpAddr::from([192, 0, 2, 1]);
        let passed = (0..=LINES_MAX).filter(|_| throttles.of(0, noisy).pass().is_some()).count();
        assert_eq!(passed, 10);
        assert_eq!(throttles.of(1, noisy).pass(), Some(0), "another kind");
        let others = (2..202).map(|last| IpAddr::from([192, 0, 2, last]));
        let hidden =
            others.filter(|peer| throttles.of(0, *peer).0.lock().unwrap().lines == LINES_MAX).count();
        // One in sixteen, give and take.
        assert!(hidden < 50, "{hidden} of 200");
    }
}
