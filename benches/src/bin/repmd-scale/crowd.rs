//! Many daemons in one process, as far as a store sees them.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream;
use repmd::registry::{Lookup, Options, Registry, What};
use repmd_backend_api::{AliveName, HostId, Instance, InstanceId, Kind, Node, Place, RegistryBackend};
use repmd_backend_redis::RedisKind;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::LEASE_TTL;

/// Nodes of one process that register at the same time.
const STORM: usize = 100;

/// As the daemon has it.
const DEADLINE: Duration = Duration::from_millis(500);

/// What a probe is called begins with this; the rest is its number.
const PROBE: &str = "probe-";

/// Something that a daemon of the crowd has seen.
enum Saw {
    /// The probe of this number, so long after it was sent.
    Probe(usize, Duration),
    /// That the store is away.
    StoreAway(usize),
}

/// Does what the lines on the standard input say, until they end.
pub(crate) async fn run(url: &str, which: Range<usize>, names: usize) {
    let (saw, mut seen) = mpsc::unbounded_channel();
    let registries: Vec<_> = which.clone().map(|index| start(url, index, &saw)).collect();
    let (mut heard, mut away) = (HashMap::<usize, Vec<Duration>>::new(), BTreeSet::new());
    let mut refused = 0;
    let (read, mut lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).all(|line| read.send(line).is_ok())
    });
    while let Some(line) = lines.recv().await {
        while let Ok(saw) = seen.try_recv() {
            match saw {
                Saw::Probe(number, delay) => heard.entry(number).or_default().push(delay),
                Saw::StoreAway(daemon) => {
                    away.insert(daemon);
                }
            }
        }
        let mut words = line.split(' ');
        let command = words.next().unwrap_or_default();
        let mut number =
            || -> u64 { words.next().and_then(|word| word.parse().ok()).expect("a number follows") };
        match command {
            "register" => {
                let nodes =
                    (0..names).flat_map(|name| registries.iter().map(move |registry| (name, registry)));
                let granted = stream::iter(nodes).map(async |(index, registry)| {
                    let node = Node::ordinary(alive(&format!("worker-{index:05}")), 9100);
                    registry.register(index as u64, node, 9100).await.is_ok()
                });
                let granted: Vec<bool> = granted.buffer_unordered(STORM).collect().await;
                refused += granted.into_iter().filter(|granted| !granted).count();
                println!();
            }
            "probe" => {
                let probe = number();
                let sent = number();
                let node = Node::ordinary(alive(&format!("{PROBE}{probe}-{sent}")), 9100);
                refused +=
                    usize::from(registries[0].register(names as u64 + probe, node, 9100).await.is_err());
                println!();
            }
            "heard" => {
                let delays = heard.get(&(number() as usize)).map(Vec::as_slice).unwrap_or_default();
                println!(
                    "{}",
                    delays.iter().map(|delay| delay.as_nanos().to_string()).collect::<Vec<_>>().join(" ")
                );
            }
            "troubles" => {
                println!("{} {refused}", away.len());
                away.clear();
                refused = 0;
            }
            "end" => {
                println!();
                return;
            }
            other => panic!("unknown command {other:?}"),
        }
    }
}

/// A daemon of a host of its own, which tells what it sees.
fn start(url: &str, index: usize, saw: &mpsc::UnboundedSender<Saw>) -> Arc<Registry> {
    let instance = Arc::new(instance(index));
    let backend = open(url, &instance);
    let options = Options {
        lookup: Lookup::Host,
        stale_for: None,
        deadline: DEADLINE,
        clock: Arc::new(now),
        probe: Arc::new(|_, _| Box::pin(async { true })),
    };
    let registry = Arc::new(Registry::new(backend, instance, options));
    let (keeps, follows, saw) = (Arc::clone(&registry), Arc::clone(&registry), saw.clone());
    tokio::spawn(async move { keeps.keep(&CancellationToken::new()).await });
    tokio::spawn(async move { follow(&follows, index, &saw).await });
    registry
}

/// A daemon's handle to the store.
pub(crate) fn open(url: &str, instance: &Arc<Instance>) -> Arc<dyn RegistryBackend> {
    let place = Place { url: url.to_owned(), cluster: "scale".to_owned(), lease_ttl: LEASE_TTL };
    RedisKind.open(&place, Arc::clone(instance)).expect("the URL is one")
}

/// Passes on what the daemon hears.
async fn follow(registry: &Registry, index: usize, saw: &mpsc::UnboundedSender<Saw>) {
    let mut newest = registry.events().newest();
    let mut last = *newest.borrow();
    while newest.changed().await.is_ok() {
        for event in registry.events().since(last) {
            last = event.id;
            let seen = match event.what {
                What::Registered { node, .. } => probe(node.alive.as_str(), event.at),
                What::StoreLost { .. } => Some(Saw::StoreAway(index)),
                _ => None,
            };
            if let Some(seen) = seen {
                // Nobody listens any longer when the process ends.
                let _ = saw.send(seen);
            }
        }
    }
}

/// The probe of this name, as it was heard of at `at`.
fn probe(name: &str, at: Duration) -> Option<Saw> {
    let (number, sent) = name.strip_prefix(PROBE)?.split_once('-')?;
    let sent = Duration::from_nanos(sent.parse().ok()?);
    Some(Saw::Probe(number.parse().ok()?, at.saturating_sub(sent)))
}

pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

pub(crate) fn instance(index: usize) -> Instance {
    let host = format!("host{index}");
    Instance {
        id: InstanceId::random(),
        name: format!("{host}:4369"),
        host: HostId::parse(&host).expect("a host"),
        aliases: vec![HostId::parse(&format!("{host}.example.com")).expect("a host")],
        addresses: vec![[10, 0, (index >> 8) as u8, index as u8].into()],
        port: 4369,
    }
}

fn alive(name: &str) -> AliveName {
    AliveName::parse(name.as_bytes()).expect("a name")
}
