//! Which processes of this machine listen on a port, as `/proc` has it.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;

use procfs::net::{TcpNetEntry, TcpState, tcp, tcp6};
use procfs::process::{FDTarget, all_processes};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pid: i32,
    name: String,
    /// The file of its program, where this user may see it.
    program: String,
}

impl Process {
    /// Whether its program is ours, whatever it was called as.
    pub(crate) fn is_repmd(&self) -> bool {
        self.program.rsplit('/').next().is_some_and(|file| file.starts_with("repmd"))
    }

    /// Whether it holds sockets for others.
    pub(crate) fn is_systemd(&self) -> bool {
        self.name.starts_with("systemd")
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, program } = self;
        if program.is_empty() {
            write!(f, "{name} (process {pid})")
        } else {
            write!(f, "{program} (process {pid})")
        }
    }
}

fn entries_on(port: u16) -> Vec<TcpNetEntry> {
    let listens = |entry: &TcpNetEntry| entry.state == TcpState::Listen && entry.local_address.port() == port;
    tcp().into_iter().chain(tcp6()).flatten().filter(listens).collect()
}

/// The inodes of the sockets that listen on a port.
pub(crate) fn listening_sockets(port: u16) -> BTreeSet<u64> {
    entries_on(port).iter().map(|entry| entry.inode).collect()
}

/// All ports that something listens on. Nobody is connected to for it, as a node may end by that.
///
/// # Errors
/// When `/proc` does not show them.
pub(crate) fn listening_ports() -> io::Result<HashSet<u16>> {
    // A kernel without IPv6 has no second list.
    let entries = tcp().map_err(io::Error::other)?.into_iter().chain(tcp6().into_iter().flatten());
    let listens = entries.filter(|entry| entry.state == TcpState::Listen);
    Ok(listens.map(|entry| entry.local_address.port()).collect())
}

/// Who listens on a port.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(crate) addresses: Vec<SocketAddr>,
    /// Those processes that this user may see.
    pub(crate) processes: BTreeSet<Process>,
}

impl Listeners {
    /// Of this machine, or of the network that this process is in.
    pub(crate) fn on(port: u16) -> Self {
        let entries = entries_on(port);
        let inodes: BTreeSet<u64> = entries.iter().map(|entry| entry.inode).collect();
        let mut listeners = Self {
            addresses: entries.iter().map(|entry| entry.local_address).collect(),
            processes: BTreeSet::new(),
        };
        if inodes.is_empty() {
            return listeners;
        }
        // Processes come and go, and others are not ours to see.
        for process in all_processes().into_iter().flatten().flatten() {
            let Ok(files) = process.fd() else { continue };
            let holds = files
                .flatten()
                .any(|file| matches!(file.target, FDTarget::Socket(inode) if inodes.contains(&inode)));
            if holds {
                listeners.processes.insert(Process {
                    pid: process.pid,
                    name: process.stat().map(|stat| stat.comm).unwrap_or_default(),
                    program: process.exe().map(|path| path.display().to_string()).unwrap_or_default(),
                });
            }
        }
        listeners
    }

    /// The processes, in words.
    pub(crate) fn who(&self) -> String {
        if self.processes.is_empty() {
            return "a process that only root can see".to_owned();
        }
        self.processes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    }
}
