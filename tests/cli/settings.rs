//! What the stock program's flags and variables set, and what happens when they are wrong.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::process::Stdio;

use repmd_test_support::{Daemon, Peer, alive2, free_port, names, wait_until};

use crate::{Done, SOON, done, epmd};

/// Starts a daemon by variables alone.
fn start_by(variables: &[(&str, &str)], port: u16) -> Daemon {
    let mut command = epmd("");
    command.env("ERL_EPMD_PORT", port.to_string()).envs(variables.iter().copied()).stderr(Stdio::null());
    Daemon::spawn(command, port)
}

#[test]
fn the_port_comes_from_the_variable_for_daemon_and_client() {
    let port = free_port();
    let _daemon = start_by(&[], port);
    let head = format!("epmd: up and running on port {port} with data:\n");
    assert_eq!(done(epmd("-names").env("ERL_EPMD_PORT", port.to_string())), Done::new(0, &head, ""));
}

#[test]
fn a_flag_wins_over_a_variable() {
    let daemon = crate::start("");
    let mut command = epmd(&format!("-port {} -started", daemon.port()));
    assert_eq!(done(command.env("ERL_EPMD_PORT", free_port().to_string())), Done::new(0, "", ""));
}

#[test]
fn the_variable_for_addresses_is_taken_and_loopback_is_beside_them() {
    let port = free_port();
    let _daemon = start_by(&[("ERL_EPMD_ADDRESS", "127.0.0.7")], port);
    for (address, listens) in [("127.0.0.7", true), ("127.0.0.1", true), ("127.0.0.8", false)] {
        assert_eq!(TcpStream::connect((address, port)).is_ok(), listens, "{address}");
    }
}

#[test]
fn the_variable_relaxes_by_being_set_even_empty_and_a_warning_says_so() {
    for value in ["", "0", "false"] {
        let log = tempfile::NamedTempFile::new().unwrap();
        let port = free_port();
        let mut command = epmd(&format!("-port {port}"));
        command.env("ERL_EPMD_RELAXED_COMMAND_CHECK", value).stderr(log.reopen().unwrap());
        let mut daemon = Daemon::spawn(command, port);
        let mut node = Peer::connect(port);
        node.send(&alive2("n", 1)).unwrap();
        assert_eq!(node.read(6, SOON).len(), 6);
        let stopped = done(&mut epmd(&format!("-port {port} -stop n")));
        assert_eq!(stopped, Done::new(0, "STOPPED\n", ""), "{value:?}");
        assert_eq!(done(&mut epmd(&format!("-port {port} -kill"))), Done::new(0, "Killed\n", ""));
        assert_eq!(daemon.wait(SOON).code(), Some(0));
        let log = std::fs::read_to_string(log.path()).unwrap();
        assert!(log.contains("ERL_EPMD_RELAXED_COMMAND_CHECK relaxes by being set"), "{value:?}: {log}");
    }
}

#[test]
fn a_port_outside_1_to_65535_is_refused() {
    for line in
        ["-port 65536", "-port 70000", "-port 99999999999", "-daemon -port 65536", "-port 65536 -names"]
    {
        let result = done(&mut epmd(line));
        assert_eq!((result.exit, &*result.stdout), (1, ""), "{line}");
        assert!(result.stderr.contains("expected a number from 1 to 65535"), "{line}: {}", result.stderr);
    }
    for value in ["0", "65536", "text", "-1"] {
        let result = done(epmd("-names").env("ERL_EPMD_PORT", value));
        assert_eq!((result.exit, &*result.stdout), (1, ""), "{value}");
        assert!(result.stderr.contains("(from ERL_EPMD_PORT) is wrong"), "{value}: {}", result.stderr);
    }
}

#[test]
fn numbers_end_at_the_first_character_that_is_none() {
    let daemon = crate::start("-packet_timeout 1x");
    let mut silent = Peer::connect(daemon.port());
    assert_eq!(silent.read_to_end(SOON), b"");
    assert_eq!(done(&mut epmd(&format!("-port {}abc -started", daemon.port()))), Done::new(0, "", ""));
}

#[test]
fn delays_for_tests_of_clients_delay() {
    for flag in ["-delay_accept", "-delay_write"] {
        let daemon = crate::start(&format!("{flag} 1"));
        let begin = std::time::Instant::now();
        assert!(names(daemon.port()).is_empty());
        assert!(std::time::Duration::from_millis(900) < begin.elapsed(), "{flag}");
    }
}

/// Health checks connect and close, and must not fill the log; a request that is none is logged.
#[test]
fn a_probe_that_connects_and_closes_is_not_logged() {
    let port = free_port();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = epmd(&format!("-port {port}"));
    command.stderr(log.reopen().unwrap());
    let _daemon = Daemon::spawn(command, port);
    for _ in 0..5 {
        drop(Peer::connect(port));
    }
    let mut cut = Peer::connect(port);
    cut.send(b"\0").unwrap();
    drop(cut);
    let mut bad = Peer::connect(port);
    bad.send(b"\0\x01?").unwrap();
    assert_eq!(bad.read_to_end(SOON), b"");
    let lines = || std::fs::read_to_string(log.path()).unwrap();
    wait_until("the fault is logged", SOON, || lines().contains("127.0.0.1"));
    assert_eq!(lines().matches("\r\n").count(), 1, "{}", lines());
}

#[test]
fn debug_levels_add_up_and_the_classic_lines_are_the_stock_ones() {
    let node_line = "node name already occupied n";
    let logged = |flags: &str| {
        let port = free_port();
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = epmd(&format!("-port {port} {flags}"));
        command.stderr(log.reopen().unwrap());
        let daemon = Daemon::spawn(command, port);
        let mut node = Peer::connect(port);
        node.send(&alive2("n", 1)).unwrap();
        assert_eq!(node.read(6, SOON).len(), 6);
        let mut other = Peer::connect(port);
        other.send(&alive2("n", 1)).unwrap();
        assert_eq!(other.read_to_end(SOON).len(), 6);
        drop(daemon);
        std::fs::read_to_string(log.path()).unwrap()
    };
    let (silent, debug) = (logged(""), logged("-d -d"));
    assert!(silent.contains(node_line) && !silent.contains("registered"), "{silent}");
    assert!(debug.contains("epmd running - daemon = 0") && debug.contains("registered"), "{debug}");
    // `epmd: Tue Nov 24 10:26:10 2026: `
    for line in debug.split_terminator("\r\n") {
        let stamp = line.strip_prefix("epmd: ").and_then(|rest| rest.get(..26)).unwrap();
        assert!(stamp.ends_with(": ") && stamp.as_bytes()[13] == b':', "{line}");
    }
}

/// The drop-in takes repmd's own settings file too.
#[test]
fn a_settings_file_is_read_by_the_stock_command_line_too() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let port = free_port();
    writeln!(File::create(file.path()).unwrap(), "port = {port}").unwrap();
    let mut command = epmd("");
    command.env("REPMD_CONFIG", file.path()).stderr(Stdio::null());
    let daemon = Daemon::spawn(command, port);
    assert_eq!(done(epmd("-started").env("REPMD_CONFIG", file.path())), Done::new(0, "", ""));
    drop(daemon);
}
