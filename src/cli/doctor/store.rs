//! The shared registry's store.

use std::error::Error;
use std::time::Duration;

use repmd_backend_api::{BackendError, StoreFinding, StoreReport};

use super::finding::{CLOCK_SKEW, Kind, STORE_AWAY, STORE_DENIED, STORE_SLOW};
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
            Ok(Some(store)) => report(&mut self.report, store),
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

fn report(report: &mut Report, store: StoreReport) {
    let StoreReport { latency, clock, asked_at, fine, findings } = store;
    if SLOW <= latency {
        report.found(STORE_SLOW, format!("the quickest of several requests took {latency:.0?}"));
    } else {
        report.fine(format!("answers within {latency:.1?}"));
    }
    if let Some(clock) = clock {
        let (ahead, behind) = (clock.duration_since(asked_at), asked_at.duration_since(clock));
        let skew = ahead.or(behind).unwrap_or_default();
        if SKEW <= skew.saturating_sub(latency) {
            let way = if asked_at < clock { "ahead of" } else { "behind" };
            report.found(CLOCK_SKEW, format!("the store's clock is {skew:.0?} {way} this machine's"));
        } else {
            report.fine("its clock and this machine's agree");
        }
    }
    fine.into_iter().for_each(|saw| report.fine(saw));
    for StoreFinding { severity, id, saw, fix } in findings {
        report.found(Kind { id, severity: severity.into(), fix: fix.into() }, saw);
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
