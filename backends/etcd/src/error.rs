//! What went wrong with the store, and which [`BackendError`] that is.

use std::error::Error;
use std::time::Instant;

use repmd_backend_api::BackendError;
use repmd_backend_remote::{self as remote, FileFault, short};
use tonic::{Code, Status};

/// Why there is no answer. Shared by all calls that it ends.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// What the server said.
    #[error("{said}")]
    Store { code: Code, said: String },
    /// The connection cannot be made, or is gone.
    #[error("{reason}")]
    Connection { reason: String },
    /// The two sides do not take each other's certificates.
    #[error("{reason}")]
    Certificate { reason: String },
    /// Nothing was said within the deadline.
    #[error("the store does not answer")]
    Silent,
    /// Others were faster each time.
    #[error("others changed the same name {tries} times meanwhile")]
    Raced { tries: usize },
    /// A file that the settings name cannot be read.
    #[error(transparent)]
    File(#[from] FileFault),
}

/// What a fault means for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It may pass by itself.
    Passes,
    /// The same, and another server may know better, or a new connection to this one.
    Elsewhere,
    /// It stays until somebody changes something.
    Stays,
}

impl Fault {
    pub(crate) fn of_connection(error: &(dyn Error + 'static)) -> Self {
        // What matters is at the end of the chain: "connection refused", and not "transport error".
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Self::Connection { reason: short(cause) }
    }

    fn meaning(&self) -> Meaning {
        match self {
            Self::Silent | Self::Raced { .. } => Meaning::Passes,
            Self::Connection { .. } => Meaning::Elsewhere,
            Self::File(_) | Self::Certificate { .. } => Meaning::Stays,
            Self::Store { code, said } => meaning_of(*code, said),
        }
    }

    /// Whether the login is no longer one: it has run out, or the store's users were changed since.
    pub(crate) fn is_old_login(&self) -> bool {
        matches!(self, Self::Store { code: Code::Unauthenticated, .. })
            || self.says("revision of auth store is old")
            || self.says("user name is empty")
    }

    /// Of the faults of several members, the one that tells most: what stays, before what a member has said, before
    /// that nobody is there.
    pub(crate) fn tells(&self) -> u8 {
        match self {
            fault if fault.stays() => 2,
            Self::Store { .. } => 1,
            _ => 0,
        }
    }

    /// Whether waiting is no help.
    pub(crate) fn stays(&self) -> bool {
        self.meaning() == Meaning::Stays
    }

    /// Whether the lease of a write is gone.
    pub(crate) fn is_lost_lease(&self) -> bool {
        self.says("requested lease not found")
    }

    /// Whether an answer was longer than is read.
    pub(crate) fn is_too_long(&self) -> bool {
        matches!(self, Self::Store { code: Code::OutOfRange, said } if said.contains("message length too large"))
    }

    /// Whether the store knows no logins.
    pub(crate) fn is_without_logins(&self) -> bool {
        self.says("authentication is not enabled")
    }

    fn says(&self, words: &str) -> bool {
        matches!(self, Self::Store { said, .. } if said.contains(words))
    }

    /// The error for a caller who wanted to `action`, and has waited since `started`.
    pub(crate) fn when(self, started: Instant, action: impl FnOnce() -> String) -> BackendError {
        let source = short(&self).into();
        if self.stays() {
            BackendError::Denied { action: action(), source }
        } else {
            BackendError::Unavailable { waited: started.elapsed(), source }
        }
    }
}

impl remote::Fault for Fault {
    fn silent() -> Self {
        Self::Silent
    }

    /// It is gone, leads to a server that has no leader, or its login is no longer one.
    fn ends_session(&self) -> bool {
        // When logins are switched on, those who had none before need one.
        self.meaning() == Meaning::Elsewhere || self.is_old_login()
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        // What has a source was made on this side, of a connection that failed.
        match status.source() {
            Some(source) => Self::of_connection(source),
            None => Self::Store { code: status.code(), said: short(status.message()) },
        }
    }
}

fn meaning_of(code: Code, said: &str) -> Meaning {
    match code {
        // No leader, a leader that changed, a server that stops or is no member: what a fail-over cures.
        Code::Unavailable => Meaning::Elsewhere,
        // The server's own deadline, and what it says when it has too much to do.
        Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => Meaning::Passes,
        Code::ResourceExhausted if said.contains("too many requests") => Meaning::Passes,
        // An answer that was cut, or of another shape.
        Code::OutOfRange | Code::NotFound | Code::Internal => Meaning::Passes,
        // A login that has run out, or is older than the last change of the users.
        Code::Unauthenticated => Meaning::Elsewhere,
        Code::InvalidArgument if said.contains("revision of auth store is old") => Meaning::Elsewhere,
        Code::Unknown if said.contains("raft: stopped") || said.contains("context") => Meaning::Elsewhere,
        // No space, no right, no user, a wrong password, a corrupt store, a proxy that is none, and whatever comes.
        _ => Meaning::Stays,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fail_over_cures_is_unavailable_and_what_an_operator_cures_is_denied() {
        for (code, said, meaning) in [
            (Code::Unavailable, "etcdserver: no leader", Meaning::Elsewhere),
            (Code::Unavailable, "etcdserver: request timed out", Meaning::Elsewhere),
            (Code::ResourceExhausted, "etcdserver: too many requests", Meaning::Passes),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Meaning::Stays),
            (Code::PermissionDenied, "etcdserver: permission denied", Meaning::Stays),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Meaning::Stays,
            ),
            (Code::InvalidArgument, "etcdserver: user name is empty", Meaning::Stays),
            (Code::DataLoss, "etcdserver: corrupt cluster", Meaning::Stays),
            (Code::Unimplemented, "unknown service", Meaning::Stays),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Meaning::Elsewhere),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", Meaning::Elsewhere),
            (Code::NotFound, "etcdserver: requested lease not found", Meaning::Passes),
        ] {
            let fault = Fault::from(Status::new(code, said));
            assert_eq!(fault.meaning(), meaning, "{code} {said}");
        }
    }

    #[test]
    fn a_reason_is_cut_at_300_characters() {
        let said = |text: String| {
            let error = Fault::from(Status::new(Code::PermissionDenied, text));
            error.when(Instant::now(), || "renew".to_owned()).source().unwrap().to_string()
        };
        assert_eq!(said("é".repeat(300)), "é".repeat(300));
        let long = said("é".repeat(1000));
        assert!(long.ends_with("é…") && long.chars().count() == 301, "{long}");
    }
}
