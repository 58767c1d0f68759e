//! What operators see, asked as they ask: by HTTP, from the built daemon or from one that shares a registry
//! with others.
#![allow(clippy::unwrap_used)] // All of this is tests.

mod api;
mod cluster;
mod documents;
mod events;
mod guard;
mod monitoring;
mod stalls;

use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use repmd_test_support::http::get;
use repmd_test_support::{Daemon, Peer, free_port, wait_until};
use serde_json::Value;

/// By when something must have happened that takes no time.
const SOON: Duration = Duration::from_secs(10);

/// A daemon that shows what it does, and where.
fn serve(flags: &[&str]) -> (Daemon, u16) {
    let (port, admin) = (free_port(), free_port());
    let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
    command.args(["serve", "--port", &port.to_string(), "--admin", &format!("127.0.0.1:{admin}")]);
    command.args(["--host", "here"]).args(flags).stderr(Stdio::null());
    let daemon = Daemon::spawn(command, port);
    // It listens on the wire first.
    wait_until("it shows what it does", SOON, || TcpStream::connect(("127.0.0.1", admin)).is_ok());
    (daemon, admin)
}

/// Registers a node and returns its connection, which is the registration.
fn register(port: u16, name: &str) -> Peer {
    Peer::registered_at(port, name, 1234)
}

/// What the API answers, which must be good.
fn json(admin: u16, path: &str) -> Value {
    let reply = get(admin, path, &[]);
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")), "{path}");
    serde_json::from_str(&reply.body).unwrap()
}

/// The names of listed nodes.
fn names(list: &Value) -> Vec<&str> {
    list["nodes"].as_array().unwrap().iter().map(|node| node["node"].as_str().unwrap()).collect()
}
