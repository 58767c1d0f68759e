//! Where repmd leads nodes to each other and the stock daemon does not: the rows of `docs/topologies.md`. The
//! gateway has a test program of its own, `tests/gateway`.

use std::time::{Duration, Instant};

use repmd_test_support::{ErlangNode, Network, Root, wait_for, wait_until};

use crate::lab::{Epmd, Lab, Machine, NO_DNS, dns, kill};
use crate::{Module, RELEASE, SOON, on_port, ping};

/// A container of `machine`, whose port 9100 is published there as `published`.
fn container(machine: &Machine, host: &'static str, number: u8, published: u16) -> Machine {
    let network = Network::empty();
    machine.network.plug("containers", &format!("container-{number}"), &network, "eth0");
    network.address("eth0", &format!("172.20.0.{number}/24"));
    network.ip("route add default via 172.20.0.254");
    let address = machine.addresses[0];
    let (from, to) = (format!("-d {address} -p tcp --dport {published}"), format!("172.20.0.{number}:9100"));
    machine.iptables(&format!("-t nat -A PREROUTING {from} -j DNAT --to {to}"));
    Machine { host, network, addresses: vec![address], store: machine.store.clone() }
}

/// Makes a machine one with containers, as an engine does: it forwards, and hides their addresses.
fn prepare_for_containers(machine: &Machine) {
    machine.network.switch("containers");
    machine.network.address("containers", "172.20.0.254/24");
    machine.network.inside(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap();
    machine.iptables("-t nat -A POSTROUTING -s 172.20.0.0/24 -j MASQUERADE");
}

/// Three pings by the front door of `a`, whose containers have the nodes `red@a` and `blue@a`: to each of them
/// from another machine, and from one to the other.
fn pings_by_a_front_door(epmd: Epmd) -> [String; 3] {
    let (_lab, [a, b]) = Lab::new();
    prepare_for_containers(&a);
    let containers = [container(&a, "a", 1, 9101), container(&a, "a", 2, 9102)];
    let flags = [
        ["--instance-name", "first", "--advertise-port", "9100=9101"],
        ["--instance-name", "second", "--advertise-port", "9100=9102"],
    ];
    let _daemons = [
        a.serve(epmd, &[]),
        b.serve(epmd, &[]),
        containers[0].serve(epmd, &flags[0]),
        containers[1].serve(epmd, &flags[1]),
    ];
    let dns = dns(&[&a, &b]);
    let mut red = containers[0].node("red@a", &dns, &on_port("9100"));
    let _blue = containers[1].node("blue@a", &dns, &on_port("9100"));
    let mut green = b.node("green@b", &dns, &[]);
    [ping(&mut green, "red@a"), ping(&mut green, "blue@a"), ping(&mut red, "blue@a")]
}

#[test]
fn containers_behind_one_address_are_reached_by_their_published_ports() {
    assert_eq!(pings_by_a_front_door(Epmd::Repmd), ["pong"; 3]);
}

#[test]
fn containers_behind_one_address_are_not_reached_with_the_stock_daemon() {
    assert_eq!(pings_by_a_front_door(Epmd::Stock), ["pang"; 3]);
}

/// Where the name of a container leads to its own address, as an engine has it.
#[test]
fn nodes_of_one_container_reach_each_other_though_their_ports_are_published_as_others() {
    let (_lab, [a]) = Lab::new();
    prepare_for_containers(&a);
    let container = container(&a, "first", 1, 9101);
    let serve = || container.serve(Epmd::Repmd, &["--advertise-port", "9100=9101"]);
    let daemon = serve();
    let dns = NO_DNS.to_owned() + "{host, {172,20,0,1}, [\"first\"]}. ";
    let _one = container.node_of("bullseye", "one@first", NO_DNS, &on_port("9100"));
    let mut two = container.node("two@first", &dns, &[]);
    assert_eq!(ping(&mut two, "one@first"), "pong");
    part(&mut two, "one@first");
    kill(daemon);
    // The first registers only once in its life, and cannot dial.
    let _next = serve();
    assert_eq!(ping(&mut two, "one@first"), "pong", "by the next daemon");
}

/// A ping from `b` to `a`, where nothing knows the name of either.
fn ping_without_dns(epmd: Epmd) -> String {
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [a.serve(epmd, &[]), b.serve(epmd, &[])];
    let module = Module::compile();
    let _foo = a.node("foo@a", NO_DNS, &[]);
    ping(&mut b.node("bar@b", NO_DNS, &module.flags()), "foo@a")
}

#[test]
fn a_host_that_no_resolver_knows_is_reached_by_the_module() {
    assert_eq!(ping_without_dns(Epmd::Repmd), "pong");
}

#[test]
fn a_host_that_no_resolver_knows_is_not_reached_by_the_module_with_the_stock_daemon() {
    assert_eq!(ping_without_dns(Epmd::Stock), "pang");
}

/// Neither of these knows more than its resolver reads: the node of `b` was there first.
#[test]
fn a_new_host_that_no_resolver_knows_is_reached_by_the_hosts_file_within_6_s() {
    let (_lab, [a, b]) = Lab::new();
    let folder = Root::of(RELEASE).scratch();
    let file = folder.path().join("hosts");
    let _of_b = b.serve(Epmd::Repmd, &["--hosts-file", file.to_str().unwrap()]);
    // It is written when the daemon listens already.
    let inetrc = || std::fs::read_to_string(folder.path().join("hosts.inetrc")).ok();
    let inetrc = wait_for("the resolver's settings are there", SOON, inetrc);
    let inetrc = inetrc.replace(folder.path().to_str().unwrap(), folder.inside().to_str().unwrap());
    let mut bar = b.node("bar@b", &inetrc, &[]);
    assert_eq!(ping(&mut bar, "foo@a"), "pang");
    let _of_a = a.serve(Epmd::Repmd, &[]);
    let mut foo = a.node("foo@a", NO_DNS, &[]);
    let registered = Instant::now();
    assert_eq!(ping(&mut foo, "bar@b"), "pang", "without a hosts file");
    wait_until("it is reached", SOON, || ping(&mut bar, "foo@a") == "pong");
    // And what a busy machine adds. Who misses a turn of the resolver waits for 5 s more.
    assert!(registered.elapsed() < Duration::from_secs(8), "{:?}", registered.elapsed());
}

/// Ends the only connection of a node.
fn part(node: &mut ErlangNode, other: &str) {
    node.eval(&format!("erlang:disconnect_node('{other}')"));
    wait_until("they are parted", SOON, || node.eval("nodes()") == "[]");
}

/// Two pings from `b` to a node of `a` that registers once in its life: before its daemon was killed, and after
/// another one has taken its place.
fn pings_around_a_restart(epmd: Epmd) -> [String; 2] {
    let (_lab, [a, b]) = Lab::new();
    let (of_a, _of_b) = (a.serve(epmd, &[]), b.serve(epmd, &[]));
    // So that it cannot dial, once they are parted.
    let _foo = a.node_of("bullseye", "foo@a", NO_DNS, &[]);
    let mut bar = b.node("bar@b", &dns(&[&a, &b]), &[]);
    let before = ping(&mut bar, "foo@a");
    part(&mut bar, "foo@a");
    kill(of_a);
    let _next = a.serve(epmd, &[]);
    [before, ping(&mut bar, "foo@a")]
}

#[test]
fn a_node_that_registers_only_once_is_reached_by_the_next_daemon() {
    assert_eq!(pings_around_a_restart(Epmd::Repmd), ["pong", "pong"]);
}

#[test]
fn a_node_that_registers_only_once_is_lost_to_the_next_stock_daemon() {
    assert_eq!(pings_around_a_restart(Epmd::Stock), ["pong", "pang"]);
}

/// A ping from `b` to a node of `a`, whose daemon was killed and has no successor.
fn ping_of_an_orphan(epmd: Epmd) -> String {
    let (_lab, [a, b]) = Lab::new();
    let (of_a, _of_b) = (a.serve(epmd, &[]), b.serve(epmd, &[]));
    let (module, dns) = (Module::compile(), dns(&[&a, &b]));
    let _foo = a.node("foo@a", &dns, &[]);
    let mut bar = b.node("bar@b", &dns, &module.flags());
    kill(of_a);
    ping(&mut bar, "foo@a")
}

#[test]
fn a_node_whose_daemon_is_dead_is_reached_by_the_dialler_s_own() {
    assert_eq!(ping_of_an_orphan(Epmd::Repmd), "pong");
}

#[test]
fn a_node_whose_stock_daemon_is_dead_is_not_reached() {
    assert_eq!(ping_of_an_orphan(Epmd::Stock), "pang");
}
