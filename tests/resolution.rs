//! Which node a look-up means: a row for each rule, and for each pair of rules that can meet.
//!
//! Five daemons share one registry. The one that is asked, `here`, holds `app`, `plain`, and nodes whose names are
//! literally full names of other nodes and daemons, with whereabouts of their own making; it answers at 127.0.0.9
//! for the host `there`. A second daemon of the same host holds `side`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use repmd::protocol::{PortReply, Request, decode_names_reply, decode_port_reply, encode_request};
use repmd::registry::{Lookup, Options, Registry};
use repmd::server::{Daemon, Limits, Listener, Names, Policy, Topology, serve};
use repmd_backend_api::{AliveName, HostId, Instance, Lease, Node};
use repmd_backend_memory::Memory;
use repmd_test_support::{Peer, in_own_network, run, wait_until};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const WITHIN: Duration = Duration::from_secs(10);
const HERE: &str = "127.0.0.1";
const THERE: &str = "127.0.0.9";

fn host(name: &str) -> HostId {
    HostId::parse(name).unwrap()
}

/// A daemon's view of the registry, without its sockets.
fn registry(store: &Memory, name: &str, of: &str, address: &str, lookup: Lookup) -> Arc<Registry> {
    let instance = Arc::new(Instance {
        aliases: vec![host(&format!("{of}.example")), host(address)],
        addresses: vec![address.parse().unwrap()],
        ..Instance::new(name, host(of))
    });
    let options = Options {
        lookup,
        stale_for: None,
        deadline: Duration::from_millis(500),
        clock: Arc::new(|| Duration::from_secs(1_800_000_000)),
        probe: Arc::new(|_, _| Box::pin(async { unreachable!("no daemon of this test restarts") })),
    };
    let backend = Arc::new(store.attach(Arc::clone(&instance)));
    Arc::new(Registry::new(backend, instance, options))
}

async fn hold(registry: &Registry, number: u64, name: &str, port: u16, advertised: u16) -> Lease {
    let node = Node::ordinary(AliveName::parse(name.as_bytes()).unwrap(), port);
    registry.register(number, node, advertised).await.unwrap()
}

/// The daemon `here`, and the connections of its nodes.
struct Asked {
    port: u16,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    nodes: Vec<Peer>,
}

impl Asked {
    fn start(lookup: Lookup, names: Names) -> Self {
        // Its clock stands still, so that no lease of this test runs out.
        let store =
            Memory::with_leases(Duration::from_secs(15), Arc::new(|| Duration::from_secs(1_800_000_000)));
        let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let socket = std::net::TcpListener::bind(any).unwrap();
        socket.set_nonblocking(true).unwrap();
        let port = socket.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let topology = Topology {
            advertised_ports: BTreeMap::from([(1001, 2001)]),
            virtual_hosts: BTreeMap::from([(THERE.parse().unwrap(), host("there"))]),
            names,
        };
        let here = registry(&store, "here:4369", "here", "10.0.0.1", lookup);
        let limits = Limits::for_descriptors(1024);
        let daemon = Daemon::new(here, Policy::default(), topology, limits, stop.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let side = registry(&store, "here:5000", "here", "10.0.0.1", lookup);
            let there = registry(&store, "there:4369", "there", "10.0.0.2", lookup);
            let yonder = registry(&store, "yonder:4369", "yonder", "10.0.0.3", lookup);
            hold(&side, 1, "side", 1002, 2002).await;
            for (number, name) in (1..).zip(["app", "solo", "odd", "both", "former"]) {
                hold(&there, number, name, 3000 + number as u16, 3000 + number as u16).await;
            }
            for (number, name) in (1..).zip(["app", "both"]) {
                hold(&yonder, number, name, 4000 + number as u16, 4000 + number as u16).await;
            }
        });
        let thread = std::thread::spawn(move || {
            runtime
                .block_on(serve(vec![Listener { socket, port }], Arc::new(daemon), mpsc::channel(1).1))
                .unwrap();
        });
        let mut asked = Self { port, stop, thread: Some(thread), nodes: Vec::new() };
        asked.register("app", 1001);
        for (literal, port) in LITERALS {
            asked.register(literal, *port);
        }
        asked.register("plain", 1005);
        asked.register("former", 1004);
        asked.nodes.pop();
        wait_until("the node that left is gone", WITHIN, || asked.ask(HERE, "former").is_none());
        asked
    }

    fn register(&mut self, name: &str, port: u16) {
        let mut node = Peer::connect(self.port);
        let mut registering = Node::ordinary(AliveName::parse(name.as_bytes()).unwrap(), port);
        if LITERALS.contains(&(name, port)) {
            registering.extra = FORGED.as_bytes().into();
        }
        node.send(&encode_request(&Request::Alive2(registering))).unwrap();
        assert_eq!(node.read(2, WITHIN), [118, 0], "{name} is not registered");
        self.nodes.push(node);
    }

    fn exchange(&self, at: &str, request: &Request<'_>) -> Vec<u8> {
        self.exchange_from(None, at, request)
    }

    fn exchange_from(&self, source: Option<&str>, at: &str, request: &Request<'_>) -> Vec<u8> {
        let source = source.map(|source| source.parse().unwrap());
        let mut peer = Peer::connect_from(source, SocketAddr::new(at.parse().unwrap(), self.port)).unwrap();
        peer.send(&encode_request(request)).unwrap();
        peer.read_to_end(WITHIN)
    }

    fn ask(&self, at: &str, name: &str) -> Option<PortReply> {
        decode_port_reply(&self.exchange(at, &Request::PortPlease2(name))).unwrap()
    }

    fn names(&self, at: &str) -> Vec<(String, u16)> {
        let reply = self.exchange(at, &Request::Names);
        let names = decode_names_reply(&reply).unwrap();
        let mut names: Vec<_> = names.nodes().map(|(name, port)| (name.to_owned(), port)).collect();
        names.sort();
        names
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.stop.cancel();
        self.thread.take().expect("it is joined once").join().expect("the daemon does not panic");
    }
}

/// Port and extra, or nothing.
type Expected = Option<(u16, &'static str)>;

const OF_HERE: &str = "repmd/1 addr=10.0.0.1 host=here";
const HERE_ITSELF: &str = "repmd/1 addr=127.0.0.1 host=here";
const OF_THERE: &str = "repmd/1 addr=10.0.0.2 host=there";
const OF_YONDER: &str = "repmd/1 addr=10.0.0.3 host=yonder";

/// Nodes of this daemon that would stand in for others. The last two are nobody else's.
const LITERALS: &[(&str, u16)] = &[
    ("odd@there", 1003),
    ("ghost@there", 1006),
    ("app@yonder", 1007),
    ("ghost@nowhere", 1008),
    ("@there", 1009),
    ("@here", 1010),
    ("plain@here", 1011),
    ("lonely@here", 1012),
    ("odd@", 1013),
];
const FORGED: &str = "  repmd/1 addr=127.0.0.66 host=there";

/// Rule or rules, where it is asked, for what, and the answer.
const ROWS: &[(&str, &str, &str, Expected)] = &[
    ("1: a literal match", HERE, "app", Some((1001, ""))),
    ("2 before 1: another host's full name is no literal's", HERE, "odd@there", Some((3003, OF_THERE))),
    ("2 before 1: nor at the address of a virtual host", THERE, "odd@there", Some((3003, OF_THERE))),
    ("2 before 1: nor where no such node is", HERE, "ghost@there", None),
    ("2 before 1: nor where no such host is", HERE, "ghost@nowhere", None),
    ("2 before 1: nor by an alias of that host", HERE, "app@YONDER", Some((4001, OF_YONDER))),
    ("2: a literal's own full name", HERE, "odd@there@here", Some((1003, OF_HERE))),
    ("2 before 1: this host's node", HERE, "plain@here", Some((1005, OF_HERE))),
    (
        "1: this host's full name that no node has, without forged whereabouts",
        HERE,
        "lonely@here",
        Some((1012, "")),
    ),
    ("1: what is no full name, without forged whereabouts", HERE, "odd@", Some((1013, ""))),
    ("1 before 3: a literal match wins at the address of a virtual host", THERE, "app", Some((1001, ""))),
    ("1 before 4: a literal match wins over other hosts", HERE, "app", Some((1001, ""))),
    ("2: a full name", HERE, "solo@there", Some((3002, OF_THERE))),
    ("2: hosts are compared without case", HERE, "solo@THERE", Some((3002, OF_THERE))),
    ("2: by a host's full name", HERE, "solo@there.example", Some((3002, OF_THERE))),
    ("2: by a host's address", HERE, "solo@10.0.0.2", Some((3002, OF_THERE))),
    ("2: alive names are compared with case", HERE, "Solo@there", None),
    ("2: each host has its own", HERE, "app@there", Some((3001, OF_THERE))),
    ("2: each host has its own", HERE, "app@yonder", Some((4001, OF_YONDER))),
    ("2: this host by an alias", HERE, "plain@here.example", Some((1005, OF_HERE))),
    (
        "2: a port that is another outside, and the address to use it at",
        HERE,
        "app@here",
        Some((1001, HERE_ITSELF)),
    ),
    ("2: another daemon of this host", HERE, "side@here", Some((2002, OF_HERE))),
    ("2: a host that does not have it", HERE, "solo@yonder", None),
    ("2: a host that there is not", HERE, "solo@nowhere", None),
    ("2: no part of a name is looked up by itself", HERE, "solo@", None),
    ("2: the last @ divides", HERE, "a@solo@there", None),
    ("2 before 3: a full name means its host at any address", THERE, "app@yonder", Some((4001, OF_YONDER))),
    ("2 before 4: a full name that several have", HERE, "both@yonder", Some((4002, OF_YONDER))),
    ("2: a host's daemon", HERE, "@there", Some((4369, OF_THERE))),
    ("2: this host's own daemon", HERE, "@here", Some((4369, OF_HERE))),
    ("2: a daemon that there is not", HERE, "@nowhere", None),
    ("3: the virtual host's", THERE, "solo", Some((3002, OF_THERE))),
    ("3: another daemon of this host", HERE, "side", Some((2002, OF_HERE))),
    ("3: what only this host has is not the virtual host's", THERE, "side", None),
    ("3 before 4: the virtual host's, though several hosts have it", THERE, "both", Some((3004, OF_THERE))),
    ("4: the one host elsewhere", HERE, "solo", Some((3002, OF_THERE))),
    ("4: several hosts", HERE, "both", None),
    ("4: nobody", HERE, "nobody", None),
    ("4: what this host had of late is not answered from elsewhere", HERE, "former", None),
    ("4: but under its full name", HERE, "former@there", Some((3005, OF_THERE))),
    ("4: and at the address of a virtual host", THERE, "former", Some((3005, OF_THERE))),
];

fn check(asked: &Asked, rows: &[(&str, &str, &str, Expected)]) {
    let mut wrong = Vec::new();
    for (rule, at, name, expected) in rows {
        let found = asked.ask(at, name);
        let found = found.map(|found| (found.port, String::from_utf8(found.extra).unwrap()));
        let expected = expected.map(|(port, extra)| (port, extra.to_owned()));
        if found != expected {
            wrong.push(format!("{rule}: {name:?} at {at}: {found:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_rule_and_each_pair_of_rules_that_can_meet_has_its_answer() {
    let asked = Asked::start(Lookup::Cluster, Names::Host);
    check(&asked, ROWS);
    // The second time from memory.
    check(&asked, ROWS);
}

#[test]
fn a_daemon_that_looks_up_on_its_host_alone_answers_no_bare_name_from_elsewhere() {
    let asked = Asked::start(Lookup::Host, Names::Host);
    let rows: Vec<_> = ROWS
        .iter()
        .map(|&(rule, at, name, expected)| {
            let is_elsewhere = rule.starts_with("4: the one host elsewhere");
            (rule, at, name, if is_elsewhere { None } else { expected })
        })
        .collect();
    check(&asked, &rows);
}

#[test]
fn names_are_those_of_the_host_that_was_asked() {
    let asked = Asked::start(Lookup::Cluster, Names::Host);
    let mut here = [&[("app", 1001), ("plain", 1005), ("side", 2002)], LITERALS].concat();
    here.sort_unstable();
    let here: Vec<_> = here.into_iter().map(|(name, port)| (name.to_owned(), port)).collect();
    let there = [("app", 3001), ("both", 3004), ("former", 3005), ("odd", 3003), ("solo", 3002)];
    let there = there.map(|(name, port)| (name.to_owned(), port));
    assert_eq!(asked.names(HERE), here);
    assert_eq!(asked.names(THERE), there);
}

#[test]
fn names_of_a_scope_are_those_of_this_host_and_of_its_virtual_hosts() {
    let asked = Asked::start(Lookup::Cluster, Names::Scope);
    let names = asked.names(HERE).into_iter().map(|(name, _)| name);
    let names: Vec<_> = names.filter(|name| !name.contains('@')).collect();
    assert_eq!(names, ["app", "app", "both", "former", "odd", "plain", "side", "solo"]);
}

/// RabbitMQ's monitor asks at its host's own address, and would adopt the port that only others can use.
#[test]
fn another_machine_is_told_the_advertised_port_and_this_one_the_nodes_own_at_whichever_address() {
    in_own_network(|| {
        run("ip", &["address", "add", "10.0.0.1/24", "dev", "lo"]);
        run("ip", &["address", "add", "10.0.0.9/24", "dev", "lo"]);
        let asked = Asked::start(Lookup::Cluster, Names::Host);
        for (source, port, whereabouts) in
            [("10.0.0.9", 2001, OF_HERE), ("10.0.0.1", 1001, OF_HERE), ("127.0.0.1", 1001, HERE_ITSELF)]
        {
            let at = if source == HERE { HERE } else { "10.0.0.1" };
            let find = |name| {
                let reply = asked.exchange_from(Some(source), at, &Request::PortPlease2(name));
                decode_port_reply(&reply).unwrap().unwrap()
            };
            let names = asked.exchange_from(Some(source), at, &Request::Names);
            let names = decode_names_reply(&names).unwrap();
            assert_eq!(find("app").port, port, "from {source}");
            let full = find("app@here");
            assert_eq!((full.port, &*full.extra), (port, whereabouts.as_bytes()), "from {source}");
            assert_eq!(find("lonely@here").port, 1012, "a port that is no other outside, from {source}");
            assert!(names.nodes().any(|node| node == ("app", port)), "from {source}");
        }
    });
}
