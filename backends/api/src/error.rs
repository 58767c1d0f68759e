//! What can go wrong with a registry, one variant a decision that a caller can take.

use std::time::Duration;

use crate::name::NodeName;

/// A call that failed sooner has met something else than silence.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// The cause of a failure, as the client library of a backend reports it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Exhaustive on purpose: a new variant must break the match that decides what a node sees.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// A live lease of another daemon holds the name. The only reason for which a node is refused.
    #[error("{name} is registered by {holder}")]
    NameTaken {
        /// The name that is taken.
        name: NodeName,
        /// The instance name of the daemon that holds it, for the log.
        holder: String,
    },
    /// Nobody knows: the store did not answer, or the connection is gone. It may pass by itself.
    #[error("no answer from the registry{}", within(*.waited))]
    Unavailable {
        /// How long the call waited.
        waited: Duration,
        /// What the client library said.
        #[source]
        source: BoxError,
    },
    /// The store answers and says no: a wrong password, a read-only replica, no memory, a missing
    /// right. It does not pass until somebody changes something.
    #[error("the registry refuses to {action}")]
    Denied {
        /// What was refused, as in "register rabbit@db-1".
        action: String,
        /// What the store said.
        #[source]
        source: BoxError,
    },
    /// An entry that this version cannot read, or something else that lives under our key.
    #[error("unreadable entry {key}")]
    Corrupt {
        /// Where it is in the store.
        key: String,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
}

/// The time that was waited, in words for people; nothing where nobody waited.
fn within(waited: Duration) -> String {
    let whole = Duration::from_millis(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
    if waited < WAIT_MIN { String::new() } else { format!(" within {whole:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_only_where_something_waited() {
        let said = |waited| BackendError::Unavailable { waited, source: "no".into() }.to_string();
        assert_eq!(said(Duration::from_nanos(875)), "no answer from the registry");
        assert_eq!(said(Duration::from_micros(500_123)), "no answer from the registry within 500ms");
    }
}
