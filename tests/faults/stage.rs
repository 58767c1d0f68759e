//! A store, and daemons on it.

use std::collections::BTreeMap;
use std::fs::{File, read_to_string};
use std::ops::Deref;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::{Duration, Instant};

use repmd_backend_api::{HostId, Instance, Kind, Place, RegistryBackend};
use repmd_backend_etcd::EtcdKind;
use repmd_backend_postgres::PostgresKind;
use repmd_backend_redis::RedisKind;
use repmd_test_stores::{Backing, Etcd, Postgres, Store};
use repmd_test_support::{Daemon, Peer, alive2, free_port, lookup_port, wait_until};
use tempfile::TempDir;

use crate::{SOON, TTL};

/// A handle to the registry at `url`, as a daemon of `host` has one.
pub(crate) fn open_registry(url: &str, host: &str) -> Arc<dyn RegistryBackend> {
    let kinds: [&dyn Kind; 3] = [&RedisKind, &PostgresKind, &EtcdKind];
    let (scheme, _) = url.split_once(':').unwrap();
    let kind = kinds.into_iter().find(|kind| kind.schemes().contains(&scheme)).unwrap();
    let place = Place { url: url.to_owned(), cluster: "default".to_owned(), lease_ttl: TTL };
    kind.open(&place, Arc::new(Instance::new(host, HostId::parse(host).unwrap()))).unwrap()
}

/// A store for one test. Tests that wait run beside each other; one that measures runs alone.
pub(crate) struct Stage<S = Store> {
    pub(crate) store: S,
    _turn: Turn,
}

#[expect(dead_code, reason = "held until the test ends")]
enum Turn {
    Beside(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

static TURNS: RwLock<()> = RwLock::new(());

impl Stage {
    pub(crate) fn redis() -> Self {
        Self::new(Store::redis)
    }
}

impl Stage<Postgres> {
    pub(crate) fn postgres() -> Self {
        Self::new(Postgres::start)
    }
}

impl Stage<Etcd> {
    pub(crate) fn etcd() -> Self {
        Self::new(Etcd::alone)
    }
}

impl<S: Backing> Stage<S> {
    pub(crate) fn new(start: impl FnOnce() -> S) -> Self {
        let turn = Turn::Beside(TURNS.read().unwrap_or_else(PoisonError::into_inner));
        Self { store: start(), _turn: turn }
    }

    /// The same, and no other test meanwhile.
    pub(crate) fn alone(start: impl FnOnce() -> S) -> Self {
        let turn = Turn::Alone(TURNS.write().unwrap_or_else(PoisonError::into_inner));
        Self { store: start(), _turn: turn }
    }

    /// A daemon of `host` that is to be started.
    pub(crate) fn plan(&self, host: &str) -> Plan {
        Plan::new(&self.store.url(), host)
    }

    /// A daemon of `host`.
    pub(crate) fn host(&self, host: &str) -> Host {
        self.plan(host).start()
    }
}

/// How to start a daemon, once or again.
#[derive(Clone)]
pub(crate) struct Plan {
    port: u16,
    settings: BTreeMap<String, String>,
    environment: Vec<(String, String)>,
}

impl Plan {
    pub(crate) fn new(url: &str, host: &str) -> Self {
        let port = free_port();
        let plan = Self { port, settings: BTreeMap::new(), environment: Vec::new() };
        let plan = plan.set("port", &port.to_string()).set("address", "127.0.0.1").set("admin", "off");
        let ttl = format!("{}s", TTL.as_secs());
        plan.set("backend", url).set("host", host).set("advertise", "127.0.0.1").set("lease-ttl", &ttl)
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(format!("--{key}"), value.to_owned());
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn start(&self) -> Host {
        let folder = TempDir::new().unwrap();
        let log = folder.path().join("log");
        let notifications = Notifications::new(&folder);
        let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
        command.arg("serve").args(self.settings.iter().flat_map(|(flag, value)| [flag, value]));
        command.stderr(File::create(log).unwrap());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("NOTIFY_SOCKET", folder.path().join("notify"));
        Host { daemon: Daemon::spawn(command, self.port), notifications, folder }
    }
}

/// A daemon, its log, and what it tells the service manager.
pub(crate) struct Host {
    daemon: Daemon,
    notifications: Notifications,
    folder: TempDir,
}

impl Deref for Host {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl Host {
    /// Registers a node and returns its connection, which is the registration.
    pub(crate) fn register(&self, name: &str, port: u16) -> Peer {
        self.try_register(name, port).unwrap_or_else(|| panic!("{name} is refused"))
    }

    /// `None`: refused.
    pub(crate) fn try_register(&self, name: &str, port: u16) -> Option<Peer> {
        let mut node = Peer::connect(self.port());
        node.send(&alive2(name, port)).unwrap();
        match *node.read(6, SOON) {
            [118, 0, ..] => Some(node),
            [118, 1, ..] => None,
            ref reply => panic!("{name}: no answer to ALIVE2: {reply:02x?}, {:?}", node.ended()),
        }
    }

    /// Registers `{prefix}0` to `{prefix}{count - 1}`, on the ports from `port` on.
    pub(crate) fn register_some(&self, prefix: &str, port: u16, count: u16) -> Vec<Peer> {
        (0..count).map(|number| self.register(&format!("{prefix}{number}"), port + number)).collect()
    }

    /// Registers a node that boots in the middle of trouble.
    pub(crate) fn register_within_a_second(&self, name: &str, port: u16) -> Peer {
        let started = Instant::now();
        let node = self.register(name, port);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(1), "registering {name} took {took:?}");
        node
    }

    /// Where a node listens, as this daemon says.
    pub(crate) fn find(&self, name: &str) -> Option<u16> {
        lookup_port(self.port(), name).map(|found| found.port)
    }

    /// Whether it answers for all that [`Self::register_some`] has registered.
    pub(crate) fn finds_all(&self, prefix: &str, host: &str, port: u16, count: u16) -> bool {
        (0..count).all(|number| self.find(&format!("{prefix}{number}@{host}")) == Some(port + number))
    }

    /// Kills it, as the kernel does when memory runs out.
    pub(crate) fn kill(mut self) {
        self.daemon.signal(rustix::process::Signal::KILL);
        self.daemon.wait(SOON);
    }

    /// Stops it, as a service manager does.
    pub(crate) fn stop(mut self) {
        self.daemon.signal(rustix::process::Signal::TERM);
        assert!(self.daemon.wait(SOON).success());
    }

    pub(crate) fn log(&self) -> String {
        // A thread of the daemon's own writes it: what was said is there soon.
        std::thread::sleep(Duration::from_millis(50));
        read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// How many lines of the log have all of `words`.
    pub(crate) fn logged(&self, words: &[&str]) -> usize {
        let log = self.log();
        log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// What the service manager shows.
    pub(crate) fn status(&self) -> String {
        self.notifications.status.lock().unwrap().clone()
    }

    /// Waits until the service manager shows that all is well.
    pub(crate) fn wait_until_well(&self) {
        self.wait_for_status("all is well", |status| !status.starts_with("Degraded"));
    }

    /// Waits until the service manager shows `complaint`.
    pub(crate) fn wait_until_degraded(&self, complaint: &str) {
        let is_degraded = |status: &str| status.starts_with("Degraded: ") && status.contains(complaint);
        self.wait_for_status(complaint, is_degraded);
    }

    fn wait_for_status(&self, what: &str, holds: impl Fn(&str) -> bool) {
        let started = Instant::now();
        while !holds(&self.status()) {
            let (status, log) = (self.status(), self.log());
            assert!(started.elapsed() < SOON, "the status is not '{what}' but '{status}':\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it answers so for `name`, and returns how long that took.
    pub(crate) fn wait_until_it_finds(&self, name: &str, port: Option<u16>) -> Duration {
        let started = Instant::now();
        wait_until(&format!("{name} is at {port:?}"), SOON, || self.find(name) == port);
        started.elapsed()
    }
}

/// The service manager's end of `NOTIFY_SOCKET`.
struct Notifications {
    status: Arc<Mutex<String>>,
}

impl Notifications {
    fn new(folder: &TempDir) -> Self {
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let status = Arc::default();
        let seen = Arc::downgrade(&status);
        // A queue that nobody reads would soon be full, and stop the daemon.
        std::thread::spawn(move || read_status(&socket, &seen));
        Self { status }
    }
}

fn read_status(socket: &UnixDatagram, seen: &Weak<Mutex<String>>) {
    let mut text = [0; 65_536];
    while let Some(seen) = seen.upgrade() {
        let Ok(length) = socket.recv(&mut text) else { continue };
        let text = String::from_utf8_lossy(&text[..length]);
        if let Some(status) = text.lines().find_map(|line| line.strip_prefix("STATUS=")) {
            *seen.lock().unwrap() = status.to_owned();
        }
    }
}
