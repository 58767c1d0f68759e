//! Real Erlang nodes of several releases, Elixir, C nodes and RabbitMQ against the built daemon.
//!
//! They run in root file systems (`tests/roots`); `./test` makes them and runs this.

mod autostart;
mod c_node;
mod debian_package;
mod elixir;
mod every_release;
mod one_release;
mod orphans;
mod rabbitmq;
mod upgrade;

use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use repmd_test_support::{Daemon, Root, free_port, lookup_port, wait_for};
use rustix::process::{Pid, Signal, kill_process};

const REPMD: &str = env!("CARGO_BIN_EXE_repmd");

/// For what a node does by itself; far above what it takes, as other tests keep the machine busy.
const SOON: Duration = Duration::from_secs(20);

/// How long a program may take that ends by itself.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(120);

/// The Debian release that has an Erlang/OTP of this number.
fn otp(number: u32) -> Root {
    Root::of(match number {
        23 => "bullseye",
        25 => "bookworm",
        27 => "trixie",
        29 => "sid",
        _ => panic!("no root has OTP {number}"),
    })
}

fn start_daemon() -> Daemon {
    start_daemon_on(free_port())
}

fn start_daemon_on(port: u16) -> Daemon {
    let mut command = Command::new(REPMD);
    command.args(["serve", "--log", "warn", "--port", &port.to_string()]);
    Daemon::spawn(command, port)
}

/// Where a node listens, once it is registered.
fn wait_for_node(daemon: &Daemon, name: &str) -> u16 {
    wait_for(&format!("{name} is registered"), SOON, || lookup_port(daemon.port(), name)).port
}

/// Runs a program to its end, and gives what it wrote to standard output. It must end well.
fn output_of(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = run(command);
    let (text, errors) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?} ended with {status}:\n{text}{errors}");
    text.into_owned()
}

/// Runs a program to its end.
fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let pid = Pid::from_child(&child);
    let (send, ended) = channel();
    std::thread::spawn(move || send.send(child.wait_with_output()));
    match ended.recv_timeout(PROGRAM_DEADLINE) {
        Ok(output) => output.expect("a child can be waited for"),
        Err(_) => {
            let _ = kill_process(pid, Signal::KILL);
            panic!("{command:?} does not end within {PROGRAM_DEADLINE:?}");
        }
    }
}

/// The client of the stock daemon, of one release, asking the daemon on `port`.
fn stock_epmd(root: &Root, port: u16, arguments: &[&str]) -> Command {
    let mut command = root.command("epmd");
    command.args(["-port", &port.to_string()]).args(arguments);
    command
}
