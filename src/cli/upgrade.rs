//! `repmd upgrade`: asks a daemon of this machine to go on as the program that is installed now.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use procfs::process::{FDTarget, Process, all_processes};
use rustix::process::{Pid, Signal, kill_process};

use super::modern::{Environment, Failure, complain, say, settings};
use crate::listeners::listening_sockets;
use crate::upgrade::{Last, OUTCOME, Went, read_outcome};

/// Above the time that the new program has, and that the log of the old one may take.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(10);

/// A daemon that can be replaced.
struct Found {
    pid: i32,
    /// Where it says how it went.
    outcome: PathBuf,
}

/// Asks, waits, and says how it went.
pub(super) fn main(matches: &ArgMatches, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let found = match matches.get_one::<i32>("pid") {
        Some(pid) => of_process(*pid)?,
        None => on_port(settings(matches, environment)?.port)?,
    };
    let Found { pid, outcome } = &found;
    let read = || File::open(outcome).and_then(read_outcome);
    let unreadable = |error: io::Error| format!("cannot see how process {pid} is replaced: {error}");
    let before = read().map_err(unreadable)?.number;
    let process = Pid::from_raw(*pid).ok_or_else(|| format!("{pid} is no process"))?;
    kill_process(process, Signal::USR2).map_err(|error| format!("cannot signal process {pid}: {error}"))?;
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE {
        std::thread::sleep(PAUSE);
        match read() {
            Ok(Last { number, went }) if before < number => return tell(*pid, &went),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("process {pid} has ended").into());
            }
            // Half written.
            Ok(_) | Err(_) => {}
        }
    }
    Err(format!("process {pid} does not say within {PATIENCE:?} how it went; see its log").into())
}

fn tell(pid: i32, went: &Went) -> Result<ExitCode, Failure> {
    match went {
        Went::Never => Err(format!("process {pid} says that nobody asked").into()),
        Went::Failed { reason } => {
            complain(&format_args!("not replaced, the old program serves on: {reason}"));
            Ok(ExitCode::FAILURE)
        }
        Went::Replaced { versions: [before, now], nodes: [nodes, lost], paused_ms } => {
            let kept = nodes - lost;
            let plural = if kept == 1 { "" } else { "s" };
            say(format!(
                "process {pid}: repmd {before} is now {now}; {kept} node{plural} kept, {lost} lost, \
                 {paused_ms} ms without answers\n"
            )
            .as_bytes())?;
            Ok(if *lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn of_process(pid: i32) -> Result<Found, String> {
    let process = Process::new(pid).map_err(|error| format!("no process {pid}: {error}"))?;
    let outcome = outcome_of(&process).map_err(|error| format!("cannot look at process {pid}: {error}"))?;
    outcome.ok_or_else(|| format!("process {pid} is no daemon that can be replaced"))
}

/// The daemon that listens there: others hold its sockets too, such as the service manager.
fn on_port(port: u16) -> Result<Found, String> {
    let sockets = listening_sockets(port);
    if sockets.is_empty() {
        return Err(format!("nothing listens on port {port}; `repmd serve` starts one"));
    }
    let listens = |process: &Process| {
        process.fd().is_ok_and(|mut files| {
            files.any(|file| {
                file.is_ok_and(
                    |file| matches!(file.target, FDTarget::Socket(inode) if sockets.contains(&inode)),
                )
            })
        })
    };
    // Processes come and go, and others are not ours to see.
    let processes = all_processes().into_iter().flatten().flatten();
    let mut found = processes.filter(listens).filter_map(|process| outcome_of(&process).ok().flatten());
    found.next().ok_or_else(|| {
        format!("whoever listens on port {port} cannot be replaced, or is another user's: try as root")
    })
}

fn outcome_of(process: &Process) -> Result<Option<Found>, procfs::ProcError> {
    for file in process.fd()? {
        let file = file?;
        // The kernel adds that it is deleted, which such a file always is.
        if matches!(&file.target, FDTarget::MemFD(name) if name.split(' ').next() == Some(OUTCOME)) {
            let outcome = PathBuf::from(format!("/proc/{}/fd/{}", process.pid, file.fd));
            return Ok(Some(Found { pid: process.pid, outcome }));
        }
    }
    Ok(None)
}
