//! Logs that nobody reads, and logs that cannot be written.

use std::fs::File;
use std::io::{PipeReader, Read, pipe};
use std::process::Command;
use std::time::{Duration, Instant};

use repmd_test_support::{Daemon, Peer, free_port, http, lookup_port, names, run, wait_until};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{SOON, epmd, register, repmd};

/// A daemon whose standard error is a pipe.
fn with_pipe(mut command: Command, port: u16) -> (Daemon, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    command.stderr(writer);
    (Daemon::spawn(command, port), reader)
}

/// A daemon that shows its metrics on `admin`.
fn with_metrics(port: u16, admin: u16, more: &[&str]) -> Command {
    let (port, admin) = (port.to_string(), format!("127.0.0.1:{admin}"));
    repmd(["serve", "--port", &port, "--admin", &admin].iter().chain(more))
}

/// Registers and ends so many nodes, one after the other, and says how long the slowest registration took.
fn register_in_turn(port: u16, count: usize) -> Duration {
    // As long as a name may be, for long lines.
    let name = "\u{1f407}".repeat(250);
    let slowest = (0..count).map(|number| {
        let started = Instant::now();
        let _node = Peer::registered_at(port, &format!("{name}{number:05}"), 4321);
        started.elapsed()
    });
    let slowest = slowest.max().unwrap();
    // Each says so when it ends.
    wait_until("the last one has ended", SOON, || names(port).is_empty());
    slowest
}

/// Reads lines until one of them has this text.
fn read_until(reader: &mut PipeReader, text: &str) -> String {
    let (mut read, mut line) = (String::new(), Vec::new());
    loop {
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
        if byte[0] == b'\n' {
            let whole = String::from_utf8(std::mem::take(&mut line)).unwrap();
            let is_last = whole.contains(text);
            read += &whole;
            if is_last {
                return read;
            }
        }
    }
}

fn lost(admin: u16, log: &str) -> u64 {
    let page = http::get(admin, "/metrics", &[]).body;
    let value = |line: &str| {
        line.strip_prefix(&format!("repmd_log_lines_lost_total{{log=\"{log}\"}} "))?.parse().ok()
    };
    page.lines().find_map(value).unwrap()
}

/// A hung journald, a pager, a log driver that blocks: the wire went on for 64 KiB of lines.
#[test]
fn standard_error_that_nobody_reads_does_not_stop_the_wire_and_what_is_lost_is_said() {
    let (port, admin) = (free_port(), free_port());
    let (_daemon, mut reader) = with_pipe(with_metrics(port, admin, &[]), port);
    let slowest = register_in_turn(port, 1500);
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let lines = lost(admin, "log");
    assert!(0 < lines, "3 MB of lines find no room");
    let log = read_until(&mut reader, "lines of the log were lost");
    let said = log.lines().last().unwrap();
    assert!(said.contains("WARN") && said.contains(&format!("lines={lines}")), "{lines}: {said}");
    // What was read is whole, and in order.
    let numbers: Vec<_> = log.lines().filter(|line| line.contains("registered name=")).collect();
    assert!(
        1000 < numbers.len()
            && numbers.iter().all(|line| line.contains(" port=4321 ") || line.contains("unreg"))
    );
    assert_eq!(lost(admin, "log"), lines);
}

#[test]
fn the_stock_command_line_does_not_wait_for_who_reads_its_log_either() {
    let port = free_port();
    let (_daemon, mut reader) = with_pipe(epmd(&format!("-port {port} -d")), port);
    let slowest = register_in_turn(port, 1500);
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let log = read_until(&mut reader, "lines of the log were lost");
    assert!(log.lines().all(|line| line.starts_with("epmd: ")), "{log}");
}

#[test]
fn standard_error_that_nobody_reads_does_not_keep_the_daemon_from_ending() {
    let port = free_port();
    let (mut daemon, _reader) = with_pipe(epmd(&format!("-port {port} -d")), port);
    register_in_turn(port, 200);
    let started = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(SOON).code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn an_audit_log_on_a_full_disk_is_told_of_in_the_log_and_counted() {
    let (port, admin) = (free_port(), free_port());
    let (_daemon, mut reader) = with_pipe(with_metrics(port, admin, &["--audit-log", "/dev/full"]), port);
    drop(register(port, "n"));
    let log = read_until(&mut reader, "the audit log loses lines");
    let said = log.lines().last().unwrap();
    assert!(said.contains("ERROR") && said.contains("No space left on device"), "{said}");
    wait_until("both lines are counted", SOON, || lost(admin, "audit") == 2);
}

#[test]
fn an_audit_log_that_stands_still_is_told_of_when_it_begins_and_when_it_ends() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit");
    run("mkfifo", &[path.to_str().unwrap()]);
    // Both ends, so that nobody waits for the other.
    let mut audit = File::options().read(true).write(true).open(&path).unwrap();
    let (port, admin) = (free_port(), free_port());
    let command = with_metrics(port, admin, &["--log", "warn", "--audit-log", path.to_str().unwrap()]);
    let (_daemon, mut reader) = with_pipe(command, port);
    while lost(admin, "audit") == 0 {
        register_in_turn(port, 500);
    }
    assert!(read_until(&mut reader, "the audit log loses lines").contains("nobody takes them"));
    let drain = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut some = [0; 65536];
        while !text.ends_with(b"\n")
            || !String::from_utf8_lossy(&text).contains("lines of the audit log were lost")
        {
            let count = audit.read(&mut some).unwrap();
            // All but the end is of no interest.
            text.clear();
            text.extend_from_slice(&some[..count]);
        }
        String::from_utf8(text).unwrap()
    });
    let log = read_until(&mut reader, "lines of the audit log were lost");
    let audited = drain.join().unwrap();
    let said: serde_json::Value = serde_json::from_str(audited.lines().last().unwrap()).unwrap();
    assert!(log.contains(&format!("lines={}", said["lines"])), "{log}");
    assert!(lookup_port(port, "nobody").is_none());
}

#[test]
fn an_audit_log_that_is_a_pipe_without_a_reader_stops_the_start() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit");
    run("mkfifo", &[path.to_str().unwrap()]);
    let port = free_port().to_string();
    let result = crate::done(&mut repmd(["serve", "--port", &port, "--audit-log", path.to_str().unwrap()]));
    assert_eq!(result.exit, 1);
    assert!(result.stderr.contains("audit-log: cannot open"), "{}", result.stderr);
}

/// The file grows until it may not, which is a signal by default.
#[test]
fn a_limit_of_the_size_of_files_ends_the_log_and_not_the_daemon() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit");
    let (port, admin) = (free_port(), free_port());
    let serve = with_metrics(port, admin, &["--log", "off", "--audit-log", path.to_str().unwrap()]);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 1 && exec \"$@\"", "sh"]).arg(serve.get_program()).args(serve.get_args());
    let _daemon = Daemon::spawn(command, port);
    register_in_turn(port, 10);
    wait_until("lines are lost", SOON, || 0 < lost(admin, "audit"));
    register_in_turn(port, 10);
}
