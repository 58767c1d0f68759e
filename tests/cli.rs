//! Both command lines, as programs: what they print where, and how they end. The client commands of the stock
//! program against a daemon that behaves are in `tests/golden.rs`.
#![allow(clippy::unwrap_used)] // All of this file is a test.

#[path = "cli/background.rs"]
mod background;
#[path = "cli/check_config.rs"]
mod check_config;
#[path = "cli/client.rs"]
mod client;
#[path = "cli/https.rs"]
mod https;
#[path = "cli/listen.rs"]
mod listen;
#[path = "cli/logs.rs"]
mod logs;
#[path = "cli/lost_lines.rs"]
mod lost_lines;
#[path = "cli/modern.rs"]
mod modern;
#[path = "cli/overview.rs"]
mod overview;
#[path = "cli/service_manager.rs"]
mod service_manager;
#[path = "cli/settings.rs"]
mod settings;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/units.rs"]
mod units;
#[path = "cli/which_daemon.rs"]
mod which_daemon;
#[path = "cli/words.rs"]
mod words;

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use repmd_test_support::{Daemon, Peer, alive2, free_port};

/// By when something must have happened that takes no time.
const SOON: Duration = Duration::from_secs(10);

/// The program, without the settings of this process's environment.
fn repmd<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("ERL_EPMD_") || name.starts_with("REPMD_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The program with the stock command line.
fn epmd(line: &str) -> Command {
    repmd(["epmd"].into_iter().chain(line.split_whitespace()))
}

/// A daemon in the foreground, started by the stock flags.
fn start(flags: &str) -> Daemon {
    let port = free_port();
    let mut command = epmd(&format!("-port {port} {flags}"));
    command.stderr(Stdio::null());
    Daemon::spawn(command, port)
}

/// Asks a daemon to register a node, and returns its connection once that has answered.
fn register(port: u16, name: &str) -> Peer {
    let mut node = Peer::connect(port);
    node.send(&alive2(name, 4321)).unwrap();
    assert_eq!(node.read(6, SOON).len(), 6);
    node
}

/// The next datagram, as text. A signal to the tests is no reason to give up.
fn receive(socket: &UnixDatagram) -> String {
    let mut text = [0; 1000];
    loop {
        match socket.recv(&mut text) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            length => return String::from_utf8_lossy(&text[..length.unwrap()]).into_owned(),
        }
    }
}

/// How a program ended and what it wrote.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    exit: i32,
    stdout: String,
    stderr: String,
}

impl Done {
    fn new(exit: i32, stdout: &str, stderr: &str) -> Self {
        Self { exit, stdout: stdout.to_owned(), stderr: stderr.to_owned() }
    }
}

/// Runs a program to its end. Hangs if it leaves somebody behind who holds its output open.
fn done(command: &mut Command) -> Done {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { exit: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
