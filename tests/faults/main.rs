//! What `docs/failure-modes.md` promises when stores, networks, daemons and clocks fail: real daemons, real
//! stores, raw nodes. Each row of its tables names a test of this program, or of another.
//!
//! Leases are short here, so that what takes a lease does not take long. `tests/simulation` plays the same
//! faults in all their orders, on a clock of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod asker;
mod away;
mod clock;
mod daemons;
mod entries;
mod etcd;
mod fail_over;
mod floods;
mod fresh;
mod history;
mod hostile_store;
mod hosts_file;
mod link;
mod load;
mod name_server;
mod orphans;
mod page;
mod refusals;
mod stage;

use std::time::Duration;

/// How long leases last.
const TTL: Duration = Duration::from_secs(3);

/// How often they are renewed.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a busy machine may add to a promised time, with the pause between two attempts to connect.
const SLACK: Duration = Duration::from_secs(1);

/// By when something must have happened whose time is not what the test is about.
const SOON: Duration = Duration::from_secs(20);
