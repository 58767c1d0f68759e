//! `repmd wait`: for scripts that need a node, or the daemon, which somebody else is starting.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use humantime::format_duration;
use repmd_backend_api::AliveName;

use super::client::{ANSWER_TIME, read_names};
use super::modern::{Environment, Failure, NOT_FOUND, ask, complain};
use crate::protocol::{Request, decode_port_reply};

/// Between two questions: what a script does not notice, and a daemon neither.
const PAUSE: Duration = Duration::from_millis(50);

/// A question takes as long as this, even where no time is left for it.
const ANSWER_MIN: Duration = Duration::from_millis(100);

/// Asks until the node is registered, or without a name until the daemon answers. A daemon that is not there yet is
/// waited for as well.
pub(super) fn main(matches: &ArgMatches, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name");
    if let Some(name) = name {
        AliveName::check(name.as_bytes()).map_err(|error| format!("{name:?}: {error}"))?;
    }
    let timeout = *matches.get_one::<Duration>("timeout").expect("it has a default");
    let started = Instant::now();
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        let last = match is_there(matches, environment, name, left.clamp(ANSWER_MIN, ANSWER_TIME)) {
            Ok(true) => return Ok(ExitCode::SUCCESS),
            Ok(false) => String::new(),
            Err(error) => format!(": {error}"),
        };
        let left = timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            let what =
                name.map_or("no daemon has answered".to_owned(), |name| format!("{name} is not registered"));
            complain(&format_args!("{what} after {}{last}", format_duration(timeout)));
            return Ok(ExitCode::from(NOT_FOUND));
        }
        sleep(PAUSE.min(left));
    }
}

fn is_there(
    matches: &ArgMatches,
    environment: Environment<'_>,
    name: Option<&String>,
    within: Duration,
) -> Result<bool, Failure> {
    let Some(name) = name else {
        return ask(matches, environment, &Request::Names, within, read_names).map(|_| true);
    };
    let found = ask(matches, environment, &Request::PortPlease2(name), within, decode_port_reply)?;
    Ok(found.is_some())
}
