//! What the registry costs: many daemons with their names against an etcd of their own, which writes to this machine's
//! disk.
//!
//! `cargo run --release -p repmd-backend-etcd --example leases`

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use repmd_backend_api::{
    AliveName, Claim, Holdings, HostId, Instance, InstanceId, Lease, Node, RegistryBackend, Renewal, Scope,
};
use repmd_backend_etcd::{Etcd, Settings};
use repmd_test_stores::Etcd as Store;

const DAEMONS: usize = 100;
const NAMES: usize = 172;
/// A third of the usual lease.
const INTERVAL: Duration = Duration::from_secs(5);
const INTERVALS: u32 = 6;
/// Registrations that are measured, one after the other.
const MEASURED: usize = 500;

struct Daemon {
    backend: Etcd,
    leases: Vec<Lease>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut store = Store::alone();
    let mut daemons: Vec<_> = (0..DAEMONS).map(|index| daemon(&store, index)).collect();
    let started = Instant::now();
    join_all(daemons.iter_mut().map(Daemon::register_all)).await;
    println!("{} registrations, {DAEMONS} at a time: {:.2?}", DAEMONS * NAMES, started.elapsed());

    join_all(daemons.iter().map(Daemon::renew)).await;
    for names in [NAMES, 1] {
        daemons.iter_mut().for_each(|daemon| daemon.leases.truncate(names));
        // The first round ends what is held no longer.
        join_all(daemons.iter().map(Daemon::renew)).await;
        let before = (Instant::now(), store.cpu());
        join_all(daemons.iter().enumerate().map(async |(index, daemon)| {
            tokio::time::sleep(INTERVAL * index as u32 / DAEMONS as u32).await;
            let mut pace = tokio::time::interval(INTERVAL);
            for _ in 0..INTERVALS {
                pace.tick().await;
                daemon.renew().await;
            }
        }))
        .await;
        let percent = 100.0 * (store.cpu() - before.1).as_secs_f64() / before.0.elapsed().as_secs_f64();
        println!("{DAEMONS} daemons renew {names} names each: the store uses {percent:.2} % of a core");
    }

    let mut took = Vec::new();
    for index in 0..MEASURED {
        let started = Instant::now();
        daemons[0].backend.register(&claim(NAMES + index)).await.expect("the store is up");
        took.push(started.elapsed());
    }
    took.sort_unstable();
    println!("registering: p50 {:.1?}, p99 {:.1?}", took[MEASURED / 2], took[MEASURED * 99 / 100]);

    store.restart_empty();
    let started = Instant::now();
    while daemons[1].backend.list(&Scope::Cluster).await.is_err() {
        tokio::time::sleep(INTERVAL / 500).await;
    }
    join_all(daemons.iter().map(Daemon::renew)).await;
    println!("{} daemons back after the store was emptied: {:.2?}", DAEMONS, started.elapsed());
}

impl Daemon {
    async fn register_all(&mut self) {
        for index in 0..NAMES {
            self.leases.push(self.backend.register(&claim(index)).await.expect("the store is up"));
        }
    }

    async fn renew(&self) {
        let mut held = Holdings::new(self.leases.iter().map(|lease| Some(lease.clone())));
        while {
            let renewed = self.backend.renew(&mut held).await.expect("the store is up");
            assert!(renewed.iter().all(|renewed| renewed.renewal == Renewal::Held), "{renewed:?}");
            !held.is_empty()
        } {}
    }
}

fn daemon(store: &Store, index: usize) -> Daemon {
    let settings = Settings::from_url(&store.url(), "bench", 3 * INTERVAL).expect("the URL is one");
    let instance = Instance {
        id: InstanceId::random(),
        name: format!("host{index}:4369"),
        host: HostId::parse(&format!("host{index}")).expect("a host"),
        aliases: vec![HostId::parse(&format!("host{index}.example.com")).expect("a host")],
        addresses: vec![[10, 0, 0, 1].into()],
        port: 4369,
    };
    Daemon { backend: Etcd::open(settings, Arc::new(instance)), leases: Vec::new() }
}

fn claim(index: usize) -> Claim {
    let name = AliveName::parse(format!("worker-{index:05}").as_bytes()).expect("a name");
    Claim {
        number: index as u64,
        node: Node::ordinary(name, 9100),
        advertised_port: 9100,
        registered_at: SystemTime::now(),
        last: None,
    }
}
