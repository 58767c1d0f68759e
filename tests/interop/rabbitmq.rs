//! RabbitMQ, which asks its EPMD more than others do.

use repmd_test_support::{Daemon, RabbitMq, Root, free_port, names};

use crate::{otp, output_of, start_daemon, wait_for_node};

/// A server, and where its clients find it.
struct Broker<'a> {
    server: RabbitMq,
    name: &'a str,
    root: &'a Root,
    epmd_port: u16,
}

impl<'a> Broker<'a> {
    fn start(root: &'a Root, name: &'a str, daemon: &Daemon) -> Self {
        let node = format!("{name}@localhost");
        let server = RabbitMq::spawn(root, &node, daemon.port(), free_port(), &[], |_, _| {});
        let broker = Self { server, name, root, epmd_port: daemon.port() };
        // The client fails when the node is not there at all.
        wait_for_node(daemon, name);
        broker.control(&["await_startup", "--timeout", "120"]);
        broker
    }

    /// `rabbitmqctl` for this server.
    fn control(&self, arguments: &[&str]) -> String {
        let mut command = self.root.command("/usr/lib/rabbitmq/bin/rabbitmqctl");
        command.env("HOME", self.server.home().inside()).env("ERL_EPMD_PORT", self.epmd_port.to_string());
        output_of(command.args(["-n", &format!("{}@localhost", self.name)]).args(arguments))
    }
}

#[test]
fn two_rabbitmq_servers_form_a_cluster() {
    let daemon = start_daemon();
    let root = otp(25);
    let first = Broker::start(&root, "rabbit1", &daemon);
    let second = Broker::start(&root, "rabbit2", &daemon);
    second.control(&["stop_app"]);
    second.control(&["join_cluster", "rabbit1@localhost"]);
    second.control(&["start_app"]);

    for server in [&first, &second] {
        let status = server.control(&["cluster_status"]);
        let running = status.split("\n\n").skip_while(|part| !part.contains("Running Nodes")).nth(1);
        let mut running: Vec<&str> = running.unwrap_or_else(|| panic!("in {status}")).lines().collect();
        running.sort_unstable();
        assert_eq!(running, ["rabbit1@localhost", "rabbit2@localhost"], "{}", server.name);
    }
    let mut listed: Vec<String> = names(daemon.port()).into_iter().map(|(name, _)| name).collect();
    listed.sort_unstable();
    assert_eq!(listed, ["rabbit1", "rabbit2"]);
}
