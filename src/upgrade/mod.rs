//! Another program in the place of this one, under its nodes: `repmd upgrade`, or SIGUSR2.
//!
//! The process stays the same, so that service managers, containers and files with its number notice nothing. The new
//! program first runs as a child that reads a copy of the state, and says how many nodes it would serve. Only where that
//! is each of them does the process become the new program, by `exec`, with all sockets open. Whatever fails before
//! leaves the old one serving.
//!
//! The same state goes to the service manager, line by line, for a run that comes after this one has ended (`kept`), and
//! the nodes alone to a file (`remembered`).

mod kept;
mod outcome;
mod remembered;
mod state;

pub use kept::{Kept, before};
pub use outcome::{Last, NAME as OUTCOME, Outcome, Went, read as read_outcome};
pub use remembered::{from_bytes, to_bytes};
pub use state::{Identity, State};

use std::ffi::OsString;
use std::fs::File;
use std::future::pending;
use std::io::{self, IsTerminal as _, Read, Seek, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::listen::Sockets;
use crate::relay::Relay;
use crate::server::{AliveSocket, Carried, Daemon, Replace};
use crate::telemetry;

/// Says to a program that it begins with the state of another one: `check` on its standard input, or the number of this
/// process and of a descriptor.
const VARIABLE: &str = "REPMD_UPGRADE";
const CHECK: &str = "check";

/// How long the new program may take to say that it can serve the nodes.
const CHECK_TIME: Duration = Duration::from_secs(5);
const CHECK_PAUSE: Duration = Duration::from_millis(5);

/// The most of what it says that is read.
const SAID_BYTES_MAX: u64 = 4096;

/// How long the last log lines of the old program may hold up the new one.
const LOG_TIME: Duration = Duration::from_millis(20);

/// The most bytes of a state that are read: a thousand for each of a million nodes.
const STATE_BYTES_MAX: u64 = 1 << 30;

/// How a run of the program begins.
#[derive(Debug)]
pub enum Begin {
    /// Without nodes.
    Anew,
    /// Only to see whether it could take over.
    Check(Box<State>),
    /// In the place of the program before.
    Resume(Box<State>),
}

/// What a program says that could take over.
#[derive(Debug, Serialize, Deserialize)]
struct CouldServe {
    version: String,
    nodes: usize,
}

/// Looks how this run begins.
///
/// # Errors
/// When there is a state, and it cannot be read.
pub fn begin(variable: &dyn Fn(&str) -> Option<String>) -> io::Result<Begin> {
    let Some(how) = variable(VARIABLE) else { return Ok(Begin::Anew) };
    if how == CHECK {
        return Ok(Begin::Check(Box::new(State::read(&mut io::stdin().take(STATE_BYTES_MAX))?)));
    }
    // One for another process is what a child has inherited.
    let fd = how.split_once(':').filter(|(pid, _)| *pid == std::process::id().to_string());
    let Some(fd) = fd.and_then(|(_, fd)| fd.parse().ok()).filter(|fd| 2 < *fd) else {
        return Ok(Begin::Anew);
    };
    let mut file = File::from(repmd_sys::inherit(fd)?);
    file.rewind()?;
    Ok(Begin::Resume(Box::new(State::read(&mut file.take(STATE_BYTES_MAX))?)))
}

/// The sockets that listen, which the program before left.
#[derive(Debug)]
pub struct Inherited {
    /// For the wire.
    pub wire: Vec<TcpListener>,
    /// The others.
    pub others: OtherSockets,
    /// Where whoever asked for the replacement looks how it went.
    pub outcome: Outcome,
}

impl Inherited {
    /// Takes the sockets over that `state` names. To be called once.
    ///
    /// # Errors
    /// When one was not left open.
    pub fn take(state: &State) -> io::Result<Self> {
        fn all<T: From<OwnedFd>>(numbers: &[i32]) -> io::Result<Vec<T>> {
            numbers.iter().map(|number| repmd_sys::inherit(*number).map(T::from)).collect()
        }
        let state::Sockets { wire, dns_udp, dns_tcp, admin, outcome } = &state.sockets;
        let admin = admin.map(repmd_sys::inherit).transpose()?;
        Ok(Self {
            wire: all(wire)?,
            others: OtherSockets {
                dns: Sockets { udp: all(dns_udp)?, tcp: all(dns_tcp)? },
                admin: admin.map(TcpListener::from),
            },
            outcome: Outcome::inherited(repmd_sys::inherit(*outcome)?),
        })
    }
}

/// Tells the program before that this one could serve `nodes`.
///
/// # Errors
/// When nobody listens.
pub fn tell_could_serve(nodes: usize) -> io::Result<()> {
    let said = CouldServe { version: env!("CARGO_PKG_VERSION").to_owned(), nodes };
    writeln!(io::stdout(), "{}", serde_json::to_string(&said)?)
}

/// The time of a clock that all programs of this machine share.
#[must_use]
pub fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

/// How this program was called, and so how the next one is.
#[derive(Clone, Debug)]
pub struct Called {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Called {
    /// To be asked before the process goes to another directory.
    ///
    /// # Errors
    /// When this program's file is not known.
    pub fn now() -> io::Result<Self> {
        let arguments: Vec<_> = std::env::args_os().collect();
        // By the path that it was called by, which may be a link to whichever is current. A bare name says nothing: it
        // may be another's, `epmd` above all.
        let path = arguments.first().map(PathBuf::from).filter(|path| path.components().nth(1).is_some());
        let program = match path {
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?,
        };
        Ok(Self { program, arguments })
    }

    fn command(&self, how: &str) -> Command {
        let mut command = Command::new(&self.program);
        if let Some((called, arguments)) = self.arguments.split_first() {
            command.arg0(called).args(arguments);
        }
        command.env(VARIABLE, how);
        command
    }
}

/// The sockets that stay, beside those of the wire and of nodes.
#[derive(Debug)]
pub struct OtherSockets {
    /// For DNS.
    pub dns: Sockets,
    /// For operators.
    pub admin: Option<TcpListener>,
}

/// Who replaces this program.
#[derive(Debug)]
pub struct Upgrader {
    /// How the next program is called.
    pub called: Called,
    /// What stays open.
    pub sockets: OtherSockets,
    /// Where whoever asked for it looks how it went.
    pub outcome: Outcome,
    /// Whether a hang-up asks for it, too.
    pub reloads: bool,
    /// The daemon that goes on.
    pub daemon: Arc<Daemon>,
    /// Whoever serves the wire, which must pause.
    pub replacements: mpsc::Sender<Replace>,
}

impl Upgrader {
    /// The signal that asks for it. To be listened to before somebody may send it: by default it ends the process.
    ///
    /// # Errors
    /// When there can be no handler.
    pub fn signal() -> io::Result<Signal> {
        tokio::signal::unix::signal(SignalKind::user_defined2())
    }

    /// The signal that asks to read the settings again, for which the same program takes its own place. `None`: whoever
    /// started this program ignores it, as `nohup` does, or it comes of the end of a terminal. The program `before` in this
    /// process ignored it at its end.
    ///
    /// # Errors
    /// When there can be no handler.
    pub fn reload_signal(before: Option<&State>) -> io::Result<Option<Signal>> {
        let kind = SignalKind::hangup();
        let is_ignored = || repmd_sys::is_ignored(kind.as_raw_value()) || io::stdin().is_terminal();
        if before.map_or_else(is_ignored, |before| !before.reloads) {
            return Ok(None);
        }
        tokio::signal::unix::signal(kind).map(Some)
    }

    /// Replaces the program whenever somebody asks by one of these signals, one at a time.
    pub async fn keep(self, mut asked: Signal, mut reload: Option<Signal>) {
        let upgrader = Arc::new(self);
        loop {
            let to_reload = async {
                match &mut reload {
                    Some(reload) => reload.recv().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                _ = asked.recv() => {}
                _ = to_reload => {}
            }
            info!(program = %upgrader.called.program.display(), "another program is to go on in this one's place");
            let why = Arc::clone(&upgrader).replace().await;
            error!(reason = why, "the program is not replaced, and serves on");
            upgrader.outcome.tell(&Went::Failed { reason: why });
        }
    }

    /// Returns only where it failed: why.
    async fn replace(self: Arc<Self>) -> String {
        let version = match self.try_out().await {
            Ok(version) => version,
            Err(why) => return why,
        };
        info!(version, "the new program can serve every node");
        let (failed, failure) = oneshot::channel();
        let upgrader = Arc::clone(&self);
        let replace: Replace = Box::new(move |carried, listeners, since| {
            // It fails when nobody waits any longer.
            let _ = failed.send(upgrader.become_the_new_one(carried, listeners, since.elapsed()));
        });
        if self.replacements.send(replace).await.is_err() {
            return "the daemon is about to end".to_owned();
        }
        match failure.await {
            Ok(error) => format!("cannot run {}: {error}", self.called.program.display()),
            Err(_) => "what is under way did not pause".to_owned(),
        }
    }

    /// Runs the new program on a copy of the state. Returns its version.
    async fn try_out(&self) -> Result<String, String> {
        let (carried, called) = (self.daemon.carried(), self.called.clone());
        let nodes = carried.nodes.len();
        let state = self.state(&carried, &[], Duration::ZERO);
        // The state of many nodes takes some milliseconds to write, and a program may take seconds.
        let tried = tokio::task::spawn_blocking(move || {
            let file = state.into_file().map_err(|error| format!("cannot write the state: {error}"))?;
            try_out(&called, file)
        });
        let said = tried.await.map_err(|error| error.to_string())??;
        if said.nodes == nodes {
            Ok(said.version)
        } else {
            Err(format!("the new program would serve {} of {nodes} nodes", said.nodes))
        }
    }

    /// `paused`: for how long nobody has been served.
    fn state(
        &self,
        carried: &Carried<Arc<AliveSocket>>,
        listeners: &[BorrowedFd<'_>],
        paused: Duration,
    ) -> State {
        let OtherSockets { dns, admin } = &self.sockets;
        State::new(
            &self.daemon,
            carried,
            paused,
            self.reloads,
            state::Sockets {
                wire: listeners.iter().map(AsRawFd::as_raw_fd).collect(),
                dns_udp: dns.udp.iter().map(AsRawFd::as_raw_fd).collect(),
                dns_tcp: dns.tcp.iter().map(AsRawFd::as_raw_fd).collect(),
                admin: admin.as_ref().map(AsRawFd::as_raw_fd),
                outcome: self.outcome.as_fd().as_raw_fd(),
            },
        )
    }

    /// Returns only where it failed.
    fn become_the_new_one(
        &self,
        carried: &Carried<Arc<AliveSocket>>,
        listeners: &[BorrowedFd<'_>],
        paused: Duration,
    ) -> io::Error {
        let state = match self.state(carried, listeners, paused).into_file() {
            Ok(state) => state,
            Err(error) => return error,
        };
        if let Some(connections) = self.daemon.relay().map(Relay::connections).filter(|count| 0 < *count) {
            warn!(connections, "relayed connections end with the old program");
        }
        telemetry::settle(LOG_TIME);
        let OtherSockets { dns, admin } = &self.sockets;
        let nodes = carried.nodes.iter().map(|node| node.socket.as_fd());
        let under_way = carried.under_way.iter().map(|under_way| under_way.socket.as_fd());
        let dns = dns.udp.iter().map(AsFd::as_fd).chain(dns.tcp.iter().map(AsFd::as_fd));
        let own = [state.as_fd(), self.outcome.as_fd()].into_iter().chain(admin.as_ref().map(AsFd::as_fd));
        let all: Vec<_> =
            nodes.chain(under_way).chain(dns).chain(own).chain(listeners.iter().copied()).collect();
        let keep_open = |flags| all.iter().try_for_each(|fd| fcntl_setfd(fd, flags));
        // Whoever asks again before the new program listens would end it.
        let signals = [SignalKind::user_defined2(), SignalKind::hangup()];
        let _ignored = signals.map(|kind| repmd_sys::ignore(kind.as_raw_value()));
        let how = format!("{}:{}", std::process::id(), state.as_raw_fd());
        let error = match keep_open(FdFlags::empty()) {
            Ok(()) => self.called.command(&how).exec(),
            Err(error) => error.into(),
        };
        // Children of this program must not keep them.
        let _ = keep_open(FdFlags::CLOEXEC);
        error
    }
}

/// A file without a name, which nobody changes any more.
fn sealed_file(write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    let fd = memfd_create("repmd-state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    write(&mut file)?;
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::WRITE | SealFlags::SEAL)?;
    Ok(file)
}

/// Lets the new program read `state`, and hears what it says.
fn try_out(called: &Called, state: File) -> Result<CouldServe, String> {
    let program = called.program.display();
    let mut command = called.command(CHECK);
    command.stdin(state).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
    let said = child.stdout.take().map(read_beside);
    let complaints = child.stderr.take().map(read_beside);
    let status = wait_for(&mut child).map_err(|error| format!("cannot wait for {program}: {error}"))?;
    let Some(status) = status else {
        return Err(format!("{program} does not say within {CHECK_TIME:?} that it can serve the nodes"));
    };
    let text = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
        let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    };
    let (said, complaints) = (text(said), text(complaints));
    let said = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
    match said {
        Some(said) if status.success() => Ok(said),
        _ => {
            let complaint = complaints.lines().last().unwrap_or("it says nothing");
            Err(format!("{program} cannot serve the nodes ({status}): {complaint}"))
        }
    }
}

/// Reads what a child says, within bounds. It may leave the pipe to others, so the time is bounded by them alone.
fn read_beside(pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came until then is enough.
        let _ = pipe.take(SAID_BYTES_MAX).read_to_end(&mut bytes);
        bytes
    })
}

/// `None`: it took too long, and was ended.
fn wait_for(child: &mut Child) -> io::Result<Option<std::process::ExitStatus>> {
    let started = Instant::now();
    while started.elapsed() < CHECK_TIME {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(CHECK_PAUSE);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

#[cfg(test)]
mod tests;
