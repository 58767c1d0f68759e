//! Machines that are cut off from the store, from the other machines, or from both: who is answered, and until
//! when, as `docs/failure-modes.md` says.

use std::time::{Duration, Instant};

use repmd_test_support::{Daemon, ErlangNode, wait_until};

use crate::lab::{Epmd, Lab, Machine, NO_DNS, Wire, dns};
use crate::{SOON, on_port, ping};

/// How long leases last, and how often they are renewed.
const TTL: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_secs(1);

/// What a busy machine may add to a promised time, with the pause between two attempts to connect.
const SLACK: Duration = Duration::from_secs(1);

/// The address of the store.
const STORE: &str = "10.99.0.254";

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// A daemon renews its names one interval before the cut at the latest, and the store keeps them for a lease.
const LEAST: Duration = TTL.saturating_sub(INTERVAL).saturating_sub(Duration::from_millis(200));

/// The store was last heard one interval before the cut at the latest, and what it said then holds for a lease.
const MOST: Duration = TTL.saturating_mul(2).saturating_add(SLACK);

/// The names of the nodes, and where they listen.
const NODES: [(&str, u16); 3] = [("foo@a", 9001), ("bar@b", 9002), ("baz@c", 9003)];

/// Three machines with a daemon and a node each, that know of each other and have not met.
struct Cluster {
    lab: Lab,
    machines: [Machine; 3],
    nodes: [ErlangNode; 3],
    _daemons: [Daemon; 3],
}

impl Cluster {
    fn start() -> Self {
        let (lab, machines) = Lab::new();
        let daemons = machines.each_ref().map(|machine| machine.serve(Epmd::Repmd, &["--lease-ttl", "3s"]));
        let [a, b, c] = &machines;
        let dns = dns(&[a, b, c]);
        let node = |index: usize| {
            let (name, port) = NODES[index];
            // It gives up soon where nobody answers; and who meets one does not meet all.
            let flags = ["-kernel", "net_setuptime", "2", "-connect_all", "false"];
            machines[index].node(name, &dns, &[&on_port(&port.to_string())[..], &flags].concat())
        };
        let cluster = Self { nodes: [node(0), node(1), node(2)], lab, machines, _daemons: daemons };
        cluster.wait_until_all_is_known(SOON);
        cluster
    }

    fn heal(&self) {
        let [a, b, c] = &self.machines;
        self.lab.heal(&[a, b, c]);
    }

    /// Every daemon answers for every node, and has nothing to complain of.
    fn wait_until_all_is_known(&self, deadline: Duration) {
        wait_until("everybody knows everybody", deadline, || {
            let knows =
                |machine: &Machine| NODES.iter().all(|(name, port)| machine.find(name) == Some(*port));
            self.machines.iter().all(knows)
        });
        for machine in &self.machines {
            wait_until("all is well", deadline, || machine.shown("/readyz").contains("\"ready\":true"));
        }
    }

    /// What node number `from` hears of node number `to`.
    fn ping(&mut self, from: usize, to: usize) -> String {
        ping(&mut self.nodes[from], NODES[to].0)
    }

    fn find(&self, at: usize, node: usize) -> Option<u16> {
        self.machines[at].find(NODES[node].0)
    }

    /// Waits until the daemon of machine `at` no longer answers for a node, which takes as long as it is
    /// promised.
    fn forgets(&self, at: usize, node: usize, since: Instant, least: Duration, most: Duration) {
        let what = format!("{} is not found at {}", NODES[node].0, self.machines[at].host);
        wait_until(&what, SOON, || self.find(at, node).is_none());
        let after = since.elapsed();
        assert!(least < after && after < most, "{what} after {after:?}");
    }
}

/// `b` has no way to the store, and `c` hears nothing of it, though what `c` sends arrives.
#[test]
fn machines_cut_off_from_the_store_alone_are_answered_for_until_their_leases_end_and_reached_all_the_time() {
    let mut cluster = Cluster::start();
    cluster.lab.cut(Wire::Store, &cluster.machines[B]);
    cluster.machines[C].drop_from(STORE);
    let cut = Instant::now();
    // What was under way to the store may arrive, and then holds for a lease.
    cluster.forgets(A, B, cut, LEAST, TTL + SLACK);
    cluster.forgets(A, C, cut, LEAST, TTL + INTERVAL + SLACK);
    for at in [B, C] {
        cluster.forgets(at, A, cut, LEAST, MOST);
        let complaints = cluster.machines[at].shown("/readyz");
        assert!(complaints.contains("the registry is away"), "{complaints}");
        assert_eq!(cluster.find(at, at), Some(NODES[at].1));
    }
    assert_eq!(cluster.machines[A].shown("/readyz"), "{\"ready\":true,\"reasons\":[],\"notes\":[]}");
    // Nodes ask the daemon of the other's own host.
    for (from, to) in [(A, B), (B, C), (C, A)] {
        assert_eq!(cluster.ping(from, to), "pong", "{from} dials {to}");
    }
    cluster.heal();
    cluster.wait_until_all_is_known(INTERVAL + 2 * SLACK);
}

/// `b` has no way to the others, and `a` hears nothing of `c`, though what `a` sends arrives.
#[test]
fn machines_cut_off_from_each_other_alone_are_answered_for_all_the_time_and_not_reached() {
    let mut cluster = Cluster::start();
    cluster.lab.cut(Wire::Lan, &cluster.machines[B]);
    cluster.machines[A].drop_from("10.77.0.3");
    let until = Instant::now() + 2 * TTL;
    let Cluster { machines, nodes, .. } = &mut cluster;
    std::thread::scope(|scope| {
        let pings = nodes.iter_mut().zip([C, A, A]);
        let pings: Vec<_> =
            pings.map(|(node, to)| scope.spawn(move || (to, ping(node, NODES[to].0)))).collect();
        while Instant::now() < until {
            for machine in &*machines {
                let found = NODES.map(|(name, _)| machine.find(name));
                assert_eq!(found, NODES.map(|(_, port)| Some(port)), "at {}", machine.host);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let pings: Vec<_> = pings.into_iter().map(|ping| ping.join().unwrap()).collect();
        assert_eq!(pings, [C, A, A].map(|to| (to, "pang".to_owned())));
    });
    cluster.heal();
    for (from, to) in [(A, B), (B, C), (C, A)] {
        wait_until("it is reached", SOON, || cluster.ping(from, to) == "pong");
    }
}

#[test]
fn a_machine_cut_off_from_all_answers_for_its_own_nodes_and_is_back() {
    let mut cluster = Cluster::start();
    for wire in [Wire::Lan, Wire::Store] {
        cluster.lab.cut(wire, &cluster.machines[B]);
    }
    let cut = Instant::now();
    cluster.forgets(A, B, cut, LEAST, TTL + SLACK);
    cluster.forgets(B, A, cut, LEAST, MOST);
    assert_eq!(cluster.find(B, B), Some(NODES[B].1));
    assert_eq!(cluster.ping(A, B), "pang");
    // It boots in the middle of the trouble.
    let _late = cluster.machines[B].node("late@b", NO_DNS, &on_port("9004"));
    cluster.heal();
    cluster.wait_until_all_is_known(INTERVAL + 2 * SLACK);
    assert_eq!(cluster.machines[A].wait_for("late@b"), 9004);
    wait_until("it is reached", SOON, || cluster.ping(A, B) == "pong");
}
