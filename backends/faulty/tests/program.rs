//! The program of `examples/repmd-faulty.rs`: a kind of registry that no crate of repmd's knows, beside those that it has.
#![allow(clippy::unwrap_used)] // All of this is tests.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use repmd_test_stores::Store;
use repmd_test_support::{Daemon, Peer, free_port, lookup_port, wait_until};

const SOON: Duration = Duration::from_secs(20);

/// Cargo builds it beside the tests.
fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    deps.parent().unwrap().parent().unwrap().join("examples/repmd-faulty")
}

fn daemon(url: &str, host: &str) -> Daemon {
    let port = free_port();
    let mut command = Command::new(program());
    command.args(["serve", "--address", "127.0.0.1", "--port", &port.to_string(), "--admin", "off"]);
    command.args(["--backend", url, "--host", host, "--lease-ttl", "2s"]).stderr(Stdio::null());
    Daemon::spawn(command, port)
}

#[test]
fn a_kind_of_somebody_elses_serves_two_hosts_and_its_faults_disturb_no_node() {
    let store = Store::redis();
    let url = format!("faulty+{}", store.url());
    let (a, b) = (daemon(&url, "a"), daemon(&url, "b"));
    let nodes: Vec<_> = (0..20).map(|number| Peer::registered(a.port(), &format!("n{number}"))).collect();
    for number in 0..20 {
        wait_until("the other host finds it", SOON, || {
            lookup_port(b.port(), &format!("n{number}@a")).is_some()
        });
    }
    drop(nodes);
}

#[test]
fn what_it_has_is_said_where_a_url_is_of_no_kind() {
    let output =
        Command::new(program()).args(["check-config", "--backend", "postgres://h"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("memory, redis://") && said.contains("faulty+redis://"), "{said}");
}

#[test]
fn the_guide_shows_its_main_function() {
    let guide = include_str!("../../../docs/backends.md");
    let source = include_str!("../examples/repmd-faulty.rs");
    let main = &source[source.find("fn main()").unwrap()..];
    assert!(guide.contains(main), "docs/backends.md lacks\n{main}");
}
