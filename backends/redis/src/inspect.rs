//! How the store is, for people who look for faults.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use redis::Script;
use repmd_backend_api::{BackendError, Severity, StoreFinding, StoreReport, StoreTrouble};
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

const EVICTS: StoreTrouble = StoreTrouble {
    id: "store-evicts",
    severity: Severity::Warning,
    fix: "`CONFIG SET maxmemory-policy noeviction`: a store that evicts loses registrations of living nodes",
};
const FULL: StoreTrouble = StoreTrouble {
    id: "store-full",
    severity: Severity::Failure,
    fix: "raise maxmemory, or remove what else is in there: new nodes are not published meanwhile",
};
const NEARLY_FULL: StoreTrouble = StoreTrouble {
    id: "store-nearly-full",
    severity: Severity::Warning,
    fix: "raise maxmemory, or remove what else is in there, before it is full",
};

/// All that [`Redis::inspect`] finds.
pub const TROUBLES: &[StoreTrouble] = &[EVICTS, FULL, NEARLY_FULL];

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
                let (fine, findings) = judge(&memory);
                let clock = Some(SystemTime::UNIX_EPOCH + clock);
                report = Some(StoreReport { latency, clock, asked_at, fine, findings });
            }
        }
        Ok(report.expect("it was asked more than once"))
    }
}

/// What is well, and what is wrong, by what INFO says of the memory.
fn judge(info: &str) -> (Vec<String>, Vec<StoreFinding>) {
    let number = |key| value(info, key)?.parse::<u64>().ok();
    let (Some(used), Some(max @ 1..)) = (number("used_memory"), number("maxmemory")) else {
        return (vec!["no bound on its memory is known".to_owned()], Vec::new());
    };
    let memory = format!("{} of {} MiB are used", used >> 20, max >> 20);
    let (trouble, saw) = match value(info, "maxmemory_policy") {
        Some(policy) if policy != "noeviction" => {
            (EVICTS, format!("maxmemory-policy is {policy}, and {memory}"))
        }
        _ if max <= used => (FULL, memory),
        _ if max / 10 * 9 <= used => (NEARLY_FULL, memory),
        _ => return (vec![memory], Vec::new()),
    };
    (Vec::new(), vec![trouble.seen(saw)])
}

/// A value of INFO.
fn value<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_with_a_bound_is_judged_by_what_is_used_of_it_and_by_what_happens_then() {
        let judged = |used: u64, max: u64, policy: &str| {
            let info = format!(
                "# Memory\r\nused_memory:{}\r\nmaxmemory:{}\r\nmaxmemory_policy:{policy}\r\n",
                used << 20,
                max << 20
            );
            let (fine, findings) = judge(&info);
            let found = findings.into_iter().map(|found| format!("{}: {}", found.id, found.saw));
            fine.into_iter().chain(found).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(judged(5, 0, "allkeys-lru"), "no bound on its memory is known");
        assert_eq!(judged(5, 100, "noeviction"), "5 of 100 MiB are used");
        assert_eq!(judged(90, 100, "noeviction"), "store-nearly-full: 90 of 100 MiB are used");
        assert_eq!(judged(100, 100, "noeviction"), "store-full: 100 of 100 MiB are used");
        let evicts = "store-evicts: maxmemory-policy is allkeys-lru, and 5 of 100 MiB are used";
        assert_eq!(judged(5, 100, "allkeys-lru"), evicts);
        assert_eq!(judge("").0, ["no bound on its memory is known"]);
    }
}
