//! What the registry costs: daemons with many names each against a PostgreSQL of their own, which writes through to its
//! disk.
//!
//! `cargo run --release -p repmd-backend-postgres --example daemons`

use std::io::{Seek, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use repmd_backend_api::{
    AliveName, BackendError, Claim, Holdings, HostId, Instance, InstanceId, Lease, Node, RegistryBackend,
    Scope, Search,
};
use repmd_backend_postgres::{Postgres, Settings};
use repmd_test_stores::Postgres as Server;

const DAEMONS: usize = 100;
/// Names of each.
const NAMES: [usize; 2] = [17, 172];
/// A third of the usual lease.
const INTERVAL: Duration = Duration::from_secs(5);
const INTERVALS: u32 = 4;
/// Daemons that register at the same time, one name after the other.
const STORM: usize = 16;

struct Daemon {
    backend: Postgres,
    instance: Arc<Instance>,
    leases: Vec<Lease>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let server = Server::start_with(&["fsync=on", "max_connections=400"]);
    sync_disk(&server);
    let mut daemons: Vec<_> = (0..DAEMONS).map(|index| daemon(&server, index)).collect();
    join_all(daemons.iter().map(|daemon| until_there(&daemon.backend))).await;

    let mut took = Vec::new();
    for number in 0..NAMES[0] {
        for daemon in &mut daemons[..STORM] {
            let started = Instant::now();
            daemon.register(number).await;
            took.push(started.elapsed());
        }
    }
    tell("a registration, one at a time", &mut took);

    for names in NAMES {
        let started = Instant::now();
        let before: usize = daemons.iter().map(|daemon| daemon.leases.len()).sum();
        let registering = daemons.iter_mut().map(async |daemon| {
            let mut took = Vec::new();
            for number in daemon.leases.len()..names {
                let started = Instant::now();
                daemon.register(number).await;
                took.push(started.elapsed());
            }
            took
        });
        let mut took = stream::iter(registering).buffer_unordered(STORM).concat().await;
        let count = DAEMONS * names - before;
        let rate = count as f64 / started.elapsed().as_secs_f64();
        println!("{count} registrations by {STORM} daemons at a time: {rate:.0} a second");
        tell("  each", &mut took);

        // Some have waited for longer than a lease.
        join_all(daemons.iter().map(Daemon::renew)).await;
        let before = (Instant::now(), own_cpu(), server.cpu(), written(&server));
        let mut took: Vec<_> = join_all(daemons.iter().enumerate().map(async |(index, daemon)| {
            tokio::time::sleep(INTERVAL * u32::try_from(index).expect("a few") / DAEMONS as u32).await;
            daemon.renew_for_a_while().await
        }))
        .await
        .concat();
        let wall = before.0.elapsed().as_secs_f64();
        let percent = |used: Duration| 100.0 * used.as_secs_f64() / wall;
        println!(
            "{DAEMONS} daemons renew {names} names each every {INTERVAL:?}: the store {:.2} % of a core, each daemon {:.3} %, \
             {:.0} bytes of log a renewal",
            percent(server.cpu() - before.2),
            percent(own_cpu() - before.1) / DAEMONS as f64,
            (written(&server) - before.3) as f64 / took.len() as f64,
        );
        tell("  a renewal", &mut took);
    }

    let daemon = &daemons[0];
    let mut took = Vec::new();
    for number in 0..5_000 {
        let started = Instant::now();
        let (name, near, scope) = (name(number % NAMES[1]), &daemon.instance.host, Scope::Host(host(1)));
        let found = daemon.backend.find(&Search { name: &name, scope: &scope, near, most: 4 }).await;
        assert_eq!(found.expect("the store is up").items.len(), 1);
        took.push(started.elapsed());
    }
    tell("a look-up", &mut took);
    let started = Instant::now();
    let listed = daemon.backend.list(&Scope::Cluster).await.expect("the store is up").items.len();
    println!("a list of {listed} names: {:.2?}", started.elapsed());

    server.run("truncate repmd.daemons cascade");
    let started = Instant::now();
    join_all(daemons.iter().map(Daemon::renew)).await;
    let listed = daemon.backend.list(&Scope::Cluster).await.expect("the store is up").items.len();
    println!("{listed} names are back after the store was emptied: {:.2?}", started.elapsed());
}

impl Daemon {
    async fn register(&mut self, number: usize) {
        let lease = self.backend.register(&claim(number)).await;
        self.leases.push(lease.expect("the store is up"));
    }

    async fn renew(&self) {
        let mut held = Holdings::new(self.leases.iter().cloned().map(Some));
        self.backend.renew(&mut held).await.expect("the store is up");
    }

    async fn renew_for_a_while(&self) -> Vec<Duration> {
        let mut took = Vec::new();
        let mut pace = tokio::time::interval(INTERVAL);
        for _ in 0..INTERVALS {
            pace.tick().await;
            let started = Instant::now();
            self.renew().await;
            took.push(started.elapsed());
        }
        took
    }
}

async fn until_there(backend: &Postgres) {
    while let Err(error) = backend.list(&Scope::Host(host(0))).await {
        assert!(matches!(error, BackendError::Unavailable { .. }), "{error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the disk itself takes for a page of the log.
fn sync_disk(server: &Server) {
    let mut file = std::fs::File::create(server.folder().join("sync")).expect("the folder takes a file");
    let mut took = Vec::new();
    for _ in 0..500 {
        let started = Instant::now();
        file.rewind()
            .and_then(|()| file.write_all(&[7; 8192]))
            .and_then(|()| file.sync_data())
            .expect("a file");
        took.push(started.elapsed());
    }
    tell("the disk, a page written through", &mut took);
}

fn tell(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    println!("{what}: p50 {:.2?}, p99 {:.2?}", took[took.len() / 2], took[took.len() * 99 / 100]);
}

/// Bytes of the server's log.
fn written(server: &Server) -> u64 {
    server.query("select pg_current_wal_insert_lsn() - '0/0'").parse().expect("a number")
}

fn daemon(server: &Server, index: usize) -> Daemon {
    let settings = Settings::from_url(&server.url(), "bench", 3 * INTERVAL).expect("the URL is one");
    let instance = Arc::new(Instance {
        id: InstanceId::random(),
        name: format!("host{index}:4369"),
        host: host(index),
        aliases: vec![HostId::parse(&format!("host{index}.example.com")).expect("a host")],
        addresses: vec![[10, 0, 0, 1].into()],
        port: 4369,
    });
    Daemon { backend: Postgres::open(settings, Arc::clone(&instance)), instance, leases: Vec::new() }
}

fn claim(number: usize) -> Claim {
    Claim {
        number: number as u64,
        node: Node::ordinary(name(number), 9100),
        advertised_port: 9100,
        registered_at: SystemTime::now(),
        last: None,
    }
}

fn name(number: usize) -> AliveName {
    AliveName::parse(format!("worker-{number:05}").as_bytes()).expect("a name")
}

fn host(index: usize) -> HostId {
    HostId::parse(&format!("host{index}")).expect("a host")
}

/// The processor time of this process: all daemons, and next to nothing else.
fn own_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("/proc is there");
    let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.expect("schedstat starts with a number"))
}
