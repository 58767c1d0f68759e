//! RabbitMQ servers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{COOKIE, Root, Scratch, free_port};

/// A server with folders of its own; killed on drop.
#[derive(Debug)]
pub struct RabbitMq {
    command: Command,
    server: Child,
    home: Scratch,
}

impl RabbitMq {
    /// Starts the server `node`, whose distribution port is `port`. `prepare` may add to its variables and to its
    /// home; `mounts` as in [`Root::contained_command`]. As always, it starts the stock daemon first, which must find its port in use.
    #[must_use]
    pub fn spawn(
        root: &Root,
        node: &str,
        epmd_port: u16,
        port: u16,
        mounts: &[(&Path, &str)],
        prepare: impl FnOnce(&mut Command, &Scratch),
    ) -> Self {
        let home = root.scratch();
        let cookie = home.path().join(".erlang.cookie");
        fs::write(&cookie, COOKIE).expect("a scratch folder takes a file");
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400)).expect("the file is ours");
        // Contained: the script that runs the server does not end it.
        let mut command = root.contained_command("/usr/lib/rabbitmq/bin/rabbitmq-server", mounts);
        command.env("HOME", home.inside()).env("ERL_EPMD_PORT", epmd_port.to_string());
        command.env("RABBITMQ_NODENAME", node).env("RABBITMQ_NODE_PORT", free_port().to_string());
        command.env("RABBITMQ_DIST_PORT", port.to_string());
        for (variable, file) in [
            ("RABBITMQ_MNESIA_BASE", "database"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_PID_FILE", "pid"),
            ("RABBITMQ_CONFIG_FILE", "config"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
        ] {
            command.env(variable, home.inside().join(file));
        }
        prepare(&mut command, &home);
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("unshare starts");
        Self { command, server, home }
    }

    /// Kills it, and starts it with what it had on its disk.
    pub fn restart(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        self.server = self.command.spawn().expect("unshare starts");
    }

    /// Its folder.
    #[must_use]
    pub fn home(&self) -> &Scratch {
        &self.home
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
