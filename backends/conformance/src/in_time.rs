//! Times of cases that let time pass.

use std::time::{Duration, Instant};

use repmd_backend_api::liveness;

use crate::Fixture;
use crate::daemon::Daemon;

/// How often a case that must be fast is tried.
const TRIES: usize = 20;

/// How long a registration of `daemon` lasts at least.
pub(crate) fn ttl(daemon: &Daemon) -> Duration {
    daemon.promises().lease_ttl.expect("a registry with leases has a TTL")
}

/// When it is over for certain.
pub(crate) fn over_after(daemon: &Daemon) -> Duration {
    ttl(daemon) + daemon.promises().ends_within
}

/// When a daemon that fell silent counts as alive no longer, for certain.
pub(crate) fn dead_after(daemon: &Daemon) -> Duration {
    liveness(ttl(daemon)) + daemon.promises().ends_within
}

/// Lets time pass until `is_over` holds, and no longer than `limit`: a store whose times are rough may be long before
/// what it promises.
pub(crate) async fn pass_until(fixture: &impl Fixture, limit: Duration, is_over: impl AsyncFn() -> bool) {
    const STEP: Duration = Duration::from_millis(50);
    let mut passed = Duration::ZERO;
    while passed < limit && !is_over().await {
        fixture.pass(STEP).await;
        passed += STEP;
    }
}

/// What `attempt` gives once it took less than `limit`: when the machine stalls, leases run out under a
/// case, which proves nothing about the registry.
pub(crate) async fn in_time<T>(limit: Duration, attempt: impl AsyncFn() -> T) -> T {
    for _ in 0..TRIES {
        let started = Instant::now();
        let outcome = attempt().await;
        if started.elapsed() < limit {
            return outcome;
        }
    }
    panic!("this machine is too slow to do in {limit:?} what takes no time");
}
