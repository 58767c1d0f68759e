//! What the registry costs: daemons with many names each against a Redis of their own.
//!
//! `cargo run --release -p repmd-backend-redis --example renewals`

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use repmd_backend_api::{
    AliveName, Claim, Holdings, HostId, Instance, InstanceId, Lease, Node, NodeType, RegistryBackend, Scope,
    Search,
};
use repmd_backend_redis::{Redis, Settings};
use repmd_test_stores::Store;

const DAEMONS: usize = 3;
const NAMES: usize = 10_000;
/// A third of the usual lease.
const INTERVAL: Duration = Duration::from_secs(5);
const INTERVALS: u32 = 4;
/// Nodes that register at the same time.
const STORM: usize = 100;

struct Daemon {
    backend: Redis,
    instance: Arc<Instance>,
    leases: Vec<Lease>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let store = Store::redis();
    let mut daemons: Vec<_> = (0..DAEMONS).map(|index| daemon(&store, index)).collect();

    let started = Instant::now();
    for daemon in &mut daemons {
        let backend = &daemon.backend;
        let claims = (0..NAMES).map(claim);
        let leases = stream::iter(claims).map(async |claim| backend.register(&claim).await);
        let leases: Vec<_> = leases.buffered(STORM).collect().await;
        daemon.leases = leases.into_iter().map(|lease| lease.expect("the store is up")).collect();
    }
    println!("{} registrations, {STORM} at a time: {:.2?}", DAEMONS * NAMES, started.elapsed());

    let before = (Instant::now(), own_cpu(), store.cpu());
    let mut renewing: FuturesUnordered<_> = daemons.iter().map(Daemon::renew_for_a_while).collect();
    while renewing.next().await.is_some() {}
    drop(renewing);
    let wall = before.0.elapsed().as_secs_f64();
    let percent = |used: Duration| 100.0 * used.as_secs_f64() / wall;
    println!(
        "renewing {NAMES} names every {INTERVAL:?}: {:.2} % of a core a daemon; the store of {DAEMONS}: {:.2} %",
        percent(own_cpu() - before.1) / DAEMONS as f64,
        percent(store.cpu() - before.2),
    );

    let daemon = &daemons[0];
    let mut took = Vec::new();
    for index in 0..10_000 {
        let started = Instant::now();
        let (name, near, scope) = (name(index), &daemon.instance.host, Scope::Host(host(1)));
        let found = daemon.backend.find(&Search { name: &name, scope: &scope, near, most: 4 }).await;
        assert_eq!(found.expect("the store is up").items.len(), 1);
        took.push(started.elapsed());
    }
    took.sort_unstable();
    println!("look-up: p50 {:.0?}, p99 {:.0?}", took[took.len() / 2], took[took.len() * 99 / 100]);

    let started = Instant::now();
    let listed = daemon.backend.list(&Scope::Cluster).await.expect("the store is up").items.len();
    println!("list of {listed} names: {:.2?}", started.elapsed());

    store.tell_all(&["FLUSHALL"]);
    let started = Instant::now();
    let mut held = holdings(&daemon.leases);
    while !held.is_empty() {
        daemon.backend.renew(&mut held).await.expect("the store is up");
    }
    println!("restoring {NAMES} names: {:.2?}", started.elapsed());
}

impl Daemon {
    async fn renew_for_a_while(&self) {
        for _ in 0..INTERVALS {
            let mut held = holdings(&self.leases);
            while !held.is_empty() {
                let (started, left) = (Instant::now(), held.len());
                self.backend.renew(&mut held).await.expect("the store is up");
                let share = (left - held.len()) as f64 / NAMES as f64;
                tokio::time::sleep_until((started + INTERVAL.mul_f64(share)).into()).await;
            }
        }
    }
}

fn daemon(store: &Store, index: usize) -> Daemon {
    let settings = Settings::from_url(&store.url(), "bench", 3 * INTERVAL).expect("the URL is one");
    let instance = Instance {
        id: InstanceId::random(),
        name: format!("host{index}:4369"),
        host: host(index),
        aliases: vec![HostId::parse(&format!("host{index}.example.com")).expect("a host")],
        addresses: vec![[10, 0, 0, 1].into()],
        port: 4369,
    };
    let instance = Arc::new(instance);
    Daemon { backend: Redis::open(settings, Arc::clone(&instance)), instance, leases: Vec::new() }
}

fn holdings(leases: &[Lease]) -> Holdings<'_> {
    Holdings::new(leases.iter().cloned().map(Some))
}

fn claim(index: usize) -> Claim {
    Claim {
        number: index as u64,
        node: Node {
            name: name(index),
            port: 9100,
            node_type: NodeType::NORMAL,
            protocol: 0,
            highest_version: 6,
            lowest_version: 5,
            extra: Box::default(),
        },
        advertised_port: 9100,
        registered_at: SystemTime::now(),
        last: None,
    }
}

fn name(index: usize) -> AliveName {
    AliveName::parse(format!("worker-{index:05}").as_bytes()).expect("a name")
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
