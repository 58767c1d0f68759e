//! RabbitMQ, which asks its EPMD more than others do.

use std::process::{Child, Command, Stdio};

use repmd_test_support::{Daemon, Root, Scratch, free_port, names};

use crate::{otp, output_of, start_daemon, wait_for_node};

const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// A server with folders of its own; killed on drop.
struct RabbitMq<'a> {
    server: Child,
    name: &'a str,
    root: &'a Root,
    home: Scratch,
    epmd_port: u16,
}

impl<'a> RabbitMq<'a> {
    /// Starts a server. As always, it starts the stock daemon first, which must find the port in use.
    fn start(root: &'a Root, name: &'a str, daemon: &Daemon) -> Self {
        let home = root.scratch();
        let cookie = home.path().join(".erlang.cookie");
        std::fs::write(&cookie, "repmd").expect("a scratch folder takes a file");
        output_of(Command::new("chmod").arg("400").arg(&cookie));
        // Contained: the script that runs the server does not end it.
        let mut command = root.contained_command(&format!("{PROGRAMS}/rabbitmq-server"), &[]);
        command.env("HOME", home.inside()).env("ERL_EPMD_PORT", daemon.port().to_string());
        command.env("RABBITMQ_NODENAME", format!("{name}@localhost"));
        command.env("RABBITMQ_NODE_PORT", free_port().to_string());
        command.env("RABBITMQ_DIST_PORT", free_port().to_string());
        for (variable, file) in [
            ("RABBITMQ_MNESIA_BASE", "database"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_PID_FILE", "pid"),
            ("RABBITMQ_CONFIG_FILE", "config"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
        ] {
            command.env(variable, home.inside().join(file));
        }
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("unshare starts");
        let rabbit = Self { server, name, root, home, epmd_port: daemon.port() };
        // The client fails when the node is not there at all.
        wait_for_node(daemon, name);
        rabbit.control(&["await_startup", "--timeout", "120"]);
        rabbit
    }

    /// `rabbitmqctl` for this server.
    fn control(&self, arguments: &[&str]) -> String {
        let mut command = self.root.command(&format!("{PROGRAMS}/rabbitmqctl"));
        command.env("HOME", self.home.inside()).env("ERL_EPMD_PORT", self.epmd_port.to_string());
        output_of(command.args(["-n", &format!("{}@localhost", self.name)]).args(arguments))
    }
}

impl Drop for RabbitMq<'_> {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn two_rabbitmq_servers_form_a_cluster() {
    let daemon = start_daemon();
    let root = otp(25);
    let first = RabbitMq::start(&root, "rabbit1", &daemon);
    let second = RabbitMq::start(&root, "rabbit2", &daemon);
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
