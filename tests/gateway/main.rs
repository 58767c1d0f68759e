//! Unmodified Erlang nodes of two networks that do not route to each other, by way of a gateway.
//!
//! They run in a root file system (`tests/roots`) and in networks of their own; `./test` runs this, as root.

mod figures;
mod lab;

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::Lab;
use repmd_test_support::{Daemon, ErlangNode, Network, Root, http, lookup_port, wait_for, wait_until};
use rustix::process::Signal;

const REPMD: &str = env!("CARGO_BIN_EXE_repmd");

/// For what happens by itself; far above what it takes, as other tests keep the machine busy.
const SOON: Duration = Duration::from_secs(30);

const EPMD_PORT: u16 = 4369;

/// What each host's resolver knows: the hosts of the other network at the gateway.
const SEEN_FROM_NET1: &str = r#"{lookup, [file]}. {host, {10,77,0,1}, ["hosta"]}. {host, {10,77,0,2}, ["hostb"]}.
{host, {10,77,0,203}, ["hostc"]}."#;
const SEEN_FROM_NET2: &str = r#"{lookup, [file]}. {host, {10,88,0,201}, ["hosta"]}. {host, {10,88,0,202}, ["hostb"]}.
{host, {10,88,0,1}, ["hostc"]}."#;

fn root() -> Root {
    Root::of("bookworm")
}

fn start(host: &Network, command: Command, port: u16) -> Daemon {
    host.inside(move || Daemon::spawn(command, port))
}

fn start_stock(host: &Network) -> Daemon {
    start(host, root().command("epmd"), EPMD_PORT)
}

fn repmd(host: &str, gateway: &str, address: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(REPMD);
    command.args(["serve", "--log", "warn", "--host", host, "--advertise", address, "--cluster", "lab"]);
    command.args(["--backend", &format!("redis://{gateway}")]).args(flags);
    command
}

/// The nodes `a@hosta`, `b@hostb` and `c@hostc`; or others of these hosts.
fn start_node(host: &Network, name: &str, inetrc: &str) -> ErlangNode {
    let (alive, _) = name.split_once('@').expect("a node name has an @");
    host.inside(|| {
        let node = ErlangNode::start_knowing(&root(), inetrc, EPMD_PORT, &["-sname", name]);
        wait_for(&format!("{name} is registered"), SOON, || lookup_port(EPMD_PORT, alive));
        node
    })
}

fn ping(node: &mut ErlangNode, name: &str) -> String {
    node.eval(&format!("net_adm:ping('{name}')"))
}

/// A lab whose hosts have daemons that share a registry, and one node each. The gateway has none yet.
struct Cluster {
    a: ErlangNode,
    b: ErlangNode,
    c: ErlangNode,
    _daemons: Vec<Daemon>,
    _store: Daemon,
    lab: Lab,
}

impl Cluster {
    fn start() -> Self {
        let lab = Lab::new();
        let mut redis = root().command("redis-server");
        redis.args(["--save", "", "--protected-mode", "no"]);
        let store = start(&lab.gateway, redis, 6379);
        let daemons = vec![
            start(&lab.a, repmd("hosta", "10.77.0.254", "10.77.0.1", &[]), EPMD_PORT),
            start(&lab.b, repmd("hostb", "10.77.0.254", "10.77.0.2", &[]), EPMD_PORT),
            start(&lab.c, repmd("hostc", "10.88.0.254", "10.88.0.1", &[]), EPMD_PORT),
        ];
        Self {
            a: start_node(&lab.a, "a@hosta", SEEN_FROM_NET1),
            b: start_node(&lab.b, "b@hostb", SEEN_FROM_NET1),
            c: start_node(&lab.c, "c@hostc", SEEN_FROM_NET2),
            _daemons: daemons,
            _store: store,
            lab,
        }
    }

    /// Starts the gateway's daemon, which relays as `flags` say.
    fn gateway(&self, flags: &[&str]) -> Daemon {
        let hosts = "10.77.0.203=hostc,10.88.0.201=hosta,10.88.0.202=hostb";
        let flags = [&["--virtual-host", hosts], flags].concat();
        start(&self.lab.gateway, repmd("gateway", "127.0.0.1", "10.77.0.254", &flags), EPMD_PORT)
    }

    fn metric(&self, line: &str) -> bool {
        self.lab.gateway.inside(|| http::get(4370, "/metrics", &[]).body.contains(line))
    }
}

const BOTH: &[&str] = &["--relay", "10.77.0.0/24,10.88.0.0/24"];

#[test]
fn nodes_of_two_networks_do_not_reach_each_other_with_the_stock_daemon() {
    let lab = Lab::new();
    let _daemons = [&lab.gateway, &lab.a, &lab.b, &lab.c].map(start_stock);
    let mut a = start_node(&lab.a, "a@hosta", SEEN_FROM_NET1);
    let mut b = start_node(&lab.b, "b@hostb", SEEN_FROM_NET1);
    let mut c = start_node(&lab.c, "c@hostc", SEEN_FROM_NET2);
    assert_eq!(ping(&mut a, "b@hostb"), "pong", "within one network");
    assert_eq!(ping(&mut a, "c@hostc"), "pang");
    assert_eq!(ping(&mut b, "c@hostc"), "pang");
    assert_eq!(ping(&mut c, "a@hosta"), "pang");
    let routes =
        lab.a.inside(|| TcpStream::connect_timeout(&([10, 88, 0, 1], EPMD_PORT).into(), SOON).is_ok());
    assert!(!routes, "the networks route to each other");
}

#[test]
fn nodes_of_two_networks_are_a_full_mesh_over_a_gateway() {
    let mut cluster = Cluster::start();
    let mut gateway = cluster.gateway(BOTH);

    let Cluster { a, b, c, .. } = &mut cluster;
    assert_eq!(ping(a, "c@hostc"), "pong");
    assert_eq!(ping(c, "b@hostb"), "pong");
    for (node, others) in [(&mut *a, "[b@hostb,c@hostc]"), (b, "[a@hosta,c@hostc]"), (c, "[a@hosta,b@hostb]")]
    {
        wait_until("each sees all others", SOON, || node.eval("lists:sort(nodes())") == others);
        assert_eq!(node.eval("net_kernel:monitor_nodes(true)"), "ok");
    }
    // Where `global` sees half a mesh, it cuts the other half within moments.
    let mut nodes = [a, b, c];
    let down_within = "receive {nodedown, _} = Down -> Down after 10000 -> none end";
    assert_eq!(nodes[0].eval(down_within), "none");
    for node in &mut nodes {
        assert_eq!(node.eval("receive {nodedown, _} = Down -> Down after 0 -> none end"), "none");
    }

    let killed = Instant::now();
    gateway.signal(Signal::KILL);
    gateway.wait(SOON);
    let [a, b, c] = nodes;
    let down = |node: &str| format!("receive {{nodedown, '{node}'}} -> down after 50000 -> up end");
    assert_eq!(a.eval(&down("c@hostc")), "down");
    assert_eq!(c.eval(&down("a@hosta")), "down");
    assert_eq!(b.eval(&down("c@hostc")), "down");
    // By ticks alone it takes 45 s at least.
    assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
    assert_eq!(a.eval("nodes()"), "[b@hostb]");

    let _gateway = cluster.gateway(BOTH);
    let Cluster { a, c, .. } = &mut cluster;
    assert_eq!(ping(c, "a@hosta"), "pong", "over the next gateway");
    assert_eq!(ping(a, "c@hostc"), "pong");
}

#[test]
fn a_node_that_restarts_is_reached_by_the_same_gateway() {
    let cluster = Cluster::start();
    let _gateway = cluster.gateway(BOTH);
    let Cluster { _store, _daemons, lab, c, mut a, .. } = cluster;
    let port = || lab.c.inside(|| lookup_port(EPMD_PORT, "c")).map(|found| found.port);
    assert_eq!(ping(&mut a, "c@hostc"), "pong");
    let before = port();
    c.kill();
    wait_until("its end is seen", SOON, || a.eval("nodes()") == "[]");
    let mut c = start_node(&lab.c, "c@hostc", SEEN_FROM_NET2);
    assert_ne!(port(), before, "it listens elsewhere now");
    wait_until("it is reached again", SOON, || ping(&mut a, "c@hostc") == "pong");
    assert_eq!(ping(&mut c, "a@hosta"), "pong");
}

#[test]
fn an_upgrade_of_the_gateway_says_how_many_connections_end_and_nodes_dial_again() {
    let mut cluster = Cluster::start();
    let log = tempfile::NamedTempFile::new().unwrap();
    let hosts = "10.77.0.203=hostc,10.88.0.201=hosta,10.88.0.202=hostb";
    let flags = [&["--virtual-host", hosts], BOTH].concat();
    let mut command = repmd("gateway", "127.0.0.1", "10.77.0.254", &flags);
    command.stderr(log.reopen().unwrap());
    let gateway = start(&cluster.lab.gateway, command, EPMD_PORT);
    let upgrade = || {
        let pid = gateway.pid().as_raw_nonzero().to_string();
        let output = Command::new(REPMD).args(["upgrade", "--pid", &pid]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::read_to_string(log.path()).unwrap()
    };
    let warning = "relayed connections end with the old program";
    assert!(!upgrade().contains(warning), "there is none");
    assert_eq!(ping(&mut cluster.a, "c@hostc"), "pong");
    let open = relayed(&cluster.lab.gateway);
    assert!(upgrade().contains(&format!("{warning} connections={open}")), "{open} were open");
    wait_until("it is dialled again", SOON, || ping(&mut cluster.a, "c@hostc") == "pong");
}

/// How many connections a gateway relays.
fn relayed(gateway: &Network) -> u64 {
    let metrics = gateway.inside(|| http::get(4370, "/metrics", &[]).body);
    let line = metrics.lines().find_map(|line| line.strip_prefix("repmd_relay_connections_open "));
    line.unwrap().trim_end_matches(".0").parse().unwrap()
}

#[test]
fn a_gateway_relays_into_no_network_that_it_was_not_told() {
    let mut cluster = Cluster::start();
    let _gateway = cluster.gateway(&["--relay", "10.88.0.0/24"]);
    assert_eq!(ping(&mut cluster.c, "a@hosta"), "pang");
    assert!(cluster.metric("repmd_relay_refused_total{reason=\"network\"} 1\n"));
    assert_eq!(ping(&mut cluster.a, "c@hostc"), "pong");
}

#[test]
fn a_gateway_relays_no_more_connections_than_it_may() {
    let mut cluster = Cluster::start();
    let _gateway = cluster.gateway(&[BOTH, &["--relay-connections", "1"]].concat());
    let Cluster { a, c, lab, .. } = &mut cluster;
    assert_eq!(ping(a, "c@hostc"), "pong");
    // Hidden, so that no other node dials on behalf of it.
    let mut hidden = start_node(&lab.a, "hidden@hosta", SEEN_FROM_NET1);
    assert_eq!(hidden.eval("net_kernel:hidden_connect_node('c@hostc')"), "false");
    assert_eq!(c.eval("nodes()"), "[a@hosta]");
    assert!(cluster.metric("repmd_relay_connections_open 1.0\n"));
}
