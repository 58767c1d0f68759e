//! RabbitMQ on three machines, where all servers are called `rabbit`.

use std::fs;
use std::process::Command;
use std::time::Duration;

use repmd_test_support::{ErlangNode, RabbitMq, Root, Scratch, wait_until};

use crate::lab::{Epmd, Lab, Machine, dns, kill};
use crate::{EPMD_PORT, RELEASE, SOON, ping};

const NODES: [&str; 3] = ["rabbit@a", "rabbit@b", "rabbit@c"];

/// Where each listens; and where that port is published on the third machine.
const PORT: u16 = 25672;
const PUBLISHED: u16 = 35672;

/// How long a server may take to start on a busy machine.
const STARTED: Duration = Duration::from_secs(120);

/// A server, and a node beside it by which it is asked.
struct Broker<'a> {
    machine: &'a Machine,
    node: String,
    observer: ErlangNode,
    _server: RabbitMq,
}

impl<'a> Broker<'a> {
    /// Starts a server that joins those of `nodes` that are there.
    fn start(machine: &'a Machine, dns: &str, nodes: &[&str]) -> Self {
        let node = format!("rabbit@{}", machine.host);
        let prepare = |command: &mut Command, home: &Scratch| {
            // Its scripts start nodes of the host that they are on.
            let inetrc = dns.to_owned() + "{host, {127,0,0,1}, [\"localhost\"]}. ";
            fs::write(home.path().join("inetrc"), inetrc).unwrap();
            command.env("ERL_INETRC", home.inside().join("inetrc"));
            let config = nodes.iter().zip(1..);
            let config = config
                .map(|(node, number)| format!("cluster_formation.classic_config.nodes.{number} = {node}\n"));
            fs::write(home.path().join("config.conf"), config.collect::<String>()).unwrap();
        };
        let root = Root::of(RELEASE);
        let server = machine.network.inside(|| RabbitMq::spawn(&root, &node, EPMD_PORT, PORT, &[], prepare));
        let observer = machine.node(&format!("observer@{}", machine.host), dns, &["-hidden"]);
        let mut broker = Self { machine, node, observer, _server: server };
        wait_until("it runs", STARTED, || broker.call("rabbit, is_running, []") == "true");
        broker
    }

    fn call(&mut self, function: &str) -> String {
        self.observer.eval(&format!("rpc:call('{}', {function})", self.node))
    }

    /// Lets its monitor check what EPMD knows, as it does each minute. Returns the port by which it registers the
    /// server from now on.
    fn port_of_its_monitor(&mut self) -> String {
        self.call("erlang, send, [rabbit_epmd_monitor, check]");
        let state = self.call("sys, get_state, [rabbit_epmd_monitor, 60000]");
        state.trim_end_matches('}').rsplit_once(',').unwrap().1.to_owned()
    }

    /// It runs with all others, has seen no partition, and its monitor has its own port.
    fn assert_whole(&mut self) {
        let running = self.call("rabbit_mnesia, cluster_nodes, [running]");
        for node in NODES {
            assert!(running.contains(node), "{}: {running}", self.node);
        }
        assert_eq!(self.call("rabbit_node_monitor, partitions, []"), "[]", "{}", self.node);
        assert_eq!(self.port_of_its_monitor(), PORT.to_string(), "{}", self.node);
    }
}

#[test]
fn rabbitmq_on_three_hosts_is_a_cluster_and_stays_one_when_daemons_and_the_store_restart() {
    let (mut lab, machines) = Lab::new::<3>();
    let [a, b, c] = &machines;
    c.iptables(&format!("-t nat -A PREROUTING -p tcp --dport {PUBLISHED} -j REDIRECT --to-ports {PORT}"));
    let published = format!("{PORT}={PUBLISHED}");
    let flags = [&[][..], &[], &["--advertise-port", &published]];
    let serve =
        |index: usize| machines[index].serve(Epmd::Repmd, &[&["--lease-ttl", "3s"], flags[index]].concat());
    let mut daemons = [0, 1, 2].map(serve).map(Some);

    let dns = dns(&[a, b, c]);
    // The others find it there.
    let mut brokers = vec![Broker::start(a, &dns, &NODES)];
    brokers.extend(std::thread::scope(|scope| {
        let starts = [b, c].map(|machine| scope.spawn(|| Broker::start(machine, &dns, &NODES)));
        starts.map(|start| start.join().unwrap())
    }));
    brokers.iter_mut().for_each(Broker::assert_whole);

    for (index, broker) in brokers.iter_mut().enumerate() {
        daemons[index].take().map(kill);
        daemons[index] = Some(serve(index));
        // Its node is not back yet.
        assert_eq!(broker.port_of_its_monitor(), PORT.to_string(), "{}", broker.node);
        wait_until("its nodes are back", SOON, || {
            broker.machine.shown("/metrics").contains("\nrepmd_nodes 2.0\n")
        });
    }
    lab.restart_store();
    for (broker, own) in brokers.iter().zip(NODES) {
        for node in NODES {
            let port = if node == NODES[2] && node != own { PUBLISHED } else { PORT };
            wait_until(node, SOON, || broker.machine.find(node) == Some(port));
        }
    }
    for (broker, own) in brokers.iter_mut().zip(NODES) {
        broker.assert_whole();
        for node in NODES.into_iter().filter(|node| *node != own) {
            assert_eq!(ping(&mut broker.observer, node), "pong", "from {own}");
        }
    }
}

/// As when a container with both is killed, or its machine loses power. A server that finds its own name in NAMES
/// takes it for another server's, and refuses to boot.
#[test]
fn rabbitmq_that_died_together_with_its_daemon_boots_again_within_a_lease() {
    let (_lab, [a, b]) = Lab::new();
    let serve = || a.serve(Epmd::Repmd, &["--lease-ttl", "120s"]);
    let (daemon, _of_b) = (serve(), b.serve(Epmd::Repmd, &[]));
    let dns = dns(&[&a]);
    let broker = Broker::start(&a, &dns, &NODES[..1]);
    assert_eq!(b.wait_for(NODES[0]), PORT);
    // The daemon first, so that it cannot tell the store that its nodes have left.
    kill(daemon);
    drop(broker);
    let _next = serve();
    assert_eq!(b.find(NODES[0]), Some(PORT), "its lease lives on");
    let mut again = Broker::start(&a, &dns, &NODES[..1]);
    assert_eq!(again.port_of_its_monitor(), PORT.to_string());
}
