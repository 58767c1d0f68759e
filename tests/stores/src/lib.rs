//! Real Redis, Valkey, PostgreSQL and etcd servers for tests: alone, with TLS, clustered, behind Sentinel, with a standby.
//!
//! With the feature `containers` the servers of [`Release::Installed`] come from containers where an engine answers and
//! has, or can pull, the image; without either they are the `redis-server` of this machine. They all listen on free ports of 127.0.0.1, keep nothing on disk but what is removed with them, and end with the [`Store`] that holds
//! them. Everything here panics with what went wrong: a test without its store has failed.
//!
//! Beside them is what the tests of all backends do with their stores: a [`Daemon`] with a handle to a registry, and the
//! [`Registry`] of a case of the conformance suite. Each backend says by a [`Pair`] what is its own.

mod backing;
mod certificates;
mod cluster;
#[cfg(feature = "containers")]
mod container;
mod daemon;
mod etcd;
pub mod faults;
mod postgres;
mod registry;
mod release;
mod running;
mod sentinel;
mod server;

use std::path::Path;
use std::time::Duration;

use redis::FromRedisValue;
use repmd_test_support::{wait_for, wait_until};
use tempfile::TempDir;

pub use backing::Backing;
pub use certificates::Certificates;
pub use daemon::{
    CLUSTER, DEADLINE, Daemon, Pair, TTL, host, in_time, is_unavailable, name, scope, until, until_ok, within,
};
pub use etcd::{Etcd, EtcdKind};
pub use postgres::{PgBouncer, Postgres};
pub use registry::{Registry, Shared};
pub use release::Release;
use server::Server;

/// How long servers may take to start, to find each other, or to elect a primary, and a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The name of the master that Sentinels watch.
const MASTER: &str = "repmd";

/// A store of one or more servers.
#[derive(Debug)]
pub struct Store {
    kind: Kind,
    servers: Vec<Server>,
    sentinels: Vec<Server>,
    certificates: Option<Certificates>,
    // Last: it goes when no server writes to it any longer.
    folder: TempDir,
}

/// How the servers of a store are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    Alone,
    /// One server that takes TLS only, and asks for a client's certificate.
    Tls,
    /// Three masters with a replica each.
    Cluster,
    /// A master and its replica, watched by three Sentinels, two of which decide.
    Sentinel,
}

impl Store {
    /// One server.
    #[must_use]
    pub fn redis() -> Self {
        Self::start(Kind::Alone, Release::Installed)
    }

    /// Three masters with a replica each.
    #[must_use]
    pub fn cluster() -> Self {
        Self::start(Kind::Cluster, Release::Installed)
    }

    /// A master and its replica behind three Sentinels.
    #[must_use]
    pub fn sentinel() -> Self {
        Self::start(Kind::Sentinel, Release::Installed)
    }

    /// Any arrangement of any release.
    #[must_use]
    pub fn start(kind: Kind, release: Release) -> Self {
        let folder = tempfile::Builder::new().prefix("repmd-store").tempdir().expect("a folder can be made");
        let mut store = Self { kind, servers: Vec::new(), sentinels: Vec::new(), certificates: None, folder };
        let folder = store.folder.path().to_owned();
        match kind {
            Kind::Alone => store.servers.push(Server::start(release, &folder, &[])),
            Kind::Tls => {
                let certificates = Certificates::create(&folder);
                store.servers.push(Server::start_tls(release, &folder, &certificates));
                store.certificates = Some(certificates);
            }
            Kind::Cluster => store.servers = cluster::start(release, &folder),
            Kind::Sentinel => (store.servers, store.sentinels) = sentinel::start(release, &folder),
        }
        store
    }

    /// The store's URL, as the daemon takes it; with TLS also the files to use.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_for("")
    }

    /// [`Store::url`] with `login` before the hosts, as in `user:password@`.
    #[must_use]
    pub fn url_for(&self, login: &str) -> String {
        let hosts = |servers: &[Server]| {
            let hosts: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
            hosts.join(",")
        };
        match self.kind {
            Kind::Alone => format!("redis://{login}{}", hosts(&self.servers)),
            Kind::Tls => {
                let files = self.certificates.as_ref().expect("a store with TLS has certificates").query();
                format!("rediss://{login}{}?{files}", hosts(&self.servers))
            }
            Kind::Cluster => format!("redis+cluster://{login}{}", hosts(&self.servers)),
            Kind::Sentinel => format!("redis+sentinel://{login}{}/{MASTER}", hosts(&self.sentinels)),
        }
    }

    /// The URL of a replica, as if it were a store of its own.
    #[must_use]
    pub fn replica_url(&self) -> String {
        let replica = self.servers.iter().find(|server| !server.is_primary()).expect("there is a replica");
        format!("redis://127.0.0.1:{}", replica.port())
    }

    /// A folder that goes when the store does.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificates of a store with TLS.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("this store has no TLS")
    }

    /// Sends a command to the primary of `key`, and returns its answer.
    pub fn query<T: FromRedisValue>(&self, key: &str, command: &[&str]) -> T {
        self.servers[self.primary(key)].query(command)
    }

    /// Sends a command to every server that runs.
    pub fn tell_all(&self, command: &[&str]) {
        for server in self.servers.iter().filter(|server| server.runs()) {
            let _: redis::Value = server.query(command);
        }
    }

    /// The processor time that all servers have used. A container's is not counted.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.servers.iter().map(Server::cpu).sum()
    }

    /// Kills all servers. Sentinels stay.
    pub fn kill(&mut self) {
        for server in &mut self.servers {
            server.kill();
        }
    }

    /// Starts what was killed again; nothing is left of what was in it.
    pub fn revive(&mut self) {
        for server in &mut self.servers {
            server.revive();
        }
        wait_until("there is a primary", PATIENCE, || self.servers.iter().any(Server::is_primary));
    }

    /// Kills all servers and starts them again at once, empty and on the same ports.
    pub fn restart_empty(&mut self) {
        self.kill();
        self.revive();
    }

    /// Stalls all servers: they accept connections and bytes, and do nothing.
    pub fn pause(&mut self) {
        for server in &mut self.servers {
            server.pause();
        }
    }

    /// Lets them go on.
    pub fn resume(&mut self) {
        for server in &mut self.servers {
            server.resume();
        }
    }

    /// Kills the primary of `key`, and waits until a replica has taken its place.
    pub fn fail_over(&mut self, key: &str) {
        let lost = self.primary(key);
        self.servers[lost].kill();
        wait_until("a replica is promoted", PATIENCE, || self.find_primary(key).is_some());
        let promoted = &self.servers[self.primary(key)];
        match self.kind {
            Kind::Alone | Kind::Tls => panic!("a server alone has no replica"),
            Kind::Cluster => wait_until("the cluster is whole again", PATIENCE, || {
                self.servers.iter().filter(|server| server.runs()).all(cluster::is_whole)
            }),
            Kind::Sentinel => wait_until("the Sentinels name the new master", PATIENCE, || {
                self.sentinels.iter().all(|sentinel| sentinel::master_port(sentinel) == promoted.port())
            }),
        }
    }

    /// Cuts the replicas off from what is written from now on, and keeps them eligible for a while: the next
    /// fail-over loses those writes.
    pub fn stop_replicating(&self) {
        for server in self.servers.iter().filter(|server| !server.is_primary()) {
            // A master without a password refuses one.
            let _: redis::Value = server.query(&["CONFIG", "SET", "masterauth", "not-this-one"]);
            let _: redis::Value = server.query(&["CLIENT", "KILL", "TYPE", "master"]);
        }
    }

    fn primary(&self, key: &str) -> usize {
        wait_for(&format!("there is a primary of {key}"), PATIENCE, || self.find_primary(key))
    }

    fn find_primary(&self, key: &str) -> Option<usize> {
        let serves = |server: &Server| match self.kind {
            Kind::Alone | Kind::Tls => true,
            Kind::Cluster => server.is_primary() && cluster::owns(server, key),
            Kind::Sentinel => server.is_primary(),
        };
        self.servers.iter().position(|server| server.runs() && serves(server))
    }
}
