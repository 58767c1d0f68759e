//! One run of the daemon: sockets, the step into the background, and the event loop until the end.

use std::io;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use repmd_backend_api::{Instance, InstanceId, RegistryBackend};
use repmd_sys::Forked;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::listen::{ListenError, listen, passed_by_service_manager};
use crate::server::{Daemon, Listener, serve};
use crate::settings::{Backend, Settings};
use crate::telemetry::{self, Log};

/// Opens the backend that the settings name; called once the event loop runs. Only `main` names concrete
/// backends.
pub type OpenBackend = fn(&Backend) -> Arc<dyn RegistryBackend>;

/// In whose manner to start.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// The stock daemon's: an address in use ends the start with 0, because somebody serves already.
    Classic {
        /// Go into the background once it listens.
        daemon: bool,
        /// Take the sockets from the service manager, and tell it.
        systemd: bool,
    },
    /// Strict: an address in use is an error. The service manager is used where there is one.
    Modern,
}

/// How many files this process may have open once it serves: the hard limit.
#[must_use]
pub fn open_files() -> usize {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
    usize::try_from(hard).unwrap_or(1 << 20)
}

/// Runs a daemon until a signal or a KILL ends it. For the background, the calling process ends with 0 as
/// soon as its child listens.
pub fn run(
    settings: &Settings,
    start: Start,
    open_backend: OpenBackend,
    environment: &dyn Fn(&str) -> Option<String>,
) -> ExitCode {
    let in_background = matches!(start, Start::Classic { daemon: true, .. });
    if in_background {
        repmd_sys::close_inherited();
    }
    if let Start::Classic { daemon, .. } = start {
        info!("epmd running - daemon = {}", u8::from(daemon));
    }
    raise_open_files();
    let listeners = match open_listeners(settings, start, environment) {
        Ok(listeners) => listeners,
        Err(error @ ListenError::InUse(_)) if matches!(start, Start::Classic { .. }) => {
            info!("{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) if in_background => {
            eprintln!("epmd: {error}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            error!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if in_background {
        // The sockets listen already: whoever waits for this process can connect when it ends.
        match enter_background() {
            Ok(Forked::Parent) => return ExitCode::SUCCESS,
            Ok(Forked::Child) => telemetry::start(Log::Syslog),
            Err(error) => {
                eprintln!("epmd: cannot go into the background: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime
        .and_then(|runtime| runtime.block_on(serve_until_stopped(settings, start, listeners, open_backend)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "the daemon cannot run");
            ExitCode::FAILURE
        }
    }
}

/// Lets this process open as many files as it may.
fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // It stays as it is when it cannot be raised; the daemon then pauses accepting earlier.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

fn open_listeners(
    settings: &Settings,
    start: Start,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Listener>, ListenError> {
    let (ask, demand) = match start {
        Start::Classic { systemd, .. } => (systemd, systemd),
        Start::Modern => (true, false),
    };
    let passed = if ask { passed_by_service_manager(environment)? } else { Vec::new() };
    if demand && passed.is_empty() {
        return Err(ListenError::NotPassed("LISTEN_FDS is not set for this process".to_owned()));
    }
    let sockets = if passed.is_empty() { listen(&settings.addresses, settings.port)? } else { passed };
    Ok(sockets
        .into_iter()
        .map(|socket| Listener { port: reported_port(&socket, settings), socket })
        .collect())
}

/// The port that NAMES reports is the one that clients use: the socket's own, unless somebody who knows
/// of a translation in between has set one.
fn reported_port(socket: &TcpListener, settings: &Settings) -> u16 {
    if settings.port_is_set {
        return settings.port;
    }
    socket.local_addr().map_or(settings.port, |address| address.port())
}

/// Leaves the session, the terminal and the working directory. Both parents return [`Forked::Parent`].
fn enter_background() -> io::Result<Forked> {
    if repmd_sys::fork()? == Forked::Parent {
        return Ok(Forked::Parent);
    }
    rustix::process::setsid()?;
    // The first child's end must not hang up on the second.
    repmd_sys::ignore_hangup();
    if repmd_sys::fork()? == Forked::Parent {
        return Ok(Forked::Parent);
    }
    rustix::process::chdir("/")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(Forked::Child)
}

async fn serve_until_stopped(
    settings: &Settings,
    start: Start,
    listeners: Vec<Listener>,
    open_backend: OpenBackend,
) -> io::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let on_signal = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        on_signal.cancel();
    });
    let tells = !matches!(start, Start::Classic { systemd: false, .. });
    let instance = Arc::new(Instance {
        id: InstanceId::random(),
        name: format!("{}:{}", settings.host, settings.port),
        host: settings.host.clone(),
        aliases: Vec::new(),
        addresses: Vec::new(),
        port: settings.port,
    });
    let backend = open_backend(&settings.backend);
    let daemon = Daemon::new(backend, instance, settings.policy.clone(), settings.limits, stop.clone());
    let addresses: Vec<_> =
        listeners.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect();
    info!(host = %settings.host, ?addresses, "serving");
    if tells {
        tell_service_manager(&[
            NotifyState::Ready,
            NotifyState::Status("Processing port mapping requests..."),
            NotifyState::MainPid(std::process::id()),
        ]);
        tokio::spawn(async move {
            stop.cancelled().await;
            tell_service_manager(&[NotifyState::Stopping]);
        });
    }
    serve(listeners, Arc::new(daemon)).await
}

/// Does nothing where no service manager listens.
fn tell_service_manager(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot notify the service manager");
    }
}
