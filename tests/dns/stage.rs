//! Daemons of this process that answer by DNS, over a store of which others hold a part; and how they are asked.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use repmd::dns::{self, Rules};
use repmd::listen::Sockets;
use repmd::server::{Daemon, Limits, Policy, Topology};
use repmd_backend_api::{AliveName, HostId, Instance, Lease, Node, RegistryBackend};
use repmd_backend_faulty::{Faults, Faulty};
use repmd_backend_memory::Memory;
use repmd_test_support::{now, view, wait_for};
use tokio_util::sync::CancellationToken;

use crate::SOON;

pub(crate) const TTL: Duration = Duration::from_secs(3);

pub(crate) fn instance(host: &str, aliases: &[&str], addresses: &[&str]) -> Instance {
    Instance {
        aliases: aliases.iter().map(|alias| HostId::parse(alias).unwrap()).collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ..Instance::new(format!("{host}:4369"), HostId::parse(host).unwrap())
    }
}

pub(crate) fn options() -> dns::Options {
    dns::Options {
        addresses: Vec::new(),
        zones: vec![name("repmd"), name("cluster.example")],
        ttl: Duration::from_secs(1),
        negative_ttl: Duration::from_secs(2),
        forward: Vec::new(),
        rate: 1000,
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap()
}

/// A daemon of the host `here`, at 10.0.0.1 and 2001:db8::1, without a node of its own.
pub(crate) struct Face {
    pub(crate) asked: Asked,
    pub(crate) link: Faults,
    store: Memory,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

/// Where to ask.
#[derive(Clone, Copy)]
pub(crate) struct Asked(pub(crate) SocketAddr);

impl Face {
    pub(crate) fn start(options: dns::Options, policy: Policy) -> Self {
        Self::start_at("127.0.0.4:0", options, policy)
    }

    pub(crate) fn start_at(address: &str, options: dns::Options, policy: Policy) -> Self {
        Self::start_with(address, options, policy, Rules { virtual_hosts: Default::default() })
    }

    pub(crate) fn start_with(address: &str, options: dns::Options, policy: Policy, rules: Rules) -> Self {
        let store = Memory::with_leases(TTL, Arc::new(now));
        let own = Arc::new(instance("here", &["here.site"], &["10.0.0.1", "2001:db8::1"]));
        let faulty = Faulty::new(Arc::new(store.attach(Arc::clone(&own))), 1);
        let link = faulty.faults();
        let registry = Arc::new(view(Arc::new(faulty), own));
        let stop = CancellationToken::new();
        let limits = Limits::for_descriptors(1024);
        let daemon = Daemon::new(Arc::clone(&registry), policy, Topology::default(), limits, stop.clone());
        let sockets = both_kinds(address);
        let asked = Asked(sockets.udp[0].local_addr().unwrap());
        let answers = dns::start(sockets, options, rules, Arc::new(daemon), Arc::default()).unwrap();
        let keeping = stop.clone();
        let keeps = std::thread::spawn(move || block_on(registry.keep(&keeping)));
        Self { asked, link, store, stop, threads: vec![answers, keeps] }
    }

    /// Makes another host known for one lease.
    pub(crate) fn meet(&self, other: Instance) {
        block_on(self.store.attach(Arc::new(other)).publish(&[])).unwrap();
    }

    /// Registers a node on another host for one lease.
    pub(crate) fn register(&self, other: Instance, alive: &str, advertised_port: u16) -> Lease {
        let node = Node::ordinary(AliveName::parse(alive.as_bytes()).unwrap(), 7000);
        let other = Arc::new(other);
        let backend = Arc::new(self.store.attach(Arc::clone(&other)));
        block_on(view(backend, other).register(1, node, advertised_port)).unwrap()
    }

    pub(crate) fn release(&self, lease: &Lease) {
        let holder = self.store.attach(Arc::clone(&lease.registration.instance));
        block_on(holder.release(lease)).unwrap();
    }
}

impl Drop for Face {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || std::thread::panicking(), "a thread of the daemon failed");
        }
    }
}

/// Sockets with one number, which the system chooses for one kind: another test may have taken it for the other.
fn both_kinds(address: &str) -> Sockets {
    let ip = address.parse::<SocketAddr>().unwrap().ip();
    wait_for("a number is free for both kinds", SOON, || {
        let tcp = std::net::TcpListener::bind(address).unwrap();
        let port = tcp.local_addr().unwrap().port();
        drop(tcp);
        Sockets::bind("dns", &[SocketAddr::new(ip, port)]).ok()
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl Asked {
    /// Asks by UDP, without EDNS.
    pub(crate) fn ask(self, asked: &str, kind: RecordType) -> Message {
        self.ask_with(asked, kind, None)
    }

    /// Asks by UDP, saying that so many bytes can be taken.
    pub(crate) fn ask_with(self, asked: &str, kind: RecordType, edns: Option<u16>) -> Message {
        // As resolvers do: a question may be lost among many.
        let question = question(asked, kind, edns);
        let reply = (0..3).find_map(|_| self.send(&question)).expect("an answer");
        Message::from_vec(&reply).unwrap()
    }

    /// What comes back for a datagram within two seconds.
    pub(crate) fn send(self, packet: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind(if self.0.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.send_to(packet, self.0).unwrap();
        let mut buffer = vec![0; 65_535];
        let (length, from) = socket.recv_from(&mut buffer).ok()?;
        assert_eq!(from, self.0);
        buffer.truncate(length);
        Some(buffer)
    }

    /// Asks by TCP.
    pub(crate) fn ask_by_tcp(self, asked: &str, kind: RecordType) -> Message {
        let mut stream = TcpStream::connect(self.0).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let question = question(asked, kind, None);
        let length = u16::try_from(question.len()).unwrap();
        stream.write_all(&[&length.to_be_bytes(), &*question].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply).unwrap();
        Message::from_vec(&reply).unwrap()
    }
}

pub(crate) fn question(asked: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(name(asked), kind));
    message.metadata.recursion_desired = true;
    if let Some(max) = edns {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(max);
        message.edns = Some(edns);
    }
    message.to_vec().unwrap()
}

/// The addresses of an answer, sorted.
pub(crate) fn addresses(message: &Message) -> Vec<String> {
    let address = |data: &RData| data.ip_addr().as_ref().map(IpAddr::to_string);
    let mut found: Vec<_> = message.answers.iter().filter_map(|record| address(&record.data)).collect();
    found.sort();
    found
}
