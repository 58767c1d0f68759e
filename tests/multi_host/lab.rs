//! Machines with a network between them, and another one to the store.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use repmd_test_stores::{Etcd, Postgres};
use repmd_test_support::{Daemon, ErlangNode, Network, Root, http, lookup_port, run, wait_for};
use rustix::process::Signal;

use crate::{EPMD_PORT, RELEASE, SOON};

const STORE_PORT: u16 = 6379;

/// Names the release program, for figures. Without it, the one that was built for debugging is run.
const RELEASE_PROGRAM: &str = "REPMD_TEST_RELEASE";

const POSTGRES_PORT: u16 = 5432;

const ETCD_PORT: u16 = 2379;

/// A resolver that knows nothing, and asks nobody.
pub(crate) const NO_DNS: &str = "{lookup, [file]}. ";

/// Which addresses machines have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    Both,
    IPv6,
}

/// What a machine is connected to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    /// The other machines, by `eth0`. The first machine is 10.77.0.1 and fd77::1.
    Lan,
    /// The store, by `eth1`. The first machine is 10.99.0.1 and fd99::1, the store 10.99.0.254 and fd99::fe.
    Store,
}

/// The EPMD of a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Epmd {
    Repmd,
    Stock,
}

/// The switches of both networks, and the store.
pub(crate) struct Lab {
    middle: Network,
    store: Running,
}

enum Running {
    Redis(Daemon),
    Postgres(Postgres),
    Etcd(Etcd),
}

/// A machine, or a container of one.
pub(crate) struct Machine {
    /// What its daemon takes it for.
    pub(crate) host: &'static str,
    pub(crate) network: Network,
    /// Where others reach it.
    pub(crate) addresses: Vec<IpAddr>,
    /// The URL of the store.
    pub(crate) store: String,
}

impl Lab {
    /// With the machines `a`, `b`, `c` and `d`, or fewer.
    pub(crate) fn new<const COUNT: usize>() -> (Self, [Machine; COUNT]) {
        Self::with(Families::Both)
    }

    pub(crate) fn with<const COUNT: usize>(families: Families) -> (Self, [Machine; COUNT]) {
        let (middle, machines) = Self::plug(families, STORE_PORT, |store| format!("redis://{store}"));
        let store = Running::Redis(start_store(&middle));
        (Self { middle, store }, machines)
    }

    /// With PostgreSQL in the place of Redis.
    pub(crate) fn with_postgres<const COUNT: usize>() -> (Self, [Machine; COUNT]) {
        let url = |store| format!("postgres://repmd@{store}/repmd");
        let (middle, machines) = Self::plug(Families::Both, POSTGRES_PORT, url);
        let store = Running::Postgres(middle.inside(|| Postgres::start_for_all(POSTGRES_PORT)));
        (Self { middle, store }, machines)
    }

    /// With etcd in the place of Redis.
    pub(crate) fn with_etcd<const COUNT: usize>() -> (Self, [Machine; COUNT]) {
        let (middle, machines) = Self::plug(Families::Both, ETCD_PORT, |store| format!("etcd://{store}"));
        let store = Running::Etcd(middle.inside(|| Etcd::start_for_all(ETCD_PORT, &[])));
        (Self { middle, store }, machines)
    }

    fn plug<const COUNT: usize>(
        families: Families,
        port: u16,
        url: impl Fn(SocketAddr) -> String,
    ) -> (Network, [Machine; COUNT]) {
        let middle = Network::empty();
        middle.switch("lan");
        middle.switch("store");
        let store = SocketAddr::new(Wire::Store.give(&middle, "store", 254, families)[0], port);
        let machines = std::array::from_fn(|index| {
            let (host, network) = (["a", "b", "c", "d"][index], Network::empty());
            for wire in [Wire::Lan, Wire::Store] {
                middle.plug(wire.switch(), &wire.port(host), &network, wire.device());
            }
            let addresses = Wire::Lan.give(&network, Wire::Lan.device(), 1 + index, families);
            Wire::Store.give(&network, Wire::Store.device(), 1 + index, families);
            Machine { host, network, addresses, store: url(store) }
        });
        (middle, machines)
    }

    /// Kills the store, and starts it with nothing in it.
    pub(crate) fn restart_store(&mut self) {
        match &mut self.store {
            Running::Redis(daemon) => {
                daemon.signal(Signal::KILL);
                daemon.wait(SOON);
                *daemon = start_store(&self.middle);
            }
            Running::Postgres(server) => self.middle.inside(|| {
                server.kill();
                *server = Postgres::start_for_all(POSTGRES_PORT);
            }),
            Running::Etcd(etcd) => self.middle.inside(|| etcd.restart_empty()),
        }
    }

    pub(crate) fn cut(&self, wire: Wire, machine: &Machine) {
        self.middle.ip(&format!("link set {} down", wire.port(machine.host)));
    }

    /// Undoes all cuts, and lets the machines hear everybody again.
    pub(crate) fn heal(&self, machines: &[&Machine]) {
        for machine in machines {
            machine.iptables("-F INPUT");
            for wire in [Wire::Lan, Wire::Store] {
                self.middle.ip(&format!("link set {} up", wire.port(machine.host)));
            }
        }
    }
}

impl Wire {
    fn switch(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Store => "store",
        }
    }

    /// The port of the switch to which a machine is connected.
    fn port(self, host: &str) -> String {
        format!("{}-{host}", self.switch())
    }

    /// The device of a machine.
    fn device(self) -> &'static str {
        match self {
            Self::Lan => "eth0",
            Self::Store => "eth1",
        }
    }

    /// Gives a device its addresses.
    fn give(self, network: &Network, device: &str, number: usize, families: Families) -> Vec<IpAddr> {
        let net = match self {
            Self::Lan => 77,
            Self::Store => 99,
        };
        let mut addresses = Vec::new();
        if families == Families::Both {
            network.address(device, &format!("10.{net}.0.{number}/24"));
            addresses.push(IpAddr::from([10, net, 0, number as u8]));
        }
        // Usable at once, without waiting for somebody else to claim it.
        network.address(device, &format!("fd{net}::{number:x}/64 nodad"));
        addresses.push(format!("fd{net}::{number:x}").parse().expect("it is an address"));
        addresses
    }
}

impl Machine {
    /// Starts a daemon: the stock one, or repmd with the store and these flags.
    pub(crate) fn serve(&self, epmd: Epmd, flags: &[&str]) -> Daemon {
        let command = match epmd {
            Epmd::Repmd => self.repmd(flags),
            Epmd::Stock => {
                let mut command = Root::of(RELEASE).command("epmd");
                // It complains of whoever connects and asks nothing, as this does until it listens.
                command.stderr(Stdio::null());
                command
            }
        };
        self.network.inside(|| Daemon::spawn(command, EPMD_PORT))
    }

    /// Starts repmd on a socket that the service manager holds.
    pub(crate) fn serve_on(&self, socket: &TcpListener) -> Daemon {
        self.network.inside(|| Daemon::activate(&self.repmd(&[]), socket))
    }

    fn repmd(&self, flags: &[&str]) -> Command {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let program = std::env::var_os(RELEASE_PROGRAM);
        let mut command = Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_repmd").into()));
        command.args(["serve", "--log", "error", "--host", self.host, "--advertise", &addresses.join(",")]);
        command.args(["--backend", &self.store]).args(flags);
        command
    }

    /// Starts a node, which is registered then.
    pub(crate) fn node(&self, name: &str, inetrc: &str, flags: &[&str]) -> ErlangNode {
        self.node_of(RELEASE, name, inetrc, flags)
    }

    pub(crate) fn node_of(&self, release: &str, name: &str, inetrc: &str, flags: &[&str]) -> ErlangNode {
        let flags = [&["-sname", name], flags].concat();
        let root = Root::of(release);
        self.network.inside(|| ErlangNode::start_knowing(&root, inetrc, EPMD_PORT, &flags))
    }

    /// Where a node listens, as the daemon here says.
    pub(crate) fn find(&self, name: &str) -> Option<u16> {
        self.network.inside(|| lookup_port(EPMD_PORT, name)).map(|found| found.port)
    }

    /// The same once it is known here.
    pub(crate) fn wait_for(&self, name: &str) -> u16 {
        wait_for(&format!("{name} is found at {}", self.host), SOON, || self.find(name))
    }

    /// Where others ask its daemon.
    pub(crate) fn epmd(&self) -> SocketAddr {
        SocketAddr::new(self.addresses[0], EPMD_PORT)
    }

    /// What its daemon shows to operators at this path.
    pub(crate) fn shown(&self, path: &str) -> String {
        self.network.inside(|| http::get(4370, path, &[])).body
    }

    /// Drops what comes to it from `address`, until [`Lab::heal`].
    pub(crate) fn drop_from(&self, address: &str) {
        self.iptables(&format!("-A INPUT -s {address} -j DROP"));
    }

    /// Runs `iptables` there.
    pub(crate) fn iptables(&self, arguments: &str) {
        let arguments: Vec<_> = arguments.split(' ').collect();
        self.network.inside(|| run("iptables", &arguments));
    }
}

/// A resolver that knows these machines.
pub(crate) fn dns(machines: &[&Machine]) -> String {
    let of = |machine: &&Machine| {
        machine.addresses.iter().map(|address| dns_line(machine.host, *address)).collect()
    };
    let lines: Vec<String> = machines.iter().map(of).collect();
    NO_DNS.to_owned() + &lines.concat()
}

fn dns_line(host: &str, address: IpAddr) -> String {
    let tuple = match address {
        IpAddr::V4(address) => address.octets().map(|part| part.to_string()).join(","),
        IpAddr::V6(address) => address.segments().map(|part| part.to_string()).join(","),
    };
    format!("{{host, {{{tuple}}}, [\"{host}\"]}}. ")
}

/// Starts the store, with nothing in it.
fn start_store(network: &Network) -> Daemon {
    let mut command = Root::of(RELEASE).command("redis-server");
    command.args(["--save", "", "--protected-mode", "no"]);
    network.inside(|| Daemon::spawn(command, STORE_PORT))
}

pub(crate) fn kill(mut daemon: Daemon) {
    daemon.signal(Signal::KILL);
    daemon.wait(SOON);
}
