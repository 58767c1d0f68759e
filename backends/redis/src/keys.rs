//! The names of what is in the store, for the parts outside the scripts; `scripts/prelude.lua` has them all.

use std::fmt;

/// The names of one cluster's keys.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(cluster: &str) -> Self {
        Self { prefix: format!("repmd:{{{cluster}}}:") }
    }

    /// What every key starts with. The part in braces is the hash tag, which keeps a cluster in one slot.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The channel on which changes are told.
    pub(crate) fn changes(&self) -> String {
        format!("{}changes", self.prefix)
    }

    /// Where the registration of a name on a host is. No host has a slash; a name may.
    pub(crate) fn node(&self, host: impl fmt::Display, name: &str) -> String {
        format!("{}node:{host}/{name}", self.prefix)
    }

    /// Where a daemon is, as long as it counts as alive.
    pub(crate) fn instance(&self, id: &str) -> String {
        format!("{}instance:{id}", self.prefix)
    }

    /// Where the note of a daemon is.
    pub(crate) fn note(&self, id: &str) -> String {
        format!("{}note:{id}", self.prefix)
    }

    /// All hosts.
    pub(crate) fn hosts(&self) -> String {
        format!("{}hosts", self.prefix)
    }
}
