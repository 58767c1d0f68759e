//! A daemon whose program can be exchanged.

use std::fs::{File, read_to_string, rename, write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use repmd_test_support::{Daemon, Peer, free_port, http};
use serde_json::Value;
use tempfile::TempDir;

use crate::SOON;

pub(crate) const REPMD: &str = env!("CARGO_BIN_EXE_repmd");

pub(crate) struct Stage {
    daemon: Daemon,
    admin: u16,
    notified: Arc<Mutex<String>>,
    folder: TempDir,
}

/// Runs a program to its end, which must be a good one, and returns what it wrote.
pub(crate) fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {status}, {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

impl Stage {
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_with(settings, "")
    }

    /// With settings in a file, which can be changed.
    pub(crate) fn start_with(settings: &[&str], config: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        symlink(REPMD, path("repmd")).unwrap();
        write(path("repmd.toml"), config).unwrap();
        let socket = UnixDatagram::bind(path("notify")).unwrap();
        let notified = Arc::<Mutex<String>>::default();
        let told = Arc::clone(&notified);
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                *told.lock().unwrap() += &String::from_utf8_lossy(&message[..length]);
            }
        });
        let (port, admin) = (free_port(), free_port());
        let mut command = Command::new(path("repmd"));
        command.args(["serve", "--address", "127.0.0.1", "--port", &port.to_string()]).args(settings);
        command.args(["--admin", &format!("127.0.0.1:{admin}")]).arg("--config").arg(path("repmd.toml"));
        command.env("NOTIFY_SOCKET", path("notify")).stderr(File::create(path("log")).unwrap());
        Self { daemon: Daemon::spawn(command, port), admin, notified, folder }
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.daemon.ended().is_none()
    }

    pub(crate) fn port(&self) -> u16 {
        self.daemon.port()
    }

    pub(crate) fn admin(&self) -> u16 {
        self.admin
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        read_to_string(self.path("log")).unwrap()
    }

    pub(crate) fn notified(&self) -> String {
        self.notified.lock().unwrap().clone()
    }

    /// Puts a script where the program is.
    pub(crate) fn install_script(&self, script: &str) {
        let new = self.path("new");
        write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
        rename(new, self.path("repmd")).unwrap();
    }

    /// Puts the program back.
    pub(crate) fn install_repmd(&self) {
        symlink(REPMD, self.path("new")).unwrap();
        rename(self.path("new"), self.path("repmd")).unwrap();
    }

    fn asked_to_upgrade(&self) -> Command {
        let mut command = Command::new(REPMD);
        command.args(["upgrade", "--pid", &self.daemon.pid().as_raw_nonzero().to_string()]);
        command
    }

    /// Replaces the program, and returns what the command says.
    pub(crate) fn upgrade(&self) -> String {
        output(&mut self.asked_to_upgrade())
    }

    /// The same where it must fail: why.
    pub(crate) fn fail_to_upgrade(&self) -> String {
        let output = self.asked_to_upgrade().output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn connect(&self) -> Peer {
        Peer::connect(self.port())
    }

    /// Registers a node and returns its connection, which is the registration.
    pub(crate) fn register(&self, name: &str, port: u16) -> Peer {
        Peer::registered_at(self.port(), name, port)
    }

    /// Registers a node that ends at once.
    pub(crate) fn creation_of_a_life(&self, name: &str) -> u32 {
        self.connect().register(name, 5000)
    }

    /// What operators see of its nodes, by their names: creations, times, holders.
    pub(crate) fn nodes(&self) -> Vec<Value> {
        let reply = http::get(self.admin, "/api/v1/nodes?limit=10000", &[]);
        let list: Value = serde_json::from_str(&reply.body).unwrap();
        let mut nodes = list["nodes"].as_array().expect("a list of nodes").clone();
        nodes.sort_by_key(|node| node["node"].as_str().unwrap().to_owned());
        for node in &mut nodes {
            // They change with time.
            for changing in ["alive_seconds", "lease_left_ms"] {
                node.as_object_mut().unwrap().remove(changing);
            }
        }
        nodes
    }

    /// The whole answer to DUMP, with the numbers of descriptors.
    pub(crate) fn dump(&self) -> Vec<u8> {
        let mut peer = self.connect();
        peer.send(b"\0\x01d").unwrap();
        peer.read_to_end(SOON)
    }

    /// How much memory it has, in MiB.
    pub(crate) fn memory(&self) -> u64 {
        self.daemon.memory() / 1024
    }
}
