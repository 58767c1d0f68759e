//! Unmodified programs whose resolver asks repmd: no module, no hosts file, and nothing else that knows a host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use repmd_test_support::{Daemon, ErlangNode, RabbitMq, Root, Scratch, wait_until};

use crate::lab::{Epmd, Families, Lab, Machine};
use crate::{EPMD_PORT, RELEASE, SOON, ping};

/// The daemon answers where resolvers ask.
const DNS: [&str; 2] = ["--dns", "127.0.0.1:53"];

const IPV6: [&str; 2] = ["-proto_dist", "inet6_tcp"];

/// The file of a machine whose resolver asks the daemon, and finds hosts by their short names.
struct ResolvConf(tempfile::TempDir);

impl ResolvConf {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("resolv.conf"), "nameserver 127.0.0.1\nsearch repmd\n").unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("resolv.conf")
    }
}

fn serve(machine: &Machine) -> Daemon {
    machine.serve(Epmd::Repmd, &[&DNS[..], &["--lease-ttl", "3s"]].concat())
}

/// A program of a root, with this resolver.
fn command(release: &str, program: &str, resolver: &Path) -> Command {
    Root::of(release).contained_command(program, &[(resolver, "/etc/resolv.conf")])
}

/// Starts an unmodified node.
fn node(machine: &Machine, release: &str, flags: &[&str]) -> ErlangNode {
    let resolver = ResolvConf::new();
    let mut command = command(release, "erl", &resolver.path());
    command.args(["-start_epmd", "false"]).args(flags);
    machine.network.inside(|| ErlangNode::spawn(command, &Root::of(release), EPMD_PORT))
}

#[test]
fn hosts_that_nothing_else_resolves_are_reached_by_nodes_of_each_release() {
    for (epmd, answer) in [(Epmd::Stock, "pang"), (Epmd::Repmd, "pong")] {
        let (_lab, [a, b]) = Lab::new();
        let _daemons = [&a, &b].map(|machine| match epmd {
            Epmd::Stock => machine.serve(Epmd::Stock, &[]),
            Epmd::Repmd => serve(machine),
        });
        let _target = node(&a, RELEASE, &["-sname", "target@a"]);
        for release in ["bullseye", "bookworm", "trixie", "sid"] {
            let mut asker = node(&b, release, &["-sname", &format!("{release}@b")]);
            assert_eq!(ping(&mut asker, "target@a"), answer, "{release} {epmd:?}");
        }
    }
}

#[test]
fn long_names_and_both_families_are_reached_too() {
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [serve(&a), serve(&b)];
    let _long = node(&a, RELEASE, &["-name", "long@a.repmd"]);
    let mut long = node(&b, RELEASE, &["-name", "long@b.repmd"]);
    assert_eq!(ping(&mut long, "long@a.repmd"), "pong");
    let _six = node(&a, RELEASE, &[&["-sname", "six@a"], &IPV6[..]].concat());
    let mut six = node(&b, RELEASE, &[&["-sname", "six@b"], &IPV6[..]].concat());
    assert_eq!(ping(&mut six, "six@a"), "pong");
}

#[test]
fn machines_that_have_ipv6_alone_are_reached() {
    let (_lab, [a, b]) = Lab::with(Families::IPv6);
    let _daemons = [serve(&a), serve(&b)];
    let _six = node(&a, RELEASE, &[&["-sname", "six@a"], &IPV6[..]].concat());
    let mut six = node(&b, RELEASE, &[&["-sname", "six@b"], &IPV6[..]].concat());
    assert_eq!(ping(&mut six, "six@a"), "pong");
}

/// The machine's resolver stays as it is, and no port below 1024 is needed.
#[test]
fn nodes_with_the_file_that_ships_reach_hosts_and_find_peers_though_their_machine_does_not() {
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [&a, &b].map(|machine| machine.serve(Epmd::Repmd, &["--dns", "127.0.0.1:5300"]));
    let ships = include_str!("../../deploy/dns/repmd.inetrc");
    let _target = a.node("target@a", ships, &[]);
    for release in ["bullseye", "bookworm", "trixie", "sid"] {
        let mut without = b.node_of(release, &format!("without-{release}@b"), "", &[]);
        assert_eq!(ping(&mut without, "target@a"), "pang", "{release}");
        let mut asker = b.node_of(release, &format!("{release}@b"), ships, &[]);
        assert_eq!(ping(&mut asker, "target@a"), "pong", "{release}");
        let found = asker.eval("element(2, inet_res:getbyname(\"target.nodes.repmd\", a))");
        assert!(found.contains("[{10,77,0,1}]"), "{release}: {found}");
    }
}

#[test]
fn a_host_that_comes_is_dialled_within_a_second() {
    let (_lab, [a, b]) = Lab::new();
    let _of_b = serve(&b);
    let mut asker = node(&b, RELEASE, &["-sname", "asker@b"]);
    assert_eq!(ping(&mut asker, "target@a"), "pang");
    let _of_a = serve(&a);
    let _target = node(&a, RELEASE, &["-sname", "target@a"]);
    let there = Instant::now();
    wait_until("it is dialled", SOON, || ping(&mut asker, "target@a") == "pong");
    assert!(there.elapsed() < Duration::from_secs(1), "{:?}", there.elapsed());
}

/// What `dns_cluster` asks, as it asks it.
#[test]
fn the_hosts_of_a_node_are_what_dns_cluster_asks_for() {
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [serve(&a), serve(&b)];
    let _of_a = node(&a, RELEASE, &["-name", "my_app@10.77.0.1"]);
    for release in ["bullseye", "bookworm", "trixie", "sid"] {
        let mut of_b = node(&b, release, &["-name", "my_app@10.77.0.2"]);
        let ask = |node: &mut ErlangNode, kind: &str| {
            node.eval(&format!(
                "case inet_res:getbyname(\"my_app.nodes.repmd\", {kind}) of {{ok, Found}} -> \
                 lists:sort(element(6, Found)); Error -> Error end"
            ))
        };
        let both = "[{10,77,0,1},{10,77,0,2}]";
        wait_until(&format!("both are found by {release}"), SOON, || ask(&mut of_b, "a") == both);
        let both = "[{64887,0,0,0,0,0,0,1},{64887,0,0,0,0,0,0,2}]";
        assert_eq!(ask(&mut of_b, "aaaa"), both, "{release}");
        let services = ask(&mut of_b, "srv");
        assert!(services.contains("\"a.repmd\"") && services.contains("\"b.repmd\""), "{release} {services}");
        assert_eq!(ping(&mut of_b, "my_app@10.77.0.1"), "pong", "{release}");
    }
}

#[test]
fn the_c_library_of_each_release_resolves_hosts_by_the_search_list_and_addresses() {
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [serve(&a), serve(&b)];
    let resolver = ResolvConf::new();
    for release in ["bullseye", "bookworm", "trixie", "sid"] {
        let mut getent = command(release, "getent", &resolver.path());
        let output = b.network.inside(|| getent.args(["ahostsv4", "a"]).output().unwrap());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.starts_with("10.77.0.1 ") && text.contains("a.repmd"), "{release}: {text}");
        let mut getent = command(release, "getent", &resolver.path());
        let output = b.network.inside(|| getent.args(["hosts", "10.77.0.1"]).output().unwrap());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("a.repmd"), "{release}: {text}");
    }
}

/// How long a server may take to start on a busy machine.
const STARTED: Duration = Duration::from_secs(120);

struct Broker {
    name: String,
    observer: ErlangNode,
    _server: RabbitMq,
}

impl Broker {
    fn start(machine: &Machine) -> Self {
        let name = format!("rabbit@{}", machine.host);
        let (root, resolver) = (Root::of(RELEASE), ResolvConf::new());
        let prepare = |_: &mut Command, home: &Scratch| {
            let config = "cluster_formation.peer_discovery_backend = dns\n\
                          cluster_formation.dns.hostname = rabbit.nodes.repmd\n";
            fs::write(home.path().join("config.conf"), config).unwrap();
        };
        let file = resolver.path();
        let mounts = [(&*file, "/etc/resolv.conf")];
        let server =
            machine.network.inside(|| RabbitMq::spawn(&root, &name, EPMD_PORT, 25672, &mounts, prepare));
        let observer = node(machine, RELEASE, &["-sname", &format!("observer@{}", machine.host), "-hidden"]);
        let mut broker = Self { name, observer, _server: server };
        wait_until("it runs", STARTED, || broker.call("rabbit, is_running, []") == "true");
        broker
    }

    fn call(&mut self, function: &str) -> String {
        self.observer.eval(&format!("rpc:call('{}', {function})", self.name))
    }
}

#[test]
fn rabbitmq_brokers_discover_each_other_at_their_first_start() {
    let (_lab, machines) = Lab::new::<3>();
    let _daemons: Vec<_> = machines.iter().map(serve).collect();
    // As it advises: one after the other, or each with a delay of its own.
    let mut brokers: Vec<_> = machines.iter().map(Broker::start).collect();
    for broker in &mut brokers {
        for name in ["rabbit@a", "rabbit@b", "rabbit@c"] {
            let mut running = String::new();
            wait_until(&format!("{name} runs with {}", broker.name), SOON, || {
                running = broker.call("rabbit_mnesia, cluster_nodes, [running]");
                running.contains(name)
            });
        }
    }
    // One that comes back with an empty disk finds the others again.
    drop(brokers.pop());
    let mut again = Broker::start(&machines[2]);
    let running = again.call("rabbit_mnesia, cluster_nodes, [running]");
    assert!(running.contains("rabbit@a") && running.contains("rabbit@b"), "{running}");
}
