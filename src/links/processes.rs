//! Which processes have a socket, as far as this user may see: its own, or all of them as root.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use procfs::process::{FDTarget, all_processes};

/// Going through all processes may take one of so many parts of the time, as the wall clock has it. Until it is time
/// again, nobody tells of sockets that are new.
const SHARE: u32 = 100;

/// The processes of sockets, remembered as long as the sockets live.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// Empty: there are none that this user may see.
    of: HashMap<u64, Vec<i32>>,
    next: Option<Instant>,
}

impl Processes {
    /// Looks for those of these sockets that are new, and forgets all others. How long that took.
    pub(super) fn follow(&mut self, inodes: &HashSet<u64>) -> Duration {
        self.of.retain(|inode, _| inodes.contains(inode));
        let started = Instant::now();
        let is_early = self.next.is_some_and(|next| started < next);
        if is_early || inodes.iter().all(|inode| self.of.contains_key(inode)) {
            return Duration::ZERO;
        }
        let mut found: HashMap<u64, Vec<i32>> = inodes.iter().map(|inode| (*inode, Vec::new())).collect();
        for process in all_processes().into_iter().flatten().flatten() {
            let Ok(files) = process.fd() else { continue };
            for file in files.flatten() {
                if let FDTarget::Socket(inode) = file.target
                    && let Some(processes) = found.get_mut(&inode)
                {
                    processes.push(process.pid);
                }
            }
        }
        for (inode, processes) in found {
            self.of.entry(inode).or_insert(processes);
        }
        let taken = started.elapsed();
        self.next = Some(started + taken * SHARE);
        taken
    }

    /// Whether one process has both sockets. `None`: nobody tells this user.
    pub(super) fn are_of_one(&self, one: u64, other: u64) -> Option<bool> {
        let known = |inode| self.of.get(&inode).filter(|processes| !processes.is_empty());
        let (one, other) = (known(one)?, known(other)?);
        Some(one.iter().any(|process| other.contains(process)))
    }
}
