//! What a store says of itself, for people who look for faults. No decision of a daemon is made by it.

use std::time::{Duration, SystemTime};

/// How a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReport {
    /// How long a request takes there and back.
    pub latency: Duration,
    /// What time it has. `None`: it does not say.
    pub clock: Option<SystemTime>,
    /// How it was when [`StoreReport::clock`] was asked for, by this machine's clock.
    pub asked_at: SystemTime,
    /// What is well, a line each, such as `12 of 64 MiB are used`.
    pub fine: Vec<String>,
    /// What is wrong with it, or soon will be.
    pub findings: Vec<StoreFinding>,
}

/// Something that is wrong with a store, in the words of the backend that knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFinding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is called in reports that programs read, such as `store-full`. Always the same for one trouble.
    pub id: &'static str,
    /// What was seen.
    pub saw: String,
    /// What to do about it, for an operator who has not read the documentation.
    pub fix: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nodes work, and something will go wrong or does so at times.
    Warning,
    /// Nodes do not find each other, or will not be published.
    Failure,
}

/// Something that can be wrong with a kind of store. docs/doctor.md has the table of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreTrouble {
    /// See [`StoreFinding::id`].
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What fixes it.
    pub fix: &'static str,
}

impl StoreTrouble {
    /// It was found by what was seen.
    #[must_use]
    pub fn seen(self, saw: impl Into<String>) -> StoreFinding {
        let Self { id, severity, fix } = self;
        StoreFinding { severity, id, saw: saw.into(), fix: fix.to_owned() }
    }
}
