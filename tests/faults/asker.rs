//! Somebody who asks a daemon for a name of its own all the time, and takes the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use repmd_test_support::{Peer, lookup_port};

use crate::stage::{Host, Plan};

/// Less than the half second that waiting for a store takes.
const SLOWEST: Duration = Duration::from_millis(400);

pub(crate) struct Asker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Times>,
    /// A daemon without a store, and its node. It is as slow as the machine is.
    _other: (Host, Peer),
}

#[derive(Default)]
struct Times {
    asked: Vec<Duration>,
    other: Vec<Duration>,
}

impl Asker {
    /// Asks `daemon` for `name`, which is at `port` all the time.
    pub(crate) fn start(daemon: &Host, name: &str, port: u16) -> Self {
        let other = Plan::new("memory", "other").start();
        let node = other.register(name, port);
        let stop = Arc::new(AtomicBool::new(false));
        let (stops, name, daemons) = (Arc::clone(&stop), name.to_owned(), [daemon.port(), other.port()]);
        let thread = std::thread::spawn(move || {
            let time = |daemon| {
                let started = Instant::now();
                assert_eq!(lookup_port(daemon, &name).map(|found| found.port), Some(port), "{name}");
                started.elapsed()
            };
            let mut times = Times::default();
            while !stops.load(Ordering::Relaxed) {
                times.asked.push(time(daemons[0]));
                times.other.push(time(daemons[1]));
                std::thread::sleep(Duration::from_millis(2));
            }
            times
        });
        Self { stop, thread, _other: (other, node) }
    }

    /// Ends asking. No look-up failed, and none was slow by more than the machine is.
    pub(crate) fn was_undisturbed(self) {
        self.stop.store(true, Ordering::Relaxed);
        let Times { mut asked, mut other } = self.thread.join().expect("every look-up is answered");
        asked.sort_unstable();
        other.sort_unstable();
        let middle = asked.len() / 2;
        let (median, usual) = (asked[middle], other[middle]);
        assert!(median < 3 * usual + Duration::from_millis(1), "{median:?} instead of {usual:?}");
        let (slowest, usual) = (asked[asked.len() - 1], other[other.len() - 1]);
        assert!(
            slowest < SLOWEST.max(2 * usual),
            "the slowest of {} look-ups took {slowest:?}, and {usual:?} without a store",
            asked.len()
        );
    }
}
