//! `-daemon`.

use std::fs::{read_link, read_to_string};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use repmd_test_support::{Peer, free_port, run, wait_for, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Done, SOON, done, epmd, receive, register};

/// A daemon in the background, found by its command line and ended with this value.
struct Background(Pid);

impl Background {
    fn of(port: u16) -> Self {
        let serves = |pid: &i32| {
            let line = read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // The processes on the way to it have the same command line, but not yet its standard error.
            let stderr = read_link(format!("/proc/{pid}/fd/2")).unwrap_or_default();
            line.contains(&format!("-port\0{port}\0")) && stderr == Path::new("/dev/null")
        };
        let pid = wait_for("the background process", SOON, || {
            let all = std::fs::read_dir("/proc").unwrap();
            all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).find(serves)
        });
        Self(Pid::from_raw(pid).unwrap())
    }

    fn about(&self, file: &str) -> String {
        read_to_string(format!("/proc/{}/{file}", self.0)).unwrap()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::TERM);
    }
}

/// A race for the first node of a host on the stock daemon, which returns first and binds then.
#[test]
fn daemon_returns_once_it_listens() {
    for _ in 0..20 {
        let port = free_port();
        assert_eq!(done(&mut epmd(&format!("-port {port} -daemon"))), Done::new(0, "", ""));
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert_eq!(done(&mut epmd(&format!("-port {port} -kill"))), Done::new(0, "Killed\n", ""));
        wait_until("it has ended", SOON, || TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

#[test]
fn a_daemon_that_cannot_listen_says_why_and_returns_1() {
    let port = free_port();
    for (flags, reason) in [
        ("-address 198.51.100.7", "epmd: failed to bind on ipaddr 198.51.100.7: "),
        ("-address nope", "epmd: cannot parse IP address \"nope\"\n"),
        ("-systemd", "epmd: no listening socket from the service manager: "),
    ] {
        let result = done(&mut epmd(&format!("-port {port} {flags} -daemon")));
        assert_eq!((result.exit, &*result.stdout), (1, ""), "{flags}");
        assert!(result.stderr.starts_with(reason), "{flags}: {}", result.stderr);
    }
}

#[test]
fn the_background_process_has_left_everything_of_its_caller() {
    let port = free_port();
    assert_eq!(done(&mut epmd(&format!("-port {port} -daemon"))), Done::new(0, "", ""));
    let daemon = Background::of(port);
    assert_eq!(read_link(format!("/proc/{}/cwd", daemon.0)).unwrap().to_str(), Some("/"));
    for fd in 0..3 {
        let target = read_link(format!("/proc/{}/fd/{fd}", daemon.0)).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"), "{fd}");
    }
    let status = daemon.about("status");
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    assert_eq!(field("Umask:"), "0000");
    let ignored = u64::from_str_radix(field("SigIgn:"), 16).unwrap();
    assert_eq!(ignored & 1, 1, "SIGHUP is ignored");
    let stat = daemon.about("stat");
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // State, parent, process group, session, terminal.
    assert_ne!(fields[3], daemon.0.to_string(), "no leader of a session, so it never gets a terminal");
    assert_eq!(fields[4], "0", "no terminal");
    kill_process(daemon.0, Signal::HUP).unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
}

/// Starts a daemon in the background by way of `wrapper`, and says how that went.
fn start_through(wrapper: &[&str], port: u16) -> Done {
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(env!("CARGO_BIN_EXE_repmd"));
    done(command.args(["epmd", "-port", &port.to_string(), "-daemon"]).stdin(Stdio::null()))
}

/// It returned 0, and nothing listened. The stock daemon serves there.
#[test]
fn a_root_without_dev_null_has_a_daemon_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("mount --bind {} /dev && exec \"$@\"", folder.path().display());
    let port = free_port();
    let wrapper = ["unshare", "-m", "sh", "-c", &script, "sh"];
    assert_eq!(start_through(&wrapper, port), Done::new(0, "", ""));
    let _node = register(port, "n");
    assert_eq!(done(&mut epmd(&format!("-port {port} -daemon"))).exit, 0);
    assert_eq!(done(&mut epmd(&format!("-port {port} -kill"))).exit, 1, "it has a node");
    drop(_node);
    wait_until("it has ended", SOON, || done(&mut epmd(&format!("-port {port} -kill"))).exit == 0);
}

#[test]
fn whatever_its_caller_left_behind_a_daemon_that_returns_0_serves() {
    for wrapper in [
        &["env", "--ignore-signal=CHLD", "--ignore-signal=PIPE"][..],
        &["env", "--block-signal=TERM", "--block-signal=CHLD", "--block-signal=PIPE", "--block-signal=HUP"],
        &["env", "-i"],
        &["sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh"],
        &["sh", "-c", "ulimit -n 16; exec \"$@\"", "sh"],
        &["sh", "-c", "ulimit -f 0; exec \"$@\"", "sh"],
        &["sh", "-c", "umask 777; exec \"$@\"", "sh"],
        &["sh", "-c", "mkdir /tmp/gone.$$ && cd /tmp/gone.$$ && rmdir /tmp/gone.$$ && exec \"$@\"", "sh"],
    ] {
        let port = free_port();
        assert_eq!(start_through(wrapper, port), Done::new(0, "", ""), "{wrapper:?}");
        drop(register(port, "n"));
        let kill = || done(&mut epmd(&format!("-port {port} -kill"))).exit == 0;
        wait_until(&format!("{wrapper:?}: it ends when told to"), SOON, kill);
    }
}

/// As the stock daemon: `nohup`, or the shell of a job in the background.
#[test]
fn a_signal_that_its_caller_ignores_does_not_end_the_daemon() {
    let port = free_port();
    let wrapper = ["env", "--ignore-signal=TERM", "--ignore-signal=INT"];
    assert_eq!(start_through(&wrapper, port), Done::new(0, "", ""));
    let daemon = Background::of(port);
    let _node = register(port, "n");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(daemon.0, signal).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(repmd_test_support::lookup_port(port, "n").is_some());
    drop(_node);
    wait_until("it ends when told to", SOON, || done(&mut epmd(&format!("-port {port} -kill"))).exit == 0);
}

#[test]
fn a_daemon_that_cannot_run_in_the_background_says_why_and_returns_1() {
    let port = free_port();
    let result = start_through(&["sh", "-c", "ulimit -n 10; exec \"$@\"", "sh"], port);
    let said = "epmd: cannot serve with fewer than 16 open files: see ulimit -n\n";
    assert_eq!(result, Done::new(1, "", said));
    // What only the child finds out.
    let script = format!("ulimit -n 16; REPMD_ADMIN=127.0.0.1:{} exec \"$@\"", free_port());
    let result = start_through(&["sh", "-c", &script, "sh"], port);
    let said = "epmd: the daemon cannot run: Too many open files\n";
    assert_eq!(result, Done::new(1, "", said));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

/// As the stock daemon, of which this is a line: `<11>Nov 27 06:54:27 epmd: epmd: got garbage `. Level LOG_ERR of
/// the facility for users, the local time, the program's name; and faults alone.
#[test]
fn the_background_process_logs_faults_to_the_system_log_as_stock_does() {
    let folder = tempfile::tempdir().unwrap();
    let dev = folder.path().to_str().unwrap();
    run("cp", &["-a", "/dev/null", dev]);
    let log = UnixDatagram::bind(folder.path().join("log")).unwrap();
    log.set_read_timeout(Some(SOON)).unwrap();
    let port = free_port();
    let script = format!("mount --bind {dev} /dev && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh"]).arg(env!("CARGO_BIN_EXE_repmd"));
    command.args(["epmd", "-port", &port.to_string(), "-daemon"]).stdin(Stdio::null());
    assert_eq!(done(&mut command), Done::new(0, "", ""));
    let _daemon = Background::of(port);
    drop(Peer::connect(port));
    let mut bad = Peer::connect(port);
    bad.send(b"\0\x01?").unwrap();
    assert_eq!(bad.read_to_end(SOON), b"");
    let line = receive(&log);
    let (time, text) = line.strip_prefix("<11>").unwrap().split_at("Nov 27 06:54:27".len());
    let shape: String =
        time.chars().map(|character| if character.is_ascii_digit() { '0' } else { character }).collect();
    assert!(shape.ends_with(" 00 00:00:00") || shape.ends_with("  0 00:00:00"), "{line}");
    assert!(time.starts_with(|month: char| month.is_ascii_uppercase()), "{line}");
    assert_eq!(text, " epmd: epmd: got unknown request tag 63 peer=127.0.0.1");
}
