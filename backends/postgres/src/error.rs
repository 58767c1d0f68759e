//! What went wrong with the store, and which [`BackendError`] that is.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::BackendError;
use repmd_backend_remote::{self as remote, FileFault, short};
use tokio_postgres::error::SqlState;

/// Why there is no answer. Shared by all calls that it ends.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// What the client library said.
    #[error("{}", in_words(.0))]
    Store(Arc<tokio_postgres::Error>),
    /// The connection could not be made.
    #[error("{0}")]
    Connection(Arc<io::Error>),
    /// Nothing was said within the deadline.
    #[error("the store does not answer")]
    Silent,
    /// A file that the settings name cannot be read.
    #[error(transparent)]
    File(#[from] FileFault),
    /// TLS is wanted, and the server has none.
    #[error("the server takes no TLS, which sslmode=verify-full asks for")]
    NoTls,
    /// The server answers, and takes no writes: a standby, or a primary that was made read-only.
    #[error("{asked} is read-only: a standby, or default_transaction_read_only is on")]
    ReadOnly { asked: String },
    /// The tables are not there, and cannot be made.
    #[error(
        "the schema repmd is missing or too old, and {user} may not make it: let a role that may run what \
         `repmd schema postgres` prints ({reason})"
    )]
    NoSchema { user: String, reason: String },
    /// The tables are those of a later version, which says that this one may not use them.
    #[error(
        "the schema repmd is of version {version}, which this version of repmd cannot use; it knows {known}"
    )]
    LaterSchema { version: i32, known: i32 },
    /// The store says more than anybody keeps.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Connection(Arc::new(error))
    }
}

/// What the server's words mean for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It may pass by itself.
    Passes,
    /// The same, once the primary has been looked for again, or the tables have been made.
    Elsewhere,
    /// It stays until somebody changes something.
    Stays,
}

impl Fault {
    fn meaning(&self) -> Meaning {
        match self {
            Self::Silent | Self::TooLong(_) => Meaning::Passes,
            Self::ReadOnly { .. } => Meaning::Elsewhere,
            Self::File(_) | Self::NoTls | Self::NoSchema { .. } | Self::LaterSchema { .. } => Meaning::Stays,
            Self::Connection(error) if is_refused_certificate(error) => Meaning::Stays,
            Self::Connection(_) => Meaning::Elsewhere,
            Self::Store(error) => match error.code() {
                Some(code) => meaning_of(code),
                // The server wants a password, and there is none.
                None if error.source().is_some_and(|source| source.to_string() == "password missing") => {
                    Meaning::Stays
                }
                // The connection is lost, or the two sides do not understand each other.
                None => Meaning::Elsewhere,
            },
        }
    }

    /// Whether the server says that it takes no writes.
    pub(crate) fn has_moved(&self) -> bool {
        match self {
            Self::Store(error) => error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION),
            Self::ReadOnly { .. } => true,
            _ => false,
        }
    }

    /// Whether waiting is no help.
    pub(crate) fn stays(&self) -> bool {
        self.meaning() == Meaning::Stays
    }

    /// Whether the server, or something in front of it, does not take what a connection is begun with.
    pub(crate) fn is_about_options(&self) -> bool {
        matches!(self, Self::Store(error) if error.as_db_error().is_some_and(|error| {
            *error.code() == SqlState::PROTOCOL_VIOLATION && error.message().contains("startup parameter")
        }))
    }
}

impl remote::Fault for Fault {
    fn silent() -> Self {
        Self::Silent
    }

    /// It is gone, leads to a server that is no primary, or to a database without the tables.
    fn ends_session(&self) -> bool {
        self.meaning() == Meaning::Elsewhere
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
        // Of several servers another one will be the primary. A single one will not.
        let source = short(&fault).into();
        if fault.stays() || alone && fault.has_moved() {
            BackendError::Denied { action: action(), source }
        } else {
            BackendError::Unavailable { waited, source }
        }
    }
}

/// The server's message and its code, or what the client library says. Neither repeats a password.
fn in_words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        // Its detail and its hint may quote rows.
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

fn meaning_of(code: &SqlState) -> Meaning {
    match *code {
        SqlState::READ_ONLY_SQL_TRANSACTION
        // Whoever dropped the tables wants them empty; a new connection makes them.
        | SqlState::INVALID_SCHEMA_NAME
        | SqlState::UNDEFINED_FUNCTION
        | SqlState::UNDEFINED_TABLE
        | SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::IDLE_SESSION_TIMEOUT
        | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => Meaning::Elsewhere,
        SqlState::TOO_MANY_CONNECTIONS
        | SqlState::OUT_OF_MEMORY
        | SqlState::INSUFFICIENT_RESOURCES
        | SqlState::QUERY_CANCELED
        | SqlState::LOCK_NOT_AVAILABLE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::T_R_SERIALIZATION_FAILURE => Meaning::Passes,
        // 08: the connection; what stands between the daemon and the server says it as well.
        ref code if code.code().starts_with("08") => Meaning::Elsewhere,
        // A wrong password, a missing right, a full disk, a database that is not there, and whatever comes: it says no.
        _ => Meaning::Stays,
    }
}

/// Whether TLS failed by what the two sides hold of each other, and not by a lost connection.
fn is_refused_certificate(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fail_over_cures_is_unavailable_and_what_an_operator_cures_is_denied() {
        for (code, meaning) in [
            ("25006", Meaning::Elsewhere),
            ("3F000", Meaning::Elsewhere),
            ("42883", Meaning::Elsewhere),
            ("57P01", Meaning::Elsewhere),
            ("57P03", Meaning::Elsewhere),
            ("08006", Meaning::Elsewhere),
            ("53300", Meaning::Passes),
            ("57014", Meaning::Passes),
            ("55P03", Meaning::Passes),
            ("40P01", Meaning::Passes),
            ("28P01", Meaning::Stays),
            ("28000", Meaning::Stays),
            ("3D000", Meaning::Stays),
            ("42501", Meaning::Stays),
            ("53100", Meaning::Stays),
            ("XX001", Meaning::Stays),
        ] {
            assert_eq!(meaning_of(&SqlState::from_code(code)), meaning, "{code}");
        }
    }

    #[test]
    fn a_reason_is_cut_at_300_characters() {
        let said = |name: &str| {
            let fault = FileFault { path: "/x".into(), reason: name.to_owned() }.into();
            let failure = Failure { fault, waited: Duration::ZERO, alone: true };
            failure.when(|| "renew".to_owned()).source().unwrap().to_string()
        };
        let short = "é".repeat(200);
        assert!(said(&short).ends_with(&short));
        let long = said(&"é".repeat(1000));
        assert!(long.ends_with("é…") && long.chars().count() == 301, "{long}");
    }

    #[test]
    fn a_standby_behind_the_only_address_stays_one_until_somebody_changes_it() {
        for (alone, denied) in [(true, true), (false, false)] {
            let fault = Fault::ReadOnly { asked: "db:5432".to_owned() };
            let failure = Failure { fault, waited: Duration::ZERO, alone };
            let error = failure.when(|| "renew".to_owned());
            assert_eq!(matches!(error, BackendError::Denied { .. }), denied);
        }
    }
}
