//! The shared registry's store.

use std::error::Error;
use std::time::Duration;

use repmd_backend_api::{BackendError, StoreReport};

use super::finding::{
    CLOCK_SKEW, STORE_AWAY, STORE_DENIED, STORE_EVICTS, STORE_FULL, STORE_NEARLY_FULL, STORE_SLOW,
};
use super::{Doctor, Report};
use crate::printable::in_words;

/// A healthy store on the same network answers in less than a tenth of this, one in another region in more.
const SLOW: Duration = Duration::from_millis(50);

/// Clocks that somebody sets differ by less.
const SKEW: Duration = Duration::from_secs(5);

impl Doctor<'_> {
    pub(super) fn examine_store(&mut self) {
        self.report.step("the store");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                return self.report.found(STORE_AWAY, format!("cannot be asked: {}", in_words(&error)));
            }
        };
        match runtime.block_on(self.kinds.inspect(&self.settings)) {
            Ok(Some(store)) => report(&mut self.report, &store),
            Err(error @ BackendError::Denied { .. }) => {
                self.report.found(STORE_DENIED, format!("{}: {}", self.store(), in_full(&error)));
            }
            Err(error) => {
                self.report.found(STORE_AWAY, format!("{}: {}", self.store(), in_full(&error)));
            }
            Ok(None) => self.report.fine("none: this host's nodes are known to this host alone"),
        }
    }

    /// Its URL, without a password.
    fn store(&self) -> &str {
        self.settings.shown.iter().find(|shown| shown.key == "backend").map_or("", |shown| &shown.value)
    }
}

fn report(report: &mut Report, store: &StoreReport) {
    let StoreReport { latency, clock, asked_at, eviction, memory_used, memory_max } = store;
    if SLOW <= *latency {
        report.found(STORE_SLOW, format!("the quickest of several requests took {latency:.0?}"));
    } else {
        report.fine(format!("answers within {latency:.1?}"));
    }
    let (ahead, behind) = (clock.duration_since(*asked_at), asked_at.duration_since(*clock));
    let skew = ahead.or(behind).unwrap_or_default();
    if SKEW <= skew.saturating_sub(*latency) {
        let way = if asked_at < clock { "ahead of" } else { "behind" };
        report.found(CLOCK_SKEW, format!("the store's clock is {skew:.0?} {way} this machine's"));
    } else {
        report.fine("its clock and this machine's agree");
    }
    let (Some(used), Some(max)) = (memory_used, memory_max) else {
        return report.fine("no bound on its memory is known");
    };
    let memory = format!("{} of {} MiB are used", used >> 20, max >> 20);
    match eviction.as_deref() {
        Some(policy) if policy != "noeviction" => {
            report.found(STORE_EVICTS, format!("maxmemory-policy is {policy}, and {memory}"));
        }
        _ if max <= used => report.found(STORE_FULL, memory),
        _ if max / 10 * 9 <= *used => report.found(STORE_NEARLY_FULL, memory),
        _ => report.fine(memory),
    }
}

/// An error with its causes.
fn in_full(error: &BackendError) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    in_words(&text)
}
