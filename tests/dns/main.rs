//! The registry as DNS: what is answered to whom, as real resolvers and raw packets see it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod answers;
mod forwarding;
mod hostile;
mod many;
mod registry;
mod stage;

use std::time::Duration;

/// By when something must have happened whose time is not what the test is about.
const SOON: Duration = Duration::from_secs(10);
