//! The relay between sockets of this machine: what it moves, what it refuses, and when it ends.
//!
//! A daemon at 127.0.0.7 stands for the host `there`, whose nodes are at 127.0.0.8.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use repmd::registry::{Lookup, Options, Registry};
use repmd::relay::{self, Limits, Relay};
use repmd_backend_api::{AliveName, HostId, Instance, Lease, Node};
use repmd_backend_memory::Memory;
use repmd_test_support::wait_until;
use socket2::SockRef;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const WITHIN: Duration = Duration::from_secs(30);
const DOOR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 8));

/// A relay, the registry of the daemon that has it, and the daemon of the other host.
struct Gateway {
    relay: Arc<Relay>,
    there: Arc<Registry>,
    event_loop: Runtime,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    connected: AtomicU64,
}

fn registry(store: &Memory, host: &str, address: IpAddr) -> Arc<Registry> {
    let named = Instance::new(host, HostId::parse(host).unwrap());
    let instance = Arc::new(Instance { addresses: vec![address], ..named });
    let options = Options {
        lookup: Lookup::Cluster,
        stale_for: None,
        deadline: Duration::from_millis(500),
        clock: Arc::new(|| Duration::from_secs(1_800_000_000)),
        probe: Arc::new(|_, _| Box::pin(async { unreachable!("no daemon of this test restarts") })),
    };
    let backend = Arc::new(store.attach(Arc::clone(&instance)));
    Arc::new(Registry::new(backend, instance, options))
}

fn event_loop() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn limits() -> Limits {
    Limits {
        networks: vec!["127.0.0.8/32".parse().unwrap()],
        target_ports: 1..=u16::MAX,
        connections_per_peer_max: 8,
        idle_time: 2 * WITHIN,
        ports: None,
        connections_max: 8,
        listeners_max: 8,
    }
}

impl Gateway {
    fn start(limits: Limits) -> Self {
        Self::start_for(limits, |_| true)
    }

    fn start_for(limits: Limits, may_connect: fn(IpAddr) -> bool) -> Self {
        // Its clock stands still, so that no lease of this test runs out.
        let store =
            Memory::with_leases(Duration::from_secs(15), Arc::new(|| Duration::from_secs(1_800_000_000)));
        let here = registry(&store, "here", DOOR);
        let there = registry(&store, "there", THERE);
        let may_connect = Arc::new(move |peer, _| may_connect(peer));
        // All of them are addresses of this machine.
        let options = relay::Options { limits, may_connect, may_dial: Arc::new(|_| true) };
        let stop = CancellationToken::new();
        let (relay, thread) = Relay::start(Arc::clone(&here), options, stop.clone()).unwrap();
        // Keeps what it knows up to date, as in a daemon.
        let keeping = stop.clone();
        let keeper = std::thread::spawn(move || event_loop().block_on(here.keep(&keeping)));
        Self {
            relay,
            there,
            event_loop: event_loop(),
            stop,
            threads: vec![thread, keeper],
            connected: AtomicU64::new(0),
        }
    }

    /// Registers a node that listens on `port`.
    fn register(&self, number: u64, name: &str, port: u16) -> Lease {
        let node = Node::ordinary(AliveName::parse(name.as_bytes()).unwrap(), port);
        self.event_loop.block_on(self.there.register(number, node, port)).unwrap()
    }

    /// The port that leads to the node of `lease`.
    fn port_of(&self, lease: &Lease) -> Option<u16> {
        self.relay.port_of(DOOR, &HostId::parse("there").unwrap(), &lease.registration)
    }

    /// A new node, and a connection to it by way of the relay: the side that dialled, then the node's.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let node = listen();
        let number = 100 + self.connected.fetch_add(1, Ordering::Relaxed);
        let lease = self.register(number, &format!("node{number}"), node.local_addr().unwrap().port());
        let dialler = dial(self.port_of(&lease).unwrap());
        let (accepted, _) = node.accept().unwrap();
        accepted.set_read_timeout(Some(WITHIN)).unwrap();
        (dialler, accepted)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            thread.join().expect("no thread of a daemon panics");
        }
    }
}

fn listen() -> TcpListener {
    let listener = TcpListener::bind((THERE, 0)).unwrap();
    // For accepting.
    SockRef::from(&listener).set_read_timeout(Some(WITHIN)).unwrap();
    listener
}

fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect((DOOR, port)).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream
}

/// What comes up to the end.
fn rest(mut stream: &TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}

/// Expects a reset rather than bytes or an end.
fn expect_reset(mut stream: &TcpStream) {
    let error = stream.read(&mut [0]).expect_err("the connection is reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// Fills every buffer on the way, and says how much that was. The other side reads nothing.
fn fill(mut stream: &TcpStream) -> usize {
    let (mut filled, chunk) = (0, [7; 1 << 16]);
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    loop {
        match stream.write(&chunk) {
            Ok(written) => filled += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return filled,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn bytes_arrive_whole_both_ways_at_once() {
    let gateway = Gateway::start(limits());
    let (dialler, node) = gateway.connect();
    // Odd, so that chunks do not fall on pages.
    let bytes: Vec<u8> = (0..20_000_003_u32).map(|number| (number.wrapping_mul(number) >> 7) as u8).collect();
    std::thread::scope(|scope| {
        for (from, to) in [(&dialler, &node), (&node, &dialler)] {
            let (mut from, bytes) = (from, &bytes);
            scope.spawn(move || {
                from.write_all(bytes).unwrap();
                from.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || assert!(rest(to) == *bytes, "other bytes than were sent"));
        }
    });
    let stats = gateway.relay.stats();
    assert_eq!((stats.connections.get(), stats.bytes_to_nodes.get()), (1, bytes.len() as u64));
    assert_eq!(stats.bytes_from_nodes.get(), bytes.len() as u64);
    wait_until("the connection has ended", WITHIN, || gateway.relay.connections() == 0);
}

#[test]
fn a_side_that_has_said_its_last_is_still_answered() {
    let gateway = Gateway::start(limits());
    for _ in 0..2 {
        let (mut dialler, mut node) = gateway.connect();
        dialler.write_all(b"question").unwrap();
        dialler.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&node), b"question");
        node.write_all(b"answer").unwrap();
        drop(node);
        assert_eq!(rest(&dialler), b"answer");
    }
}

#[test]
fn a_reset_of_one_side_is_seen_by_the_other_at_once() {
    let gateway = Gateway::start(limits());
    for turn in [false, true] {
        let (dialler, node) = gateway.connect();
        let (first, second) = if turn { (node, dialler) } else { (dialler, node) };
        SockRef::from(&first).set_linger(Some(Duration::ZERO)).unwrap();
        drop(first);
        expect_reset(&second);
    }
}

#[test]
fn a_reset_is_seen_though_the_other_side_has_stopped_reading() {
    let gateway = Gateway::start(limits());
    let (dialler, node) = gateway.connect();
    fill(&dialler);
    SockRef::from(&dialler).set_linger(Some(Duration::ZERO)).unwrap();
    drop(dialler);
    wait_until("the connection has ended", WITHIN, || gateway.relay.connections() == 0);
    drop(node);
}

#[test]
fn one_who_does_not_read_holds_nobody_else_up() {
    let gateway = Gateway::start(limits());
    let (stuck, _node) = gateway.connect();
    let filled = fill(&stuck);
    assert!(1 << 16 < filled, "{filled}");
    let (mut dialler, mut node) = gateway.connect();
    for _ in 0..100 {
        dialler.write_all(b"ping").unwrap();
        node.read_exact(&mut [0; 4]).unwrap();
        node.write_all(b"pong").unwrap();
        dialler.read_exact(&mut [0; 4]).unwrap();
    }
}

#[test]
fn a_node_that_restarts_on_another_port_is_reached_at_the_same_door() {
    let gateway = Gateway::start(limits());
    let (first, second) = (listen(), listen());
    let lease = gateway.register(1, "node", first.local_addr().unwrap().port());
    let door = gateway.port_of(&lease).unwrap();
    drop(dial(door));
    first.accept().unwrap();
    gateway.event_loop.block_on(gateway.there.release(&lease));
    let lease = gateway.register(2, "node", second.local_addr().unwrap().port());
    assert_eq!(gateway.port_of(&lease), Some(door));
    let restarted = std::thread::spawn(move || second.accept().unwrap().0.write_all(b"!").unwrap());
    drop(first);
    wait_until("the node is reached at its new port", WITHIN, || {
        dial(door).read(&mut [0]).is_ok_and(|read| read == 1)
    });
    restarted.join().unwrap();
}

#[test]
fn a_node_outside_of_the_networks_is_not_relayed_and_counted() {
    let networks = vec!["10.0.0.0/8".parse().unwrap()];
    let gateway = Gateway::start(Limits { networks, ..limits() });
    let node = listen();
    let lease = gateway.register(1, "node", node.local_addr().unwrap().port());
    assert_eq!(gateway.port_of(&lease), None);
    assert_eq!(gateway.relay.stats().refused.network.get(), 1);
    assert_eq!(gateway.relay.listeners(), 0);
}

#[test]
fn a_port_that_may_not_be_dialled_is_not_relayed_though_a_local_process_registers_it() {
    let gateway = Gateway::start(Limits { target_ports: 1024..=u16::MAX, ..limits() });
    assert_eq!(gateway.port_of(&gateway.register(1, "sshd", 22)), None);
    assert_eq!(gateway.relay.stats().refused.network.get(), 1);
    assert!(gateway.port_of(&gateway.register(2, "node", 1024)).is_some());
}

#[test]
fn one_address_does_not_hold_all_connections() {
    let gateway = Gateway::start(Limits { connections_per_peer_max: 1, ..limits() });
    let first = gateway.connect();
    let lease = gateway.register(2, "other", 1);
    let door = gateway.port_of(&lease).unwrap();
    expect_reset(&dial(door));
    assert_eq!(gateway.relay.stats().refused.connections.get(), 1);
    drop(first);
    wait_until("there is room again", WITHIN, || gateway.relay.connections() == 0);
    gateway.connect();
}

#[test]
fn a_connection_on_which_nothing_is_sent_ends_and_one_that_ticks_does_not() {
    let gateway = Gateway::start(Limits { idle_time: Duration::from_millis(500), ..limits() });
    let (idle, _node) = gateway.connect();
    let (mut dialler, mut node) = gateway.connect();
    for _ in 0..15 {
        dialler.write_all(b"tick").unwrap();
        node.read_exact(&mut [0; 4]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    expect_reset(&idle);
    dialler.write_all(b"tick").unwrap();
    node.read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn connections_beyond_the_limit_are_reset_at_once_and_others_live_on() {
    let gateway = Gateway::start(Limits { connections_max: 1, ..limits() });
    let (mut dialler, mut node) = gateway.connect();
    let lease = gateway.register(2, "other", 1);
    expect_reset(&dial(gateway.port_of(&lease).unwrap()));
    assert_eq!(gateway.relay.stats().refused.connections.get(), 1);
    dialler.write_all(b"on").unwrap();
    node.read_exact(&mut [0; 2]).unwrap();
    drop((dialler, node));
    wait_until("there is room again", WITHIN, || gateway.relay.connections() == 0);
    gateway.connect();
}

/// Many names of one host kept all others out.
#[test]
fn the_door_that_was_asked_for_least_recently_gives_way() {
    let gateway = Gateway::start(Limits { listeners_max: 2, ..limits() });
    let (first, second) = (gateway.register(1, "first", 1), gateway.register(2, "second", 1));
    let third = gateway.register(3, "third", 1);
    let (first_door, second_door) = (gateway.port_of(&first), gateway.port_of(&second).unwrap());
    assert_eq!(gateway.port_of(&first), first_door);
    assert!(gateway.port_of(&third).is_some());
    wait_until("nobody listens any longer", WITHIN, || TcpStream::connect((DOOR, second_door)).is_err());
    assert_eq!(gateway.port_of(&first), first_door, "it was asked for more recently");
    assert_eq!(gateway.relay.listeners(), 2);
    assert_eq!(gateway.relay.stats().refused.listeners.get(), 0);
}

#[test]
fn a_node_whose_door_gave_way_has_another_one_that_stays() {
    let gateway = Gateway::start(Limits { listeners_max: 1, ..limits() });
    let (node, others) = (listen(), gateway.register(2, "other", 1));
    let lease = gateway.register(1, "node", node.local_addr().unwrap().port());
    for _ in 0..50 {
        gateway.port_of(&lease).unwrap();
        gateway.port_of(&others).unwrap();
    }
    let door = gateway.port_of(&lease).unwrap();
    let _dialler = dial(door);
    node.accept().unwrap();
    assert_eq!((gateway.port_of(&lease), gateway.relay.listeners()), (Some(door), 1));
}

#[test]
fn no_door_gives_way_that_has_a_connection() {
    let gateway = Gateway::start(Limits { listeners_max: 1, ..limits() });
    let (mut dialler, mut node) = gateway.connect();
    let other = gateway.register(2, "other", 1);
    assert_eq!(gateway.port_of(&other), None);
    assert_eq!(gateway.relay.stats().refused.listeners.get(), 1);
    dialler.write_all(b"on").unwrap();
    node.read_exact(&mut [0; 2]).unwrap();
    drop((dialler, node));
    wait_until("the connection has ended", WITHIN, || gateway.port_of(&other).is_some());
    assert_eq!(gateway.relay.listeners(), 1);
}

#[test]
fn doors_are_at_the_ports_that_were_given_and_no_others() {
    let taken = TcpListener::bind((DOOR, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let gateway = Gateway::start(Limits { ports: Some(port..=port), ..limits() });
    let lease = gateway.register(1, "node", 1);
    assert_eq!(gateway.port_of(&lease), None, "its only port is taken");
    drop(taken);
    assert_eq!(gateway.port_of(&lease), Some(port));
}

/// Each look-up tried all of them while everybody waited.
#[test]
fn a_look_up_tries_few_ports_of_others_and_the_next_one_goes_on_behind_them() {
    let ports = 21_000..=21_039;
    let taken: Vec<_> = (21_000..21_020).map(|port| TcpListener::bind((DOOR, port)).unwrap()).collect();
    let gateway = Gateway::start(Limits { ports: Some(ports), listeners_max: 100, ..limits() });
    let lease = gateway.register(1, "node", 1);
    assert_eq!(gateway.port_of(&lease), None, "the first sixteen are taken");
    assert_eq!(gateway.port_of(&lease), Some(21_020), "four more are taken");
    let others = (2..21).map(|number| gateway.register(number, &format!("node{number}"), 1));
    let doors: Vec<_> = others.map(|lease| gateway.port_of(&lease)).collect();
    assert_eq!(doors, (21_021..21_040).map(Some).collect::<Vec<_>>());
    drop(taken);
    let last = gateway.register(30, "last", 1);
    assert_eq!(gateway.port_of(&last), Some(21_000), "one that became free");
}

#[test]
fn a_peer_that_may_not_look_up_may_not_dial_either() {
    let gateway = Gateway::start_for(limits(), |peer| peer != THERE);
    let lease = gateway.register(1, "node", listen().local_addr().unwrap().port());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(THERE, 0).into()).unwrap();
    socket.connect(&SocketAddr::new(DOOR, gateway.port_of(&lease).unwrap()).into()).unwrap();
    expect_reset(&socket.into());
    assert_eq!(gateway.relay.stats().refused.peer.get(), 1);
}

#[test]
fn one_who_dials_a_node_that_does_not_listen_is_told_at_once() {
    let gateway = Gateway::start(limits());
    let port = listen().local_addr().unwrap().port();
    let lease = gateway.register(1, "node", port);
    expect_reset(&dial(gateway.port_of(&lease).unwrap()));
    assert_eq!(gateway.relay.stats().refused.unreachable.get(), 1);
}

#[test]
fn a_door_goes_with_its_node_and_connections_live_on() {
    let gateway = Gateway::start(limits());
    let node = listen();
    let lease = gateway.register(1, "node", node.local_addr().unwrap().port());
    let door = gateway.port_of(&lease).unwrap();
    let mut dialler = dial(door);
    let (mut accepted, _) = node.accept().unwrap();
    gateway.event_loop.block_on(gateway.there.release(&lease));
    wait_until("nobody listens any longer", WITHIN, || TcpStream::connect((DOOR, door)).is_err());
    // It is counted until it is closed.
    wait_until("none is counted", WITHIN, || gateway.relay.listeners() == 0);
    dialler.write_all(b"on").unwrap();
    accepted.read_exact(&mut [0; 2]).unwrap();
}

#[test]
fn the_end_of_the_relay_ends_its_connections_on_both_sides() {
    let gateway = Gateway::start(limits());
    let (dialler, node) = gateway.connect();
    drop(gateway);
    assert_eq!((rest(&dialler), rest(&node)), (Vec::new(), Vec::new()));
}
