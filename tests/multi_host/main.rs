//! Erlang nodes on several machines: in which topologies they reach each other by repmd and not by the stock
//! daemon, what they see when networks fall apart or daemons restart, and how RabbitMQ fares.
//!
//! The machines are network namespaces, and the nodes run in root file systems (`tests/roots`). `./test` runs
//! this, as root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod addresses;
mod come_and_go;
mod disks;
mod dns;
mod families;
mod identity;
mod lab;
mod links;
mod names;
mod partitions;
mod rabbitmq;
mod restart;
mod topologies;

use std::time::Duration;

use repmd_test_support::{ErlangNode, Root, Scratch};

/// For what happens by itself; far above what it takes, as other tests keep the machine busy.
const SOON: Duration = Duration::from_secs(30);

const EPMD_PORT: u16 = 4369;

/// The root file system whose Erlang, stock EPMD, RabbitMQ and Redis are used.
const RELEASE: &str = "bookworm";

fn ping(node: &mut ErlangNode, name: &str) -> String {
    node.eval(&format!("net_adm:ping('{name}')"))
}

/// Makes a node listen on this port.
fn on_port(port: &str) -> [&str; 5] {
    ["-kernel", "inet_dist_listen_min", port, "inet_dist_listen_max", port]
}

/// `repmd_epmd`, compiled.
struct Module(Scratch);

impl Module {
    fn compile() -> Self {
        let root = Root::of(RELEASE);
        let folder = root.scratch();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/erlang/repmd/src/repmd_epmd.erl");
        std::fs::copy(source, folder.path().join("repmd_epmd.erl")).unwrap();
        let mut compiler = root.command("erlc");
        let status =
            compiler.arg("-o").arg(folder.inside()).arg(folder.inside().join("repmd_epmd.erl")).status();
        assert!(status.unwrap().success());
        Self(folder)
    }

    /// What makes a node dial by it.
    fn flags(&self) -> [&str; 4] {
        ["-epmd_module", "repmd_epmd", "-pa", self.0.inside().to_str().unwrap()]
    }
}
