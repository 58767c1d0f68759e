//! The built daemon where it is better than the stock one, and where load or bad peers could hurt it. Each
//! difference is in `docs/decisions/0001-differences-from-stock.md`. What it answers like the stock daemon
//! is in `tests/golden.rs`.
//!
//! `tests/daemon_shared.rs` is this once more, with a store behind each daemon.
#![allow(clippy::unwrap_used)] // All of this is tests.

mod crowds;
mod descriptors;
mod listening;
mod registering;
mod replies;
mod stopping;

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use repmd::protocol::{Request, encode_request};
use repmd_test_stores::Store;
use repmd_test_support::{Daemon, Peer, alive2, free_port, raise_open_files, wait_until};

/// By when something must have happened that takes no time.
const SOON: Duration = Duration::from_secs(10);

/// Those of the backend for Redis: for requests, for much at once, and for changes.
const STORE_CONNECTIONS: usize = 3;

/// As the column `st` of `/proc/PID/net/tcp` says it.
const ESTABLISHED: &str = "01";

/// Refusal of a node of version 6.
const REFUSED: &[u8] = &[118, 1, 0, 0, 0, 99];

/// A daemon, and the store of its registry, if it has one.
struct Started {
    daemon: Daemon,
    _store: Option<Arc<Store>>,
}

impl Deref for Started {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Started {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

/// Starts a daemon with the stock program's flags.
fn start(flags: &[&str]) -> Started {
    start_with(&[], flags)
}

/// Starts a daemon with environment variables, too.
fn start_with(environment: &[(&str, &str)], flags: &[&str]) -> Started {
    spawn(Command::new(env!("CARGO_BIN_EXE_repmd")), environment, flags)
}

/// Starts a daemon that may have so many descriptors.
fn start_with_descriptors(descriptors: usize, flags: &[&str]) -> Started {
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {descriptors} && exec \"$@\"");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_repmd")]);
    spawn(command, &[], flags)
}

fn spawn(mut command: Command, environment: &[(&str, &str)], flags: &[&str]) -> Started {
    let port = free_port();
    let store = module_path!().starts_with("daemon_shared").then(store);
    if let Some(store) = &store {
        // No two daemons have one port, and so none meets the nodes of another.
        command.envs([("REPMD_BACKEND", store.url()), ("REPMD_CLUSTER", port.to_string())]);
    }
    command.args(["epmd", "-port", &port.to_string()]).args(flags);
    command.envs(environment.iter().copied()).stderr(Stdio::null());
    let daemon = Daemon::spawn(command, port);
    if store.is_some() {
        // Each takes a descriptor, and a daemon answers before the last of them is there.
        wait_until("its connections to the store stand", SOON, || established(&daemon) == STORE_CONNECTIONS);
    }
    Started { daemon, _store: store }
}

/// How many of a daemon's connections over TCP stand.
fn established(daemon: &Daemon) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let sockets: Vec<_> = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect();
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", daemon.pid())).unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inodes = rows.filter(|row| row[3] == ESTABLISHED).map(|row| format!("socket:[{}]", row[9]));
    inodes.filter(|inode| sockets.iter().any(|socket| socket.as_os_str() == inode.as_str())).count()
}

/// One for all tests that run at once in a network, as none is reached from another; it ends with the last of them.
fn store() -> Arc<Store> {
    static STORES: Mutex<BTreeMap<PathBuf, Weak<Store>>> = Mutex::new(BTreeMap::new());
    let network = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let mut stores = STORES.lock().unwrap();
    let last = stores.entry(network).or_default();
    last.upgrade().unwrap_or_else(|| {
        let store = Arc::new(Store::redis());
        *last = Arc::downgrade(&store);
        store
    })
}

/// Registers a node and returns its connection, which is the registration.
fn register(port: u16, name: &str) -> Peer {
    let mut node = Peer::connect(port);
    assert!(try_register(&mut node, name), "{name} is refused");
    node
}

/// Whether a node may register over this connection.
fn try_register(node: &mut Peer, name: &str) -> bool {
    node.send(&alive2(name, 1234)).unwrap();
    let reply = node.read(6, SOON);
    match *reply {
        [118, 0, ..] if reply.len() == 6 => true,
        _ if reply == REFUSED => false,
        _ => panic!("{name}: no answer to ALIVE2: {reply:02x?}, {:?}", node.ended()),
    }
}

fn look_up(name: &str) -> Vec<u8> {
    encode_request(&Request::PortPlease2(name))
}
