//! A bound on how often a fault is logged.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_after_a_flood_says_how_many_were_left_out() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let passed = (0..100).filter(|_| throttle.pass_at(start).is_some()).count();
        assert_eq!(passed, 10);
        assert_eq!(throttle.pass_at(start + WINDOW), Some(90));
        assert_eq!(throttle.pass_at(start + WINDOW), Some(0));
    }
}
