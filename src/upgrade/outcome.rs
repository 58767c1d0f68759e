//! How the last replacement went, for whoever asked for it.
//!
//! It is in a file without a name that the daemon keeps open: whoever may send the daemon a signal may read it below
//! `/proc/PID/fd`, and nobody else.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// What the file is called among the descriptors of the daemon.
pub const NAME: &str = "repmd-upgrade";

/// The most bytes that are read of one.
const BYTES_MAX: u64 = 64 << 10;

/// How one replacement went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Went {
    /// Nobody has asked for one.
    Never,
    /// The program was replaced.
    Replaced {
        /// The version before, and the one of now.
        versions: [String; 2],
        /// The nodes that it took over, and those of them that it could not.
        nodes: [usize; 2],
        /// For how many milliseconds nobody was served.
        paused_ms: u64,
    },
    /// The old program serves on.
    Failed {
        /// Why.
        reason: String,
    },
}

/// The last one, and how many there were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// How often somebody asked.
    pub number: u64,
    /// How the last one went.
    pub went: Went,
}

/// Where it is written.
#[derive(Debug)]
pub struct Outcome(File);

impl Outcome {
    /// Of a process that has not been replaced yet.
    ///
    /// # Errors
    /// When the system has no room.
    pub fn new() -> io::Result<Self> {
        let outcome = Self(File::from(memfd_create(NAME, MemfdFlags::CLOEXEC)?));
        outcome.write(&Last { number: 0, went: Went::Never })?;
        Ok(outcome)
    }

    /// The one that the program before left.
    #[must_use]
    pub fn inherited(fd: OwnedFd) -> Self {
        Self(File::from(fd))
    }

    /// Tells how it went.
    pub fn tell(&self, went: &Went) {
        let number = self.0.try_clone().and_then(read).map_or(1, |last| last.number + 1);
        if let Err(error) = self.write(&Last { number, went: went.clone() }) {
            warn!(%error, "cannot say how the replacement of the program went");
        }
    }

    fn write(&self, last: &Last) -> io::Result<()> {
        // A newline ends it, so that what is half written is told from what is whole.
        let text = format!("{}\n", serde_json::to_string(last)?);
        self.0.set_len(0)?;
        self.0.write_all_at(text.as_bytes(), 0)
    }
}

impl AsFd for Outcome {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads an outcome that another process may be writing.
///
/// # Errors
/// When it cannot be read, or is half written.
pub fn read(mut file: File) -> io::Result<Last> {
    let mut text = String::new();
    file.rewind()?;
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    let line = text.strip_suffix('\n').ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_str(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(outcome: &Outcome) -> io::Result<Last> {
        read(outcome.as_fd().try_clone_to_owned()?.into())
    }

    #[test]
    fn each_outcome_takes_the_place_of_the_one_before_in_whichever_program() {
        let outcome = Outcome::new().unwrap();
        assert_eq!(of(&outcome).unwrap(), Last { number: 0, went: Went::Never });
        let replaced = Went::Replaced {
            versions: ["0.1.0".to_owned(), "0.2.0".to_owned()],
            nodes: [3, 1],
            paused_ms: 7,
        };
        outcome.tell(&replaced);
        assert_eq!(of(&outcome).unwrap(), Last { number: 1, went: replaced });
        let next = Outcome::inherited(outcome.as_fd().try_clone_to_owned().unwrap());
        let failed = Went::Failed { reason: "why".to_owned() };
        next.tell(&failed);
        next.tell(&failed);
        assert_eq!(of(&outcome).unwrap(), Last { number: 3, went: failed });
    }

    #[test]
    fn what_is_half_written_is_no_outcome_and_the_next_one_is_whole() {
        let outcome = Outcome::new().unwrap();
        outcome.0.set_len(10).unwrap();
        assert_eq!(of(&outcome).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        outcome.tell(&Went::Never);
        assert_eq!(of(&outcome).unwrap(), Last { number: 1, went: Went::Never });
    }
}
