//! `repmd doctor` against faults that are made for real, on hosts with networks of their own, with Erlang nodes,
//! stock EPMDs and stores: each is named by its right cause, and a healthy cluster gives no alarm. Takes root.
#![allow(clippy::unwrap_used)] // All of this is tests.

mod dns;
mod healthy;
mod host;
mod links;
mod node;
mod other_stores;
mod own;
mod store;

use std::process::Stdio;
use std::time::Duration;

use repmd_test_stores::Store;
use repmd_test_support::{Daemon, ErlangNode, Peer, Root, wait_until};

use host::{Host, hosts};

/// By when something must have happened that takes no time.
const SOON: Duration = Duration::from_secs(30);

const PORT: u16 = 4369;

/// The root file system whose Erlang and stock EPMD are used.
const RELEASE: &str = "bookworm";

/// Two hosts, and a store that both reach.
struct Pair {
    a: Host,
    b: Host,
    store: Store,
    // They end before their hosts' store does.
    daemons: Vec<Daemon>,
}

impl Pair {
    /// With a daemon on each that share the store; `of_b` are more flags of the second.
    fn start(of_b: &[&str]) -> Self {
        let mut pair = Self::bare();
        let url = pair.url();
        pair.daemons.push(pair.a.serve(&["--advertise", "10.99.0.1", "--backend", &url]));
        let of_b = [&["--advertise", "10.99.0.2", "--backend", &url][..], of_b].concat();
        pair.daemons.push(pair.b.serve(&of_b));
        pair
    }

    /// With a daemon on the first alone.
    fn with_one() -> Self {
        let mut pair = Self::bare();
        pair.daemons.push(pair.a.serve(&["--advertise", "10.99.0.1", "--backend", &pair.url()]));
        pair
    }

    fn bare() -> Self {
        let (a, b) = hosts();
        let store = a.inside(|| {
            let store = Store::redis();
            store.tell_all(&["CONFIG", "SET", "protected-mode", "no"]);
            store.tell_all(&["CONFIG", "SET", "bind", "10.99.0.1 127.0.0.1"]);
            store
        });
        Self { a, b, store, daemons: Vec::new() }
    }

    fn url(&self) -> String {
        self.store.url().replace("127.0.0.1", "10.99.0.1")
    }

    /// What the doctor on the first host finds on the way to a node.
    fn examine(&self, node: &str) -> host::Found {
        self.a.doctor(&["--backend", &self.url(), node])
    }
}

impl Host {
    /// A daemon on this host, at the ports that all have.
    fn serve(&self, flags: &[&str]) -> Daemon {
        let mut command = self.repmd("serve");
        command.args(flags).stderr(Stdio::null());
        self.inside(|| {
            let daemon = Daemon::spawn(command, PORT);
            let is_shown = || std::net::TcpStream::connect(("127.0.0.1", 4370)).is_ok();
            let has_admin = !flags.windows(2).any(|flags| flags == ["--admin", "off"]);
            wait_until("its API answers", SOON, || !has_admin || is_shown());
            daemon
        })
    }

    /// The stock daemon on this host.
    fn stock_epmd(&self) -> Daemon {
        let command = Root::of(RELEASE).command("epmd");
        self.inside(|| Daemon::spawn(command, PORT))
    }

    /// An Erlang node on this host, which the store has too, if the host's daemon has one.
    fn erlang(&self, flags: &[&str]) -> ErlangNode {
        let node = self.inside(|| ErlangNode::start_with(&Root::of(RELEASE), PORT, flags));
        // A daemon that could not ask it in time tells it later.
        wait_until("the store has it", SOON, || !self.doctor(&[]).has("node-unpublished"));
        node
    }

    /// A registration without a node behind it.
    fn register(&self, name: &str, port: u16) -> Peer {
        self.inside(|| Peer::registered_at(PORT, name, port))
    }
}
