//! An EPMD as a process of its own.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{free_port, wait_for, wait_until};

/// A running daemon; told to end on drop, and killed if it does not.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    /// Starts `program -port PORT FLAGS` on a free port, and waits until it takes connections.
    #[must_use]
    pub fn start(program: &Path, flags: &[&str]) -> Self {
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["-port", &port.to_string()]).args(flags);
        Self::spawn(command, port)
    }

    /// Starts `command`, which is to listen on `port` of 127.0.0.1. Variables of this process that would
    /// change its settings are left out.
    #[must_use]
    pub fn spawn(mut command: Command, port: u16) -> Self {
        command.stdin(Stdio::null());
        let mut daemon = Self::launch(&mut command, port);
        wait_for(&format!("{command:?} listens on port {port}"), Duration::from_secs(10), || {
            if let Some(status) = daemon.ended() {
                panic!("{command:?} ended at once: {status}");
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        daemon
    }

    /// Starts `command` as a service manager does that holds its socket, where whoever comes early waits.
    #[must_use]
    pub fn activate(command: &Command, socket: &TcpListener) -> Self {
        const SCRIPT: &str = "exec 3<&0 0</dev/null && LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "sh"]).arg(command.get_program()).args(command.get_args());
        let passed = socket.try_clone().expect("there is a descriptor for it");
        shell.stdin(OwnedFd::from(passed));
        Self::launch(&mut shell, socket.local_addr().expect("it is bound").port())
    }

    fn launch(command: &mut Command, port: u16) -> Self {
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let is_set = command.get_envs().any(|(set, _)| set == name.as_str());
            if (name.starts_with("ERL_EPMD_") || name.starts_with("REPMD_")) && !is_set {
                command.env_remove(name);
            }
        }
        let child = command.stdout(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child, port }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The number of its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the daemon runs");
    }

    /// Does something while the daemon stands still, so that it finds all of it at once.
    pub fn while_halted(&self, something: impl FnOnce()) {
        self.signal(Signal::STOP);
        wait_until("the daemon is halted", Duration::from_secs(10), || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
            stat.expect("the daemon runs").rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        });
        something();
        self.signal(Signal::CONT);
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        wait_for("the daemon ends", deadline, || self.ended())
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// How many descriptors it has open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the daemon runs").count()
    }

    /// Its resident memory, in KiB.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.kib("VmRSS")
    }

    /// The most that this ever was.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.kib("VmHWM")
    }

    fn kib(&self, field: &str) -> u64 {
        let kib = self.proc_status(field).strip_suffix(" kB").and_then(|kib| kib.parse().ok());
        kib.expect("the kernel says it in KiB")
    }

    /// A field of `/proc/PID/status`.
    #[must_use]
    pub fn proc_status(&self, field: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the daemon runs");
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("status has no {field}")).trim().to_owned()
    }

    /// Its processor time so far.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let path = format!("/proc/{}/schedstat", self.child.id());
        let text = std::fs::read_to_string(path).expect("the daemon runs");
        let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse().ok());
        Duration::from_nanos(nanoseconds.expect("schedstat starts with a number"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(status) = self.ended().filter(|_| std::thread::panicking()) {
            eprintln!("the daemon on port {} had ended: {status}", self.port);
        }
        if self.ended().is_none() {
            self.signal(Signal::TERM);
            let deadline = std::time::Instant::now() + Duration::from_secs(7);
            while self.ended().is_none() {
                if deadline < std::time::Instant::now() {
                    // Not a panic: this may run while a test unwinds.
                    eprintln!("a daemon did not end by SIGTERM and is killed");
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let status = self.child.wait().expect("the daemon was waited for");
        if let Some(signal) = status.signal().filter(|signal| ![9, 15].contains(signal)) {
            eprintln!("a daemon died by signal {signal}");
        }
    }
}

/// `repmd` under the name by which it takes the stock program's command line: a link in `folder`.
#[must_use]
pub fn epmd_program(repmd: &str, folder: &Path) -> PathBuf {
    let link = folder.join("epmd");
    std::os::unix::fs::symlink(repmd, &link).expect("a new folder takes a link");
    link
}
