//! A daemon under load: started, pinned, measured, killed.

use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Which program serves.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// An EPMD that takes the stock program's flags.
    Epmd(PathBuf),
    /// The same with a shared registry, as a daemon of `host`.
    Shared { epmd: PathBuf, url: String, host: String },
    /// The same that shows operators what it does, at this port.
    Shown { epmd: PathBuf, admin: u16 },
    /// The same that answers by DNS at this port.
    Named { epmd: PathBuf, dns: u16 },
    /// This program's own floor: its arguments after the port.
    Floor(Vec<String>),
}

/// A running daemon; killed on drop.
pub(crate) struct Subject {
    child: Child,
    /// Where it listens.
    pub(crate) port: u16,
    /// From the start of the process to the first connection that it took.
    pub(crate) start_time: Duration,
    /// Whether it answers without looking anything up.
    pub(crate) is_floor: bool,
}

impl Subject {
    /// Starts `program`, on one core if `core` is given.
    pub(crate) fn start(program: &Program, port: u16, core: Option<usize>) -> io::Result<Self> {
        let mut command = match program {
            Program::Epmd(path) => {
                let mut command = Command::new(path);
                command.args(["-port", &port.to_string()]);
                command
            }
            Program::Shared { epmd, url, host } => {
                let mut command = Command::new(epmd);
                command.args(["-port", &port.to_string()]);
                command.env("REPMD_BACKEND", url).env("REPMD_HOST", host);
                command
            }
            Program::Shown { epmd, admin } => {
                let mut command = Command::new(epmd);
                command.args(["-port", &port.to_string()]).env("REPMD_ADMIN", format!("127.0.0.1:{admin}"));
                command
            }
            Program::Named { epmd, dns } => {
                let mut command = Command::new(epmd);
                command.args(["-port", &port.to_string()]).env("REPMD_ADVERTISE", "10.0.0.1");
                command.env("REPMD_DNS", format!("127.0.0.1:{dns}"));
                command
            }
            Program::Floor(arguments) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["floor", &port.to_string()]).args(arguments);
                command
            }
        };
        for variable in ["ERL_EPMD_PORT", "ERL_EPMD_ADDRESS", "REPMD_PORT", "REPMD_CONFIG"] {
            command.env_remove(variable);
        }
        let started = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut subject =
            Self { child, port, start_time: Duration::ZERO, is_floor: matches!(program, Program::Floor(_)) };
        if let Some(core) = core {
            pin(Some(subject.pid()), core)?;
        }
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Duration::from_secs(10) < started.elapsed() {
                return Err(io::Error::other(format!("{program:?} does not listen on port {port}")));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        subject.start_time = started.elapsed();
        Ok(subject)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Processor time of all its threads so far.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        tasks.map(|task| cpu_of_task(&task?.path())).sum()
    }

    /// The same of its first thread alone, which serves the wire.
    pub(crate) fn cpu_of_the_wire(&self) -> io::Result<Duration> {
        cpu_of_task(format!("/proc/{0}/task/{0}", self.child.id()).as_ref())
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(1024 * kib.ok_or_else(|| io::Error::other("status has no VmRSS"))?)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It fails when the daemon is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of one thread so far, by its folder in /proc.
fn cpu_of_task(task: &Path) -> io::Result<Duration> {
    let text = std::fs::read_to_string(task.join("schedstat"))?;
    let first = text.split_whitespace().next().and_then(|number| number.parse().ok());
    first.map(Duration::from_nanos).ok_or_else(|| io::Error::other("schedstat has no numbers"))
}

/// Keeps a process, or the calling thread and those that it starts, on one core.
pub(crate) fn pin(pid: Option<Pid>, core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(pid, &cores)?)
}

/// A copy of `repmd` under the name that makes it take the stock program's flags.
pub(crate) fn as_epmd(repmd: &Path, folder: &Path) -> io::Result<PathBuf> {
    let link = folder.join("epmd");
    std::os::unix::fs::symlink(repmd.canonicalize()?, &link)?;
    Ok(link)
}
