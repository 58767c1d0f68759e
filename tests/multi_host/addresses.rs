//! A daemon that is told no address takes the one on its connection to the store, and the next one when that changes.

use std::net::IpAddr;
use std::process::{Command, Stdio};

use repmd::protocol::decode_whereabouts;
use repmd_test_support::{Daemon, Network, Peer, Root, http, lookup_port, wait_until};

use crate::{EPMD_PORT, RELEASE, SOON};

const STORE_PORT: u16 = 6379;

/// A machine `m` that is to have a daemon, and one with the store and a daemon of host `other`.
struct Pair {
    machine: Network,
    other: Network,
    _store: Daemon,
    _other_daemon: Daemon,
}

impl Pair {
    fn new() -> Self {
        let (machine, other) = (Network::empty(), Network::empty());
        other.join("eth0", &machine, "eth0");
        other.address("eth0", "10.9.0.1/16");
        let mut redis = Root::of(RELEASE).command("redis-server");
        redis.args(["--save", "", "--protected-mode", "no"]).stderr(Stdio::null());
        let store = other.inside(|| Daemon::spawn(redis, STORE_PORT));
        let other_daemon = serve(&other, "127.0.0.1", "other", &["--advertise", "10.9.0.1"]);
        Self { machine, other, _store: store, _other_daemon: other_daemon }
    }

    /// Where the daemon of the other host says that `n@m` is.
    fn told(&self) -> Option<Vec<IpAddr>> {
        let reply = self.other.inside(|| lookup_port(EPMD_PORT, "n@m"))?;
        Some(decode_whereabouts(&reply.extra).unwrap().addresses)
    }

    fn wait_until_told(&self, address: &str) {
        let expected: [IpAddr; 1] = [address.parse().unwrap()];
        wait_until(&format!("others are told {address}, not {:?}", self.told()), SOON, || {
            self.told().is_some_and(|told| told == expected)
        });
    }
}

/// Leases are short, so that what a change takes is not long.
fn serve(network: &Network, store: &str, host: &str, flags: &[&str]) -> Daemon {
    let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
    command.args(["serve", "--log", "error", "--host", host, "--lease-ttl", "3s"]);
    command.args(["--backend", &format!("redis://{store}:{STORE_PORT}")]).args(flags);
    network.inside(|| Daemon::spawn(command, EPMD_PORT))
}

fn register(network: &Network) -> Peer {
    network.inside(|| Peer::registered_at(EPMD_PORT, "n", 4321))
}

fn shown(network: &Network, path: &str) -> serde_json::Value {
    serde_json::from_str(&network.inside(|| http::get(4370, path, &[])).body).unwrap()
}

/// As DHCP and a VPN do it.
#[test]
fn a_machine_that_gets_another_address_is_told_of_by_that() {
    let pair = Pair::new();
    pair.machine.address("eth0", "10.9.0.2/16");
    let _daemon = serve(&pair.machine, "10.9.0.1", "m", &[]);
    let _node = register(&pair.machine);
    pair.wait_until_told("10.9.0.2");
    pair.machine.ip("address delete 10.9.0.2/16 dev eth0");
    pair.machine.address("eth0", "10.9.0.7/16");
    pair.wait_until_told("10.9.0.7");
    // Its names by addresses follow, and what it says itself.
    let by_address = || pair.other.inside(|| lookup_port(EPMD_PORT, "n@10.9.0.7")).map(|found| found.port);
    wait_until("the node is found by the new address", SOON, || by_address() == Some(4321));
    assert_eq!(shown(&pair.machine, "/api/v1/status")["addresses"][0], "10.9.0.7");
    assert_eq!(shown(&pair.machine, "/api/v1/nodes?host=m")["nodes"][0]["addresses"][0], "10.9.0.7");
}

#[test]
fn a_daemon_that_starts_without_a_route_says_so_and_has_its_address_once_there_is_one() {
    let pair = Pair::new();
    let _daemon = serve(&pair.machine, "10.9.0.1", "m", &[]);
    let _node = register(&pair.machine);
    let has_note = || {
        let ready = shown(&pair.machine, "/readyz");
        ready["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains("no address"))
    };
    wait_until("it says that it has no address", SOON, has_note);
    pair.machine.address("eth0", "10.9.0.2/16");
    pair.wait_until_told("10.9.0.2");
    wait_until("all is well", SOON, || !has_note());
}

#[test]
fn an_address_that_is_set_stays_whatever_the_connection_has() {
    let pair = Pair::new();
    pair.machine.address("eth0", "10.9.0.2/16");
    let _daemon = serve(&pair.machine, "10.9.0.1", "m", &["--advertise", "192.0.2.9"]);
    let _node = register(&pair.machine);
    pair.wait_until_told("192.0.2.9");
    pair.machine.ip("address delete 10.9.0.2/16 dev eth0");
    pair.machine.address("eth0", "10.9.0.7/16");
    // Longer than it takes to connect anew and renew.
    std::thread::sleep(std::time::Duration::from_secs(6));
    pair.wait_until_told("192.0.2.9");
}
