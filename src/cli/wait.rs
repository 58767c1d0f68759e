//! `repmd wait`: for scripts that need a node which somebody else is starting.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use repmd_backend_api::AliveName;

use super::modern::{Environment, Failure, NOT_FOUND, ask};
use crate::protocol::{Request, decode_port_reply};

/// Between two questions: what a script does not notice, and a daemon neither.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks until the node is registered. A daemon that is not there yet is waited for as well.
pub(super) fn main(matches: &ArgMatches, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").expect("clap demands a name");
    AliveName::check(name.as_bytes()).map_err(|error| format!("{name:?}: {error}"))?;
    let timeout = *matches.get_one::<Duration>("timeout").expect("it has a default");
    let started = Instant::now();
    loop {
        let last = match is_registered(matches, environment, name) {
            Ok(true) => return Ok(ExitCode::SUCCESS),
            Ok(false) => String::new(),
            Err(error) => format!(": {error}"),
        };
        let left = timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            eprintln!("repmd: {name} is not registered after {timeout:?}{last}");
            return Ok(ExitCode::from(NOT_FOUND));
        }
        sleep(PAUSE.min(left));
    }
}

fn is_registered(matches: &ArgMatches, environment: Environment<'_>, name: &str) -> Result<bool, Failure> {
    let reply = ask(matches, environment, &Request::PortPlease2(name))?;
    Ok(decode_port_reply(&reply)?.is_some())
}
