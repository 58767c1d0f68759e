//! How the store is, for people who look for faults.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use redis::Script;
use repmd_backend_api::{BackendError, StoreReport};
use tokio::time::timeout;

use crate::connection::{Connection, Lane};
use crate::error::{Failure, Fault};
use crate::keys::Keys;
use crate::{Redis, Settings};

/// People wait longer than nodes do.
const DEADLINE: Duration = Duration::from_secs(3);

/// How often the store is asked once the connection is there. The quickest counts: it is the network and the
/// store, and not what else the machine does.
const TRIES: usize = 5;

impl Redis {
    /// Asks the store that `settings` name how it is, over a connection for this alone.
    ///
    /// # Errors
    /// As [`repmd_backend_api::RegistryBackend::find`].
    ///
    /// # Panics
    /// As [`Redis::open`].
    pub async fn inspect(settings: Settings) -> Result<StoreReport, BackendError> {
        let settings = Arc::new(settings);
        let keys = Keys::new(&settings.cluster);
        let connection = Connection::open(settings, &keys);
        let code = concat!(include_str!("scripts/prelude.lua"), include_str!("scripts/inspect.lua"));
        let script = Script::new(code);
        let mut asked = script.prepare_invoke();
        asked.key(keys.prefix());
        let mut report: Option<StoreReport> = None;
        // The first one also connects.
        for _ in 0..=TRIES {
            let (asked_at, started) = (SystemTime::now(), Instant::now());
            let answer = timeout(DEADLINE, connection.run(Lane::Quick, &asked)).await;
            let silent = |_| Err(Failure { fault: Fault::Silent, waited: DEADLINE, alone: true });
            let (seconds, microseconds, memory): (u64, u64, String) = answer
                .unwrap_or_else(silent)
                .map_err(|failure| failure.when(|| "be inspected".to_owned()))?;
            let latency = started.elapsed();
            if report.as_ref().is_none_or(|report| latency < report.latency) {
                let clock = Duration::from_secs(seconds) + Duration::from_micros(microseconds);
                let number = |key| value(&memory, key)?.parse().ok();
                report = Some(StoreReport {
                    latency,
                    clock: SystemTime::UNIX_EPOCH + clock,
                    asked_at,
                    eviction: value(&memory, "maxmemory_policy").map(ToOwned::to_owned),
                    memory_used: number("used_memory"),
                    memory_max: number("maxmemory").filter(|max| 0 < *max),
                });
            }
        }
        Ok(report.expect("it was asked more than once"))
    }
}

/// A value of INFO.
fn value<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
}
