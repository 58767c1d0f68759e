//! Counters that the daemon's threads touch and operators read. What each is called and says is in
//! `admin`; here is only what must be cheap.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts up from the start of the daemon.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Starts at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more.
    pub fn add_many(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the classes of [`Timings`], in seconds. The last class has no bound.
pub const BOUNDS: [f64; 9] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];

/// How long something took, in classes.
#[derive(Debug, Default)]
pub struct Timings {
    classes: [Counter; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl Timings {
    /// It took `time` once more.
    pub fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let class = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.classes[class].add();
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    /// Each class with its bound and how often something fell into it.
    pub fn classes(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        bounds.zip(&self.classes).map(|(bound, count)| (bound, count.get()))
    }

    /// How long all of it took together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.microseconds.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_class_that_holds_it() {
        let timings = Timings::default();
        for milliseconds in [0, 1, 2, 1000, 1001] {
            timings.add(Duration::from_millis(milliseconds));
        }
        let counts: Vec<_> = timings.classes().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 1, 1, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(timings.sum(), Duration::from_millis(2004));
    }
}
