//! A server that runs: a process, or a container where an engine answers.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

#[cfg(feature = "containers")]
use crate::container::Contained;
use crate::release::Release;

#[derive(Debug)]
pub(crate) enum Running {
    Process(Child),
    #[cfg(feature = "containers")]
    Container(Box<Contained>),
}

impl Running {
    /// Starts the server of a release. What it says goes to `log`; it may write to `folder`.
    pub(crate) fn start(release: Release, arguments: &[String], folder: &Path, log: &Path) -> Self {
        #[cfg(feature = "containers")]
        if release == Release::Installed {
            match Contained::start(arguments, folder) {
                Ok(container) => return Self::Container(Box::new(container)),
                Err(error) => eprintln!("no container ({error}): the installed server is used"),
            }
        }
        #[cfg(not(feature = "containers"))]
        let _ = folder;
        let mut command: Command = release.command();
        let log = File::options().create(true).append(true).open(log).expect("the folder takes a file");
        let errors = log.try_clone().expect("a descriptor is free");
        command.args(arguments).stdin(Stdio::null()).stderr(errors).stdout(log);
        let child = command.spawn();
        Self::Process(child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")))
    }

    /// How it ended, if it did by itself.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self {
            Self::Process(child) => {
                child.try_wait().expect("a child can be waited for").map(|status| status.to_string())
            }
            #[cfg(feature = "containers")]
            Self::Container(_) => None,
        }
    }

    pub(crate) fn pause(&self) {
        match self {
            Self::Process(child) => signal(child, Signal::STOP),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.pause(),
        }
    }

    pub(crate) fn resume(&self) {
        match self {
            Self::Process(child) => signal(child, Signal::CONT),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.resume(),
        }
    }

    /// The processor time of a process. A container's is not counted.
    pub(crate) fn cpu(&self) -> Duration {
        match self {
            Self::Process(child) => {
                let threads =
                    std::fs::read_dir(format!("/proc/{}/task", child.id())).expect("the server runs");
                let of_thread = |thread: std::fs::DirEntry| {
                    // A thread that has ended meanwhile used little.
                    let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
                    text.split_whitespace().next()?.parse::<u64>().ok()
                };
                Duration::from_nanos(threads.flatten().filter_map(of_thread).sum())
            }
            #[cfg(feature = "containers")]
            Self::Container(_) => Duration::ZERO,
        }
    }
}

/// Kills it.
impl Drop for Running {
    fn drop(&mut self) {
        match self {
            Self::Process(child) => {
                // It fails when the process has ended.
                let _ = child.kill();
                let _ = child.wait();
            }
            #[cfg(feature = "containers")]
            Self::Container(_) => {}
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("the server runs");
}
