//! One run of the daemon: sockets, the step into the background, and the event loop until the end.

mod files;
mod housekeeping;
mod identity;
mod opening;
mod serving;

pub use files::check_files;
pub(crate) use identity::own_address;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{error, info, warn};

use crate::background::{self, Background};
use crate::kinds::Kinds;
use crate::listen::{ListenError, Passed, STATE};
use crate::printable::in_words;
use crate::service_manager::ServiceManager;
use crate::settings::Settings;
use crate::telemetry::{self, Log};
use crate::upgrade::{self, Begin, Called, Inherited, OtherSockets, Outcome, State};
use files::{open_audit_log, open_hosts_file};
use identity::instance;
use opening::{listeners, open_listeners, open_the_others};
use serving::{Past, serve_until_stopped};

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

/// How many files this process may have open once it serves: the hard limit.
#[must_use]
pub fn open_files() -> usize {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
    usize::try_from(hard).unwrap_or(1 << 20)
}

/// Runs a daemon until a signal or a KILL ends it. For the background, the calling process ends with 0 as
/// soon as its child serves.
pub fn run(
    settings: &Settings,
    start: Start,
    kinds: Kinds<'_>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> ExitCode {
    let in_background = matches!(start, Start::Classic { daemon: true, .. });
    let settings = &settings_of(settings, start);
    let fail = |error: &dyn Display| {
        if in_background {
            // Standard error may be closed.
            let _ = writeln!(io::stderr(), "epmd: {error}");
        } else {
            error!("{error}");
        }
        ExitCode::FAILURE
    };
    let not_taken_over = |error| fail(&format_args!("cannot take over from the program before: {error}"));
    let resumed = match upgrade::begin(environment) {
        Ok(Begin::Anew) => None,
        Ok(Begin::Check(state)) => {
            return match check(settings, &state, kinds) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => fail(&why),
            };
        }
        Ok(Begin::Resume(state)) => Some(state),
        Err(error) => return not_taken_over(error),
    };
    // Before the process goes to another directory.
    let called = Called::now();
    if in_background && resumed.is_none() {
        repmd_sys::close_inherited();
    }
    if let Start::Classic { daemon, .. } = start {
        info!("epmd running - daemon = {}", u8::from(daemon));
    }
    raise_open_files();
    repmd_sys::ignore_file_size_limit();
    repmd_sys::give_large_blocks_back();
    if open_files() < FILES_MIN {
        return fail(&format_args!("cannot serve with fewer than {FILES_MIN} open files: see ulimit -n"));
    }
    let inherited = match resumed.as_deref().map(Inherited::take).transpose() {
        Ok(inherited) => inherited,
        Err(error) => return not_taken_over(error),
    };
    let is_resumed = resumed.is_some();
    let (wire, others, outcome, kept) = match inherited {
        Some(Inherited { wire, others, outcome }) => (wire, others, Some(outcome), None),
        None => match open_listeners(settings, start, environment) {
            Ok(Passed { wire, dns, nodes, states }) => {
                let outcome = Outcome::new().inspect_err(
                    |error| warn!(%error, "no file in memory: no other program can take this one's place"),
                );
                (wire, OtherSockets { dns, admin: None }, outcome.ok(), Some((states, nodes)))
            }
            Err(error @ ListenError::InUse(_)) if matches!(start, Start::Classic { .. }) => {
                info!("{error}");
                return ExitCode::SUCCESS;
            }
            Err(error) if matches!(start, Start::Modern) => return fail(&error.explained()),
            Err(error) => return fail(&error),
        },
    };
    let opened = match open_the_others(settings, start, listeners(wire, settings), others, outcome) {
        Ok(opened) => opened,
        Err(error) => return fail(&error),
    };
    let mut waiting = if in_background && !is_resumed {
        match background::enter() {
            Ok(Background::Caller(status)) => return status,
            Ok(Background::Daemon(waiting)) => Some(waiting),
            Err(error) => return fail(&format_args!("cannot go into the background: {}", in_words(&error))),
        }
    } else {
        None
    };
    if in_background {
        drop(telemetry::start(Log::Syslog));
    }
    // A disk that does not answer takes a thread, which a process must not have that goes into the background.
    let on_disk =
        open_hosts_file(settings).and_then(|hosts_file| Ok((hosts_file, open_audit_log(settings)?)));
    let (hosts_file, audit_log) = match on_disk {
        Ok(on_disk) => on_disk,
        Err(error) => {
            if let Some(waiting) = waiting {
                waiting.tell_failure(&error);
                return ExitCode::FAILURE;
            }
            return fail(&error);
        }
    };
    let ended = audit_log.map(telemetry::audit_to).transpose().and_then(|_flush| {
        for warning in &settings.warnings {
            warn!("{warning}");
        }
        let manager = match start {
            Start::Classic { systemd: false, .. } => None,
            Start::Classic { systemd: true, .. } | Start::Modern => ServiceManager::find(environment)
                .unwrap_or_else(|error| {
                    warn!(error = %in_words(&error), "cannot notify the service manager");
                    None
                }),
        };
        let store = manager.as_ref().and_then(|manager| manager.descriptor_store(environment));
        if let Some(store) = &store {
            // A state that ended this run would else be there again in the next one.
            store.forget(STATE);
        }
        let of_the_run_before = |(states, nodes)| {
            let (state, sockets) = upgrade::before(states, nodes, settings)?;
            Some(Past { state: Box::new(state), kept: Some(sockets) })
        };
        let of_the_program = resumed.map(|state| Past { state, kept: None });
        let past = of_the_program.or_else(|| kept.and_then(of_the_run_before));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let on_serving = || {
            if let Some(waiting) = waiting.take() {
                waiting.tell_serving();
            }
        };
        let run = serve_until_stopped(
            settings, manager, store, opened, past, called, hosts_file, kinds, on_serving,
        );
        let ended = runtime.block_on(run);
        // A name server that does not answer holds the thread that asks it, for as long as it likes.
        runtime.shutdown_timeout(LAST_QUESTIONS_TIME);
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %in_words(&error), "the daemon cannot run");
            if let Some(waiting) = waiting {
                waiting.tell_failure(&format_args!("the daemon cannot run: {}", in_words(&error)));
            }
            ExitCode::FAILURE
        }
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
