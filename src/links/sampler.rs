//! One look at the connections of this daemon's nodes.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::Registration;

use super::processes::Processes;
use super::report::{Ends, Incoming, Outgoing, Owner, Report, Sighted, Source};
use super::sockets::{Socket, established};

/// A node of this daemon.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) registration: Arc<Registration>,
    /// Its connection to the daemon, seen from the daemon.
    pub(super) alive: Option<Ends>,
    /// Whether it is no hidden node, as far as it has been asked.
    pub(super) is_published: Option<bool>,
}

/// Looks again and again, and remembers what does not change.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    samples: u64,
    processes: Processes,
    /// How long going through processes took in the last look, for which looks are not counted.
    pub(super) in_processes: Duration,
}

impl Sampler {
    /// What is seen now of these nodes, and of their links to those elsewhere.
    pub(super) fn look(&mut self, own: &[Own], elsewhere: &[Arc<Registration>]) -> Report {
        self.samples += 1;
        let targets = Targets::new(elsewhere);
        let mut ports = targets.ports.clone();
        ports.extend(own.iter().map(|node| node.registration.node.port));
        ports.extend(own.iter().filter_map(|node| Some(node.alive?.local.port())));
        let (source, sockets) = match established(&ports) {
            Ok((source, sockets)) => (Ok(source), sockets),
            Err(error) => (Err(crate::printable::in_words(&error)), Vec::new()),
        };
        let mut looked = Looked::new(own, &sockets, &targets);
        self.in_processes = self.processes.follow(&looked.inodes());
        looked.tell_dialler(|one, other| self.processes.are_of_one(one, other));
        looked.report(self.samples, source)
    }
}

/// Where nodes of other daemons listen.
#[derive(Debug)]
struct Targets {
    ports: HashSet<u16>,
    addresses: HashSet<SocketAddr>,
}

impl Targets {
    fn new(elsewhere: &[Arc<Registration>]) -> Self {
        let ports = |node: &Registration| [node.node.port, node.advertised_port];
        let addresses = elsewhere.iter().flat_map(|node| {
            let at = |address: &IpAddr| ports(node).map(|port| SocketAddr::new(*address, port));
            node.instance.addresses.iter().flat_map(at).collect::<Vec<_>>()
        });
        Self {
            addresses: addresses.collect(),
            ports: elsewhere.iter().flat_map(|node| ports(node)).collect(),
        }
    }
}

/// The nodes and connections of one look.
struct Looked<'a> {
    own: &'a [Own],
    /// The socket of each node's connection to the daemon: without one, the node is elsewhere.
    alive: Vec<Option<&'a Socket>>,
    incoming: Vec<(usize, &'a Socket)>,
    outgoing: Vec<(Vec<usize>, &'a Socket)>,
}

impl<'a> Looked<'a> {
    fn new(own: &'a [Own], sockets: &'a [Socket], targets: &Targets) -> Self {
        let by_ends: HashMap<Ends, &Socket> = sockets.iter().map(|socket| (socket.ends, socket)).collect();
        let mut alive: Vec<_> =
            own.iter().map(|node| by_ends.get(&node.alive?.reversed()).copied()).collect();
        // Two nodes of this namespace at one port, each at an address of its own: nobody says which is which.
        let mut at_port = HashMap::<u16, usize>::new();
        let mut twice = HashSet::new();
        for (number, node) in own.iter().enumerate().filter(|(number, _)| alive[*number].is_some()) {
            if at_port.insert(node.registration.node.port, number).is_some() {
                twice.insert(node.registration.node.port);
            }
        }
        for (number, node) in own.iter().enumerate() {
            if twice.contains(&node.registration.node.port) {
                alive[number] = None;
            }
        }
        at_port.retain(|port, _| !twice.contains(port));

        let mut by_owner = HashMap::<Owner, Vec<usize>>::new();
        for (number, socket) in alive.iter().enumerate() {
            if let Some(socket) = socket {
                by_owner.entry(socket.owner).or_default().push(number);
            }
        }
        let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
        for socket in sockets {
            let Ends { local, remote } = socket.ends;
            if let Some(node) = at_port.get(&local.port()) {
                incoming.push((*node, socket));
                continue;
            }
            let is_here =
                at_port.contains_key(&remote.port()) && by_ends.contains_key(&socket.ends.reversed());
            let is_target = is_here || targets.addresses.contains(&remote);
            let diallers = by_owner.get(&socket.owner).cloned().unwrap_or_default();
            // At an address that nobody has told, only the other end knows whether it is a link.
            if is_target || targets.ports.contains(&remote.port()) && !diallers.is_empty() {
                outgoing.push((diallers, socket));
            }
        }
        Self { own, alive, incoming, outgoing }
    }

    /// The sockets whose processes would tell more.
    fn inodes(&self) -> HashSet<u64> {
        let diallers: HashSet<usize> = self.outgoing.iter().flat_map(|(nodes, _)| nodes).copied().collect();
        let alive = diallers.into_iter().filter_map(|node| Some(self.alive[node]?.inode));
        let dialled = self.outgoing.iter().filter(|(nodes, _)| !nodes.is_empty());
        alive.chain(dialled.map(|(_, socket)| socket.inode)).collect()
    }

    /// Leaves of the nodes that may have dialled the one whose process did, where that is known.
    fn tell_dialler(&mut self, are_of_one_process: impl Fn(u64, u64) -> Option<bool>) {
        for (nodes, socket) in &mut self.outgoing {
            let told = |node: &usize| are_of_one_process(self.alive[*node]?.inode, socket.inode);
            if let Some(dialler) = nodes.iter().copied().find(|node| told(node) == Some(true)) {
                *nodes = vec![dialler];
            } else {
                nodes.retain(|node| told(node).is_none());
            }
        }
    }

    fn report(self, sample: u64, source: Result<Source, String>) -> Report {
        let sighted = |(node, alive): (&Own, &Option<&Socket>)| Sighted {
            name: node.registration.node.name.as_str().to_owned(),
            creation: node.registration.creation.get(),
            is_seen: alive.is_some(),
            is_published: node.is_published,
        };
        Report {
            sample,
            source,
            nodes: self.own.iter().zip(&self.alive).map(sighted).collect(),
            incoming: self
                .incoming
                .into_iter()
                .map(|(node, socket)| Incoming { node, ends: socket.ends, quality: socket.quality })
                .collect(),
            outgoing: self
                .outgoing
                .into_iter()
                .map(|(nodes, socket)| Outgoing { nodes, ends: socket.ends, quality: socket.quality })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::registration;
    use super::*;

    fn ends(local: &str, remote: &str) -> Ends {
        Ends::new(local.parse().unwrap(), remote.parse().unwrap())
    }

    fn socket(local: &str, remote: &str, cgroup: u64, inode: u64) -> Socket {
        let owner = Owner { uid: 1, cgroup: Some(cgroup) };
        Socket { ends: ends(local, remote), owner, inode, quality: None }
    }

    /// A node at `port`, whose connection to the daemon comes from the port `from`.
    fn own(name: &str, port: u16, from: u16) -> Own {
        let alive = Some(ends("127.0.0.1:4369", &format!("127.0.0.1:{from}")));
        Own { registration: registration("a", name, port), alive, is_published: None }
    }

    fn alive(from: u16, cgroup: u64, inode: u64) -> Socket {
        socket(&format!("127.0.0.1:{from}"), "127.0.0.1:4369", cgroup, inode)
    }

    fn look(
        own: &[Own],
        sockets: &[Socket],
        elsewhere: &[Arc<Registration>],
        are_of_one: impl Fn(u64, u64) -> Option<bool>,
    ) -> Report {
        let mut looked = Looked::new(own, sockets, &Targets::new(elsewhere));
        looked.tell_dialler(are_of_one);
        looked.report(1, Ok(Source::Netlink))
    }

    fn diallers(report: &Report) -> Vec<Vec<usize>> {
        report.outgoing.iter().map(|link| link.nodes.clone()).collect()
    }

    #[test]
    fn the_dialler_is_who_has_the_same_user_and_control_group() {
        let own = [own("one", 9100, 50_001), own("two", 9101, 50_002)];
        let elsewhere = [registration("b", "three", 9100)];
        let to_b = |cgroup| socket("10.0.0.1:40000", "10.0.0.2:9100", cgroup, 9);
        let sockets = |cgroup| [alive(50_001, 7, 1), alive(50_002, 8, 2), to_b(cgroup)];
        for (cgroup, expected) in [(7, vec![0]), (8, vec![1]), (9, vec![])] {
            let report = look(&own, &sockets(cgroup), &elsewhere, |_, _| None);
            assert_eq!(diallers(&report), [expected]);
            assert!(report.nodes.iter().all(|node| node.is_seen));
        }
    }

    #[test]
    fn of_nodes_that_share_a_control_group_each_may_have_dialled_unless_processes_can_be_seen() {
        let own = [own("one", 9100, 50_001), own("two", 9101, 50_002)];
        let elsewhere = [registration("b", "three", 9100)];
        let sockets =
            [alive(50_001, 7, 1), alive(50_002, 7, 2), socket("10.0.0.1:40000", "10.0.0.2:9100", 7, 9)];
        let with = |are_of_one: fn(u64, u64) -> Option<bool>| {
            diallers(&look(&own, &sockets, &elsewhere, are_of_one))
        };
        assert_eq!(with(|_, _| None), [vec![0, 1]]);
        assert_eq!(with(|alive, _| Some(alive == 2)), [vec![1]]);
        // Somebody else of the same group, such as a shell.
        assert_eq!(with(|_, _| Some(false)), [Vec::<usize>::new()]);
        assert_eq!(with(|alive, _| (alive == 2).then_some(false)), [vec![0]]);
    }

    #[test]
    fn a_connection_to_a_registered_port_is_a_link_of_its_node() {
        let own = [own("one", 9100, 50_001)];
        let sockets = [alive(50_001, 7, 1), socket("10.0.0.1:9100", "10.0.0.2:40000", 7, 3)];
        let report = look(&own, &sockets, &[], |_, _| None);
        assert_eq!(report.incoming.iter().map(|link| link.node).collect::<Vec<_>>(), [0]);
        assert_eq!(report.outgoing, []);
    }

    #[test]
    fn a_node_of_another_network_namespace_is_not_seen_and_takes_no_ones_links() {
        let own = [own("here", 9100, 50_001), own("elsewhere", 9100, 50_002)];
        let sockets = [alive(50_001, 7, 1), socket("10.0.0.1:9100", "10.0.0.2:40000", 7, 3)];
        let report = look(&own, &sockets, &[], |_, _| None);
        assert_eq!(report.nodes.iter().map(|node| node.is_seen).collect::<Vec<_>>(), [true, false]);
        assert_eq!(report.incoming.len(), 1);
        // In this namespace too, at another address: nobody can say whose a link is.
        let both = [&sockets[..], &[alive(50_002, 7, 2)]].concat();
        let report = look(&own, &both, &[], |_, _| None);
        assert_eq!((report.nodes.iter().any(|node| node.is_seen), report.incoming.len()), (false, 0));
    }

    /// Of `docs/performance.md`: `cargo test --release --lib a_look_at -- --ignored --nocapture`.
    #[test]
    #[ignore = "it makes a figure, of a release build on a machine that does nothing else"]
    fn a_look_at_a_thousand_links() {
        use std::net::{TcpListener, TcpStream};
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (daemon, node, peer) = (bind(), bind(), bind());
        let port = |socket: &TcpListener| socket.local_addr().unwrap().port();
        let link = |to: &TcpListener| {
            let dialled = TcpStream::connect(to.local_addr().unwrap()).unwrap();
            (dialled, to.accept().unwrap().0)
        };
        let alive = [link(&daemon), link(&daemon)];
        let links: Vec<_> = (0..500).map(|_| [link(&node), link(&peer)]).collect();
        let own = [("node", port(&node)), ("peer", port(&peer))].into_iter().zip(&alive).map(
            |((name, port), alive)| {
                let ends = Ends::new(alive.1.local_addr().unwrap(), alive.1.peer_addr().unwrap());
                Own { registration: registration("a", name, port), alive: Some(ends), is_published: None }
            },
        );
        let own: Vec<_> = own.collect();
        let mut sampler = Sampler::default();
        let first = sampler.look(&own, &[]);
        assert_eq!((first.incoming.len(), first.outgoing.len()), (2 * links.len(), 2 * links.len()));
        let looks = 200;
        let before = super::super::thread_cpu();
        (0..looks).for_each(|_| drop(sampler.look(&own, &[])));
        let look = (super::super::thread_cpu() - before) / looks;
        let note = first.encode().len();
        eprintln!(
            "a look at 1,000 links, both ends here: {look:?}, {:.3} % of a core; a note of {note} bytes",
            look.as_secs_f64() / 5.0 * 100.0
        );
        assert!(look.as_millis() < 5);
    }

    #[test]
    fn what_a_node_dials_beside_nodes_is_no_link() {
        let own = [own("one", 9100, 50_001)];
        let elsewhere = [registration("b", "three", 9100)];
        let sockets = [
            alive(50_001, 7, 1),
            socket("10.0.0.1:40000", "10.0.0.9:5432", 7, 9),
            // At the port of a node, where nobody has told of one, by somebody who is no node.
            socket("10.0.0.1:40001", "10.0.0.9:9100", 8, 9),
        ];
        assert_eq!(look(&own, &sockets, &elsewhere, |_, _| None).outgoing, []);
    }
}
