//! What went wrong with the store, and which [`BackendError`] that is.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError};
use repmd_backend_api::BackendError;
use repmd_backend_remote::{self as remote, FileFault, short};

/// Why there is no answer. Shared by all calls that it ends.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// What the client library or the server said.
    #[error(transparent)]
    Store(#[from] RedisError),
    /// Nothing was said within the deadline.
    #[error("the store does not answer")]
    Silent,
    /// A file that the settings name cannot be read.
    #[error(transparent)]
    File(#[from] FileFault),
    /// The Sentinels or the cluster answer, but know no primary.
    #[error("{asked} knows no primary")]
    NoPrimary { asked: String },
}

/// What the server's words mean for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It may pass by itself.
    Passes,
    /// The same, once the primary has been looked for again.
    Elsewhere,
    /// It stays until somebody changes something.
    Stays,
}

impl Fault {
    fn meaning(&self) -> Meaning {
        match self {
            Self::Silent | Self::NoPrimary { .. } => Meaning::Passes,
            Self::File(_) => Meaning::Stays,
            Self::Store(error) => match error.kind() {
                ErrorKind::Io if is_refused_certificate(error) => Meaning::Stays,
                ErrorKind::Io => Meaning::Elsewhere,
                // An answer of another shape than the script gives. Where the protocol itself is broken, the
                // client library ends the connection.
                ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Meaning::Passes,
                ErrorKind::AuthenticationFailed
                | ErrorKind::InvalidClientConfig
                | ErrorKind::RESP3NotSupported => Meaning::Stays,
                _ => meaning_of(code(error), error.detail().unwrap_or_default()),
            },
        }
    }

    /// Whether the server says that another one is the primary.
    pub(crate) fn has_moved(&self) -> bool {
        matches!(self, Self::Store(error) if error.kind() != ErrorKind::Io)
            && self.meaning() == Meaning::Elsewhere
    }

    /// Whether waiting is no help.
    pub(crate) fn stays(&self) -> bool {
        self.meaning() == Meaning::Stays
    }

    /// Whether a primary was expected and a replica answered.
    fn is_replica(&self) -> bool {
        matches!(self, Self::Store(error) if code(error) == "READONLY")
    }
}

impl remote::Fault for Fault {
    fn silent() -> Self {
        Self::Silent
    }

    /// It is gone, or leads to a server that is no primary.
    fn ends_session(&self) -> bool {
        let Self::Store(error) = self else { return false };
        // A password that was changed needs a new connection.
        error.kind() == ErrorKind::Io || code(error) == "NOAUTH" || self.meaning() == Meaning::Elsewhere
    }
}

/// A call that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) fault: Fault,
    pub(crate) waited: Duration,
    /// Whether there is only one address to try.
    pub(crate) alone: bool,
}

impl Failure {
    /// The error for a caller who wanted to `action`.
    pub(crate) fn when(self, action: impl FnOnce() -> String) -> BackendError {
        let Self { fault, waited, alone } = self;
        // Sentinels and clusters will name another primary. A single address will not.
        let source = short(&fault).into();
        if fault.stays() || alone && fault.is_replica() {
            BackendError::Denied { action: action(), source }
        } else {
            BackendError::Unavailable { waited, source }
        }
    }
}

/// The server's code for an error. Before 7.0, errors inside scripts hide it in their text.
fn code(error: &RedisError) -> &str {
    let code = error.code().unwrap_or_default();
    let detail = error.detail().unwrap_or_default();
    if code == "ERR" && detail.contains("Error running script") {
        const INSIDE: [&str; 6] = ["OOM", "READONLY", "WRONGTYPE", "MISCONF", "NOREPLICAS", "CLUSTERDOWN"];
        let mut words = detail.split(|c: char| !c.is_ascii_uppercase());
        return words.find_map(|word| INSIDE.into_iter().find(|inside| *inside == word)).unwrap_or(code);
    }
    code
}

fn meaning_of(code: &str, detail: &str) -> Meaning {
    match code {
        // A fail-over or a resharding: somebody else is, or will be, the primary.
        "READONLY" | "MOVED" | "CLUSTERDOWN" | "MASTERDOWN" => Meaning::Elsewhere,
        // The primary is starting, busy with one script, without its replicas, or moving our slot.
        "LOADING" | "BUSY" | "NOREPLICAS" | "TRYAGAIN" | "ASK" => Meaning::Passes,
        "ERR" if detail.contains("max number of clients") || detail.contains("non local key") => {
            Meaning::Passes
        }
        // OOM, MISCONF, NOPERM, NOAUTH, WRONGPASS, WRONGTYPE, an unknown command, and whatever comes: it says no.
        _ => Meaning::Stays,
    }
}

/// Whether TLS failed by what the two sides hold of each other, and not by a lost connection.
fn is_refused_certificate(error: &RedisError) -> bool {
    let shared = error.source().and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let Some(cause) = shared.and_then(|shared| shared.downcast_ref::<io::Error>()) else { return false };
    cause.get_ref().is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fail_over_cures_is_unavailable_and_what_an_operator_cures_is_denied() {
        for (code, detail, meaning) in [
            ("READONLY", "", Meaning::Elsewhere),
            ("MOVED", "1 h:1", Meaning::Elsewhere),
            ("LOADING", "", Meaning::Passes),
            ("ERR", "max number of clients reached", Meaning::Passes),
            ("ERR", "unknown command 'EVALSHA'", Meaning::Stays),
            ("OOM", "", Meaning::Stays),
            ("NOPERM", "", Meaning::Stays),
            ("WRONGPASS", "", Meaning::Stays),
            ("MISCONF", "", Meaning::Stays),
        ] {
            let error = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            assert_eq!(Fault::Store(error).meaning(), meaning, "{code} {detail}");
        }
    }

    #[test]
    fn an_error_inside_a_script_is_known_by_its_code_on_old_servers_too() {
        let detail = "Error running script (call to f_1): @user_script:9: @user_script: 9: -OOM command not \
                      allowed when used memory > 'maxmemory'.";
        let error = redis::make_extension_error("ERR".to_owned(), Some(detail.to_owned()));
        assert_eq!(code(&error), "OOM");
    }

    #[test]
    fn a_reason_is_cut_at_300_characters() {
        let said = |detail: &str| {
            let error = redis::make_extension_error("X".to_owned(), Some(detail.to_owned()));
            let failure = Failure { fault: Fault::Store(error), waited: Duration::ZERO, alone: true };
            failure.when(|| "renew".to_owned()).source().unwrap().to_string()
        };
        let short = "é".repeat(200);
        assert!(said(&short).ends_with(&short));
        let long = said(&"é".repeat(1000));
        assert!(long.ends_with("é…") && long.chars().count() == 301, "{long}");
    }

    #[test]
    fn a_replica_behind_the_only_address_stays_one_until_somebody_changes_it() {
        for (alone, denied) in [(true, true), (false, false)] {
            let error = redis::make_extension_error("READONLY".to_owned(), None);
            let failure = Failure { fault: Fault::Store(error), waited: Duration::ZERO, alone };
            let error = failure.when(|| "renew".to_owned());
            assert_eq!(matches!(error, BackendError::Denied { .. }), denied);
        }
    }
}
