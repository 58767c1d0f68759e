//! One run of the daemon: sockets, the step into the background, and the event loop until the end.
//!
//! | module | noun |
//! |---|---|
//! | `opening` | what is opened before the step into the background |
//! | `files` | files that settings name, on disks that may not answer |
//! | `past` | what the run goes on from |
//! | `serving` | the daemon from its registry to its last connection |
//! | `identity` | who it is to others |
//! | `registry` | its registry, as the settings say |
//! | `threads` | the relay, DNS, the links and what operators see, beside the wire |
//! | `replacement` | another program in the place of this one |
//! | `housekeeping` | what it sees to beside serving |

mod files;
mod housekeeping;
mod identity;
mod opening;
mod past;
mod registry;
mod replacement;
mod serving;
mod threads;

pub use files::check_files;
pub(crate) use identity::own_address;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{error, info, warn};

use crate::background::{self, Background, Waiting};
use crate::kinds::Kinds;
use crate::listen::{ListenError, STATE};
use crate::printable::in_words;
use crate::service_manager::ServiceManager;
use crate::settings::Settings;
use crate::telemetry::{self, Log};
use crate::upgrade::{self, Begin, Called, State};
use files::{open_audit_log, open_hosts_file};
use identity::instance;
use serving::{Begun, serve_until_stopped};

/// What a daemon has open without any connection, and a few of these.
const FILES_MIN: usize = 16;

/// How long the end of the daemon waits for questions to name servers.
const LAST_QUESTIONS_TIME: Duration = Duration::from_millis(200);

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

impl Start {
    fn is_in_background(self) -> bool {
        matches!(self, Self::Classic { daemon: true, .. })
    }
}

/// How many files this process may have open once it serves: the hard limit.
#[must_use]
pub fn open_files() -> usize {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
    usize::try_from(hard).unwrap_or(1 << 20)
}

/// Why a run is over before its daemon has served to the end.
enum Ended {
    /// With nothing to say: another process goes on, or somebody serves already.
    With(ExitCode),
    /// Something that it must have before it serves cannot be had.
    NotStarted(String),
    /// Something that it needs to serve has failed.
    NotServed(io::Error),
}

impl From<String> for Ended {
    fn from(why: String) -> Self {
        Self::NotStarted(why)
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::NotServed(error)
    }
}

impl Ended {
    fn not_taken_over(error: io::Error) -> Self {
        Self::NotStarted(format!("cannot take over from the program before: {error}"))
    }

    fn not_listening(error: &ListenError, start: Start) -> Self {
        match (start, error) {
            (Start::Classic { .. }, ListenError::InUse(_)) => {
                info!("{error}");
                Self::With(ExitCode::SUCCESS)
            }
            (Start::Classic { .. }, _) => Self::NotStarted(error.to_string()),
            (Start::Modern, _) => Self::NotStarted(error.explained()),
        }
    }

    /// Says why to whoever is there to hear it.
    fn told(self, start: Start, caller: Option<Waiting>) -> ExitCode {
        match (self, caller) {
            (Self::With(status), _) => return status,
            (Self::NotStarted(why), Some(caller)) => caller.tell_failure(&why),
            (Self::NotStarted(why), None) if start.is_in_background() => {
                // Standard error may be closed.
                let _ = writeln!(io::stderr(), "epmd: {why}");
            }
            (Self::NotStarted(why), None) => error!("{why}"),
            (Self::NotServed(error), caller) => {
                error!(error = %in_words(&error), "the daemon cannot run");
                if let Some(caller) = caller {
                    caller.tell_failure(&format_args!("the daemon cannot run: {}", in_words(&error)));
                }
            }
        }
        ExitCode::FAILURE
    }
}

/// Runs a daemon until a signal or a KILL ends it. For the background, the calling process ends with 0 as
/// soon as its child serves.
pub fn run(
    settings: &Settings,
    start: Start,
    kinds: Kinds<'_>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> ExitCode {
    let mut caller = None;
    match run_to_the_end(&settings_of(settings, start), start, kinds, environment, &mut caller) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => ended.told(start, caller),
    }
}

/// `caller`: the process that waits until the daemon serves, if one does.
fn run_to_the_end(
    settings: &Settings,
    start: Start,
    kinds: Kinds<'_>,
    environment: &dyn Fn(&str) -> Option<String>,
    caller: &mut Option<Waiting>,
) -> Result<(), Ended> {
    let resumed = match upgrade::begin(environment).map_err(Ended::not_taken_over)? {
        Begin::Anew => None,
        Begin::Check(state) => return Ok(check(settings, &state, kinds)?),
        Begin::Resume(state) => Some(state),
    };
    // Before the process goes to another directory.
    let called = Called::now();
    let leaves = start.is_in_background() && resumed.is_none();
    if leaves {
        repmd_sys::close_inherited();
    }
    if let Start::Classic { daemon, .. } = start {
        info!("epmd running - daemon = {}", u8::from(daemon));
    }
    prepare_process()?;
    let (opened, before) = opening::open(settings, start, environment, resumed)?;
    if leaves {
        *caller = Some(leave()?);
    }
    if start.is_in_background() {
        drop(telemetry::start(Log::Syslog));
    }
    // A disk that does not answer takes a thread, which a process must not have that goes into the background.
    let hosts_file = open_hosts_file(settings)?;
    let audit_log = open_audit_log(settings)?;
    let _flush = audit_log.map(telemetry::audit_to).transpose()?;
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let manager = service_manager(start, environment);
    let store = manager.as_ref().and_then(|manager| manager.descriptor_store(environment));
    if let Some(store) = &store {
        // A state that ended this run would else be there again in the next one.
        store.forget(STATE);
    }
    let past = before.past(settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let on_serving = || {
        if let Some(caller) = caller.take() {
            caller.tell_serving();
        }
    };
    let begun = Begun { called, opened, hosts_file, manager, store, past };
    let ended = runtime.block_on(serve_until_stopped(settings, kinds, begun, on_serving));
    // A name server that does not answer holds the thread that asks it, for as long as it likes.
    runtime.shutdown_timeout(LAST_QUESTIONS_TIME);
    Ok(ended?)
}

/// Makes room for many nodes, and sees to it that there is some at all.
fn prepare_process() -> Result<(), Ended> {
    raise_open_files();
    repmd_sys::ignore_file_size_limit();
    repmd_sys::give_large_blocks_back();
    if open_files() < FILES_MIN {
        return Err(format!("cannot serve with fewer than {FILES_MIN} open files: see ulimit -n").into());
    }
    Ok(())
}

/// Goes into the background. Returns the caller, which waits.
fn leave() -> Result<Waiting, Ended> {
    match background::enter() {
        Ok(Background::Caller(status)) => Err(Ended::With(status)),
        Ok(Background::Daemon(caller)) => Ok(caller),
        Err(error) => Err(format!("cannot go into the background: {}", in_words(&error)).into()),
    }
}

/// The service manager that a daemon started in this manner tells how it is, if there is one.
fn service_manager(start: Start, environment: &dyn Fn(&str) -> Option<String>) -> Option<ServiceManager> {
    match start {
        Start::Classic { systemd: false, .. } => None,
        Start::Classic { systemd: true, .. } | Start::Modern => ServiceManager::find(environment)
            .unwrap_or_else(|error| {
                warn!(error = %in_words(&error), "cannot notify the service manager");
                None
            }),
    }
}

/// The settings of a start: repmd's own lists names to a site alone, unless somebody says otherwise.
fn settings_of(settings: &Settings, start: Start) -> Settings {
    let policy = settings.policy.clone();
    let policy = match start {
        Start::Classic { .. } => policy,
        Start::Modern => policy.listing_to_a_site(),
    };
    Settings { policy, ..settings.clone() }
}

/// Lets this process open as many files as it may.
fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // It stays as it is when it cannot be raised; the daemon then pauses accepting earlier.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// Says to the program before that this one could serve its nodes.
///
/// # Errors
/// Why it could not.
fn check(settings: &Settings, state: &State, kinds: Kinds<'_>) -> Result<(), String> {
    check_files(settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let instance = instance(settings, Some(&state.identity)).map_err(|error| error.to_string())?;
    runtime.block_on(async { kinds.open(settings, Arc::new(instance)).map(drop) })?;
    upgrade::tell_could_serve(state.check(settings)?).map_err(|error| error.to_string())
}
