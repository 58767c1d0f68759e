//! Which processes have a socket, as far as this user may see: its own, or all of them as root.

use std::collections::{HashMap, HashSet};

use procfs::process::{FDTarget, all_processes};

/// The processes of sockets, remembered as long as the sockets live.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// Empty: there are none that this user may see.
    of: HashMap<u64, Vec<i32>>,
}

impl Processes {
    /// Looks for those of these sockets that are new, and forgets all others.
    pub(super) fn follow(&mut self, inodes: &HashSet<u64>) {
        self.of.retain(|inode, _| inodes.contains(inode));
        if inodes.iter().all(|inode| self.of.contains_key(inode)) {
            return;
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
    }

    /// Whether one process has both sockets. `None`: nobody tells this user.
    pub(super) fn are_of_one(&self, one: u64, other: u64) -> Option<bool> {
        let known = |inode| self.of.get(&inode).filter(|processes| !processes.is_empty());
        let (one, other) = (known(one)?, known(other)?);
        Some(one.iter().any(|process| other.contains(process)))
    }
}
