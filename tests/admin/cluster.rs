//! What a daemon shows that shares its registry with others.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use repmd::admin::{self, About};
use repmd::registry::Registry;
use repmd::server::{Daemon, Limits, Listener, Policy, Topology, serve};
use repmd_backend_api::{AliveName, HostId, Instance, Lease, Node};
use repmd_backend_faulty::{Faults, Faulty, Link};
use repmd_backend_memory::Memory;
use repmd_test_support::http::{EventStream, get};
use repmd_test_support::{now, view, wait_for, wait_until};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{SOON, json, names, register};

const TTL: Duration = Duration::from_secs(3);

fn instance(name: &str, host: &str) -> Instance {
    Instance {
        aliases: vec![HostId::parse(&format!("{host}.example")).unwrap()],
        addresses: vec!["10.0.0.1".parse().unwrap()],
        ..Instance::new(name, HostId::parse(host).unwrap())
    }
}

/// A daemon of the host `here` whose link to the store can be cut.
struct Shown {
    store: Memory,
    link: Faults,
    port: u16,
    admin: u16,
    stop: CancellationToken,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Shown {
    fn start() -> Self {
        let store = Memory::with_leases(TTL, Arc::new(now));
        let here = Arc::new(instance("here:4369", "here"));
        let faulty = Faulty::new(Arc::new(store.attach(Arc::clone(&here))), 1);
        let link = faulty.faults();
        let registry = Arc::new(view(Arc::new(faulty), here));
        let listen = || {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            let port = socket.local_addr().unwrap().port();
            (socket, port)
        };
        let ((socket, port), (admin_socket, admin)) = (listen(), listen());
        let stop = CancellationToken::new();
        let limits = Limits::for_descriptors(1024);
        let daemon = Arc::new(Daemon::new(
            Arc::clone(&registry),
            Policy::default(),
            Topology::default(),
            limits,
            stop.clone(),
        ));
        let (links, looks) = repmd::links::start(Arc::clone(&daemon)).unwrap();
        let about = About {
            settings: Vec::new(),
            cluster: "test".to_owned(),
            dns: Arc::default(),
            dns_zones: Vec::new(),
            links,
        };
        let shows = admin::start(admin_socket, None, Arc::clone(&daemon), about).unwrap();
        let keeping = stop.clone();
        let serves = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let kept = tokio::spawn(async move { registry.keep(&keeping).await });
                serve(vec![Listener { socket, port }], daemon, mpsc::channel(1).1).await.unwrap();
                kept.await.unwrap();
            });
        });
        Self { store, link, port, admin, stop, threads: vec![shows, looks, serves] }
    }

    /// Registers a node with another daemon, for one lease.
    fn register_elsewhere(&self, daemon: &str, host: &str, name: &str) -> (Registry, Lease) {
        let registered = self.try_register_elsewhere(daemon, host, name).expect("the name is free");
        // The daemon may have listed the cluster a moment ago, and hears of what is new.
        wait_until("it is shown", SOON, || {
            names(&json(self.admin, "/api/v1/nodes")).contains(&&*format!("{name}@{host}"))
        });
        registered
    }

    fn try_register_elsewhere(&self, daemon: &str, host: &str, name: &str) -> Option<(Registry, Lease)> {
        let daemon = Arc::new(instance(daemon, host));
        let registry = view(Arc::new(self.store.attach(Arc::clone(&daemon))), daemon);
        let node = Node::ordinary(AliveName::parse(name.as_bytes()).unwrap(), 7000);
        let lease = block_on(registry.register(1, node, 7001)).ok()?;
        Some((registry, lease))
    }

    fn node(&self, name: &str) -> Value {
        json(self.admin, &format!("/api/v1/nodes/{name}"))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.stop.cancel();
        self.threads.drain(..).for_each(|thread| thread.join().expect("no thread of the daemon panics"));
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn nodes_of_all_hosts_are_shown_with_their_daemons_and_leases() {
    let shown = Shown::start();
    let _here = register(shown.port, "rabbit");
    let (registry, lease) = shown.register_elsewhere("there:4369", "there", "rabbit");
    let list = json(shown.admin, "/api/v1/nodes");
    assert_eq!(names(&list), ["rabbit@here", "rabbit@there"]);
    let (here, there) = (shown.node("rabbit@here"), shown.node("rabbit@there.example"));
    assert_eq!((&here["daemon"], &here["is_here"]), (&"here:4369".into(), &true.into()));
    assert_eq!((&there["daemon"], &there["is_here"]), (&"there:4369".into(), &false.into()));
    assert_eq!((&there["port"], &there["advertised_port"]), (&7000.into(), &7001.into()));
    for node in [here, there] {
        let left = node["lease_left_ms"].as_u64().unwrap();
        assert!(0 < left && left <= 3000, "{node}");
    }
    // Nobody renews it, so it runs down, and out.
    let first = shown.node("rabbit@there")["lease_left_ms"].as_u64().unwrap();
    wait_until("it runs down", SOON, || {
        shown.node("rabbit@there")["lease_left_ms"].as_u64().unwrap() < first
    });
    block_on(registry.release(&lease));
    wait_until("it is gone", SOON, || get(shown.admin, "/api/v1/nodes/rabbit@there", &[]).status == 404);
    // What is renewed stays.
    assert!(0 < shown.node("rabbit@here")["lease_left_ms"].as_u64().unwrap());
}

#[test]
fn what_other_daemons_do_is_told_and_what_this_one_does_is_told_once() {
    let shown = Shown::start();
    let mut events = EventStream::open(shown.admin, "/api/v1/events", &[]);
    let mut next = || {
        let event = events.next_event().unwrap();
        let data: Value = serde_json::from_str(&event.data).unwrap();
        (event.kind, data["node"].as_str().unwrap().to_owned())
    };
    let expected = |kind: &str, node: &str| (kind.to_owned(), node.to_owned());
    // The daemon follows the store before it serves.
    let here = register(shown.port, "rabbit");
    assert_eq!(next(), expected("registered", "rabbit@here"));
    let (registry, lease) = shown.register_elsewhere("there:4369", "there", "hare");
    assert_eq!(next(), expected("registered", "hare@there"));
    block_on(registry.release(&lease));
    assert_eq!(next(), expected("released", "hare@there"));
    drop(here);
    assert_eq!(next(), expected("released", "rabbit@here"));
    let (_registry, _lease) = shown.register_elsewhere("there:4369", "there", "hare");
    assert_eq!(next(), expected("registered", "hare@there"));
    // Nobody renews it.
    assert_eq!(next(), expected("expired", "hare@there"));
}

#[test]
fn a_store_that_is_away_is_told_and_the_last_known_nodes_are_shown() {
    let shown = Shown::start();
    let _before = register(shown.port, "before");
    let (_registry, _lease) = shown.register_elsewhere("there:4369", "there", "hare");
    assert_eq!(json(shown.admin, "/api/v1/nodes")["total"], 2);
    assert_eq!(json(shown.admin, "/readyz")["ready"], true);
    let mut events = EventStream::open(shown.admin, "/api/v1/events", &[]);
    let mut kinds_until = |last: &str| {
        let mut kinds = Vec::new();
        while kinds.last().is_none_or(|kind| kind != last) {
            kinds.push(events.next_event().unwrap().kind);
        }
        kinds
    };

    shown.link.set_link(Link::Cut);
    assert_eq!(kinds_until("store_lost").last().unwrap(), "store_lost");
    wait_until("it is not ready", SOON, || get(shown.admin, "/readyz", &[]).status == 503);
    assert!(get(shown.admin, "/readyz", &[]).body.contains("the registry is away"));
    let _during = register(shown.port, "during");
    let list = json(shown.admin, "/api/v1/nodes");
    assert_eq!(list["is_stale"], true);
    assert_eq!(names(&list), ["before@here", "during@here", "hare@there"]);
    assert_eq!(shown.node("during@here")["state"], "unpublished");
    assert!(!json(shown.admin, "/api/v1/status")["registry"]["away"].is_null());
    let metrics = get(shown.admin, "/metrics", &[]).body;
    for line in
        ["repmd_registry_up 0.0", "repmd_ready 0.0", "repmd_nodes_not_published{state=\"unpublished\"} 1.0"]
    {
        assert!(metrics.lines().any(|shown| shown == line), "{line}:\n{metrics}");
    }

    shown.link.set_link(Link::Up);
    kinds_until("store_back");
    wait_until("it is ready", SOON, || get(shown.admin, "/readyz", &[]).status == 200);
    assert_eq!(shown.node("during@here")["state"], "published");
    wait_until("the list is current", SOON, || json(shown.admin, "/api/v1/nodes")["is_stale"] == false);
}

/// The store lost everything, and the name went to another daemon of the host.
#[test]
fn a_conflict_is_told_and_shown_with_the_other_holder() {
    let shown = Shown::start();
    let mut events = EventStream::open(shown.admin, "/api/v1/events", &[]);
    let _here = register(shown.port, "rabbit");
    // Before the daemon renews.
    let (_registry, _lease) = wait_for("another daemon takes the name", SOON, || {
        shown.store.lose_everything();
        shown.try_register_elsewhere("here:5000", "here", "rabbit")
    });
    let conflict = loop {
        let event = events.next_event().unwrap();
        if event.kind == "conflict" {
            break serde_json::from_str::<Value>(&event.data).unwrap();
        }
    };
    assert_eq!((&conflict["node"], &conflict["holder"]), (&"rabbit@here".into(), &"here:5000".into()));
    let node = shown.node("rabbit@here");
    assert_eq!((&node["state"], &node["holder"]), (&"conflict".into(), &"here:5000".into()));
    assert!(node["lease_left_ms"].is_null());
    let list = json(shown.admin, "/api/v1/nodes");
    let daemons: Vec<_> = list["nodes"].as_array().unwrap().iter().map(|node| &node["daemon"]).collect();
    assert_eq!(daemons, ["here:4369", "here:5000"]);
    // Told once the round is over in which it was found.
    wait_until("it is a reason not to be ready", SOON, || {
        get(shown.admin, "/readyz", &[]).body.contains("rabbit@here is also held by here:5000")
    });
}

#[test]
fn a_lookup_is_explained_by_where_its_answer_is_from() {
    let shown = Shown::start();
    let _here = register(shown.port, "rabbit");
    let (_registry, _lease) = shown.register_elsewhere("there:4369", "there", "hare");
    let lookup = |name: &str| json(shown.admin, &format!("/api/v1/lookups/{name}"));
    for name in ["rabbit", "rabbit@here.example"] {
        let answer = lookup(name);
        assert_eq!((&answer["from"], &answer["node"]), (&"here".into(), &"rabbit@here".into()), "{answer}");
    }
    let first = lookup("hare@there");
    assert_eq!((&first["from"], &first["port"]), (&"registry".into(), &7001.into()));
    assert_eq!((&first["daemon"], &first["addresses"][0]), (&"there:4369".into(), &"10.0.0.1".into()));
    // On a slow machine an answer may be too old to be used again.
    wait_until("an answer is remembered", SOON, || lookup("hare@there")["from"] == "cache");
    let absent = lookup("nobody@there");
    assert_eq!((&absent["is_found"], &absent["from"]), (&false.into(), &"registry".into()));
    shown.link.set_link(Link::Cut);
    wait_until("the store is known to be away", SOON, || lookup("hare@there")["from"] == "stale");
}
