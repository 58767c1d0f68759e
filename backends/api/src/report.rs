//! What a store says of itself, for people who look for faults. No decision of a daemon is made by it.

use std::time::{Duration, SystemTime};

/// How a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReport {
    /// How long a request takes there and back.
    pub latency: Duration,
    /// What time it has.
    pub clock: SystemTime,
    /// How it was when [`StoreReport::clock`] was asked for, by this machine's clock.
    pub asked_at: SystemTime,
    /// What it does when its memory is full, in its own word; `None`: it does not say.
    pub eviction: Option<String>,
    /// Bytes that it uses; `None`: it does not say.
    pub memory_used: Option<u64>,
    /// Bytes that it may use; `None`: as many as there are.
    pub memory_max: Option<u64>,
}
