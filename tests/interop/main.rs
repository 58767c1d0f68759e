//! Real Erlang nodes of several releases, Elixir, C nodes and RabbitMQ against the built daemon.
//!
//! They run in root file systems (`tests/roots`); `./test` makes them and runs this.

mod autostart;
mod c_node;
mod elixir;
mod every_release;
mod one_release;
mod rabbitmq;

use std::process::Command;
use std::time::Duration;

use repmd_test_support::{Daemon, Root, free_port, lookup_port, wait_for};

const REPMD: &str = env!("CARGO_BIN_EXE_repmd");

/// For what a node does by itself; far above what it takes, as other tests keep the machine busy.
const SOON: Duration = Duration::from_secs(20);

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
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{text}{errors}", output.status);
    text
}

/// The client of the stock daemon, of one release, asking the daemon on `port`.
fn stock_epmd(root: &Root, port: u16, arguments: &[&str]) -> Command {
    let mut command = root.command("epmd");
    command.args(["-port", &port.to_string()]).args(arguments);
    command
}
