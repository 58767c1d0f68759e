//! `repmd doctor`: walks the way of a connection, and says at each step what it saw and what would fix it.
//!
//! | module | noun |
//! |---|---|
//! | `finding` | what can be found, how bad it is, and what fixes it |
//! | `own` | the daemon of this host, and who else is on its port |
//! | `links` | links between nodes that should be there, and are not |
//! | `name` | this machine's own name, and whether the daemon answers there |
//! | `dns` | the daemon's DNS, and whether this machine's resolver comes to it |
//! | `store` | the shared registry's store |
//! | `target` | a node that is to be reached: its host, its daemon, its name |

mod dns;
mod finding;
mod links;
mod name;
mod own;
mod store;
mod target;

pub use finding::{Finding, KINDS, Kind, Report, Severity};

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use repmd_backend_api::AliveName;
use serde_json::Value;

use super::api::Api;
use super::client::{ANSWER_TIME, AskError, exchange};
use super::modern::{Environment, Failure, say, say_json, settings_of_daemon};
use crate::kinds::Kinds;
use crate::protocol::{Request, decode_port_reply, decode_whereabouts};
use crate::settings::{Settings, machine_name};

/// How long a connection may take to open. A node waits for up to 7 s in all.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// What is known so far.
struct Doctor<'a> {
    settings: Settings,
    kinds: Kinds<'a>,
    report: Report,
    /// The admin API of this host's daemon, if it can be asked, and what it says of itself.
    daemon: Option<(Api, Value)>,
}

/// `repmd doctor [NAME@HOST]`
pub(super) fn main(
    matches: &ArgMatches,
    environment: Environment<'_>,
    kinds: Kinds<'_>,
) -> Result<ExitCode, Failure> {
    let settings = settings_of_daemon(matches, environment, kinds)?;
    let target = match matches.get_one::<String>("node") {
        None => None,
        Some(node) => {
            let (name, host) =
                node.rsplit_once('@').ok_or_else(|| format!("{node:?}: expected NAME@HOST"))?;
            AliveName::check(name.as_bytes()).map_err(|error| format!("{node:?}: {error}"))?;
            Some((name, host))
        }
    };
    let mut doctor = Doctor { settings, kinds, report: Report::default(), daemon: None };
    doctor.examine_own();
    doctor.examine_store();
    doctor.examine_links();
    doctor.examine_dns(target.map(|(name, _)| name));
    if let Some((name, host)) = target {
        doctor.examine_target(name, host);
    }
    let report = doctor.report;
    if matches.get_flag("json") {
        say_json(&report.to_json())?;
    } else {
        say(report.to_string().as_bytes())?;
    }
    Ok(ExitCode::from(report.severity().exit()))
}

impl Doctor<'_> {
    /// What the admin API answers, if there is one and it knows.
    fn ask_api(&self, path: &str) -> Option<Value> {
        let (api, _) = self.daemon.as_ref()?;
        api.find(path).ok().flatten()
    }

    /// Whether `host` means this machine.
    fn is_here(&self, host: &str) -> bool {
        let machine = machine_name();
        let short = machine.split('.').next().unwrap_or_default();
        let own = [self.settings.host.as_str(), &machine, short, "localhost"];
        let aliases = self.daemon.iter().flat_map(|(_, status)| strings(&status["aliases"]));
        let shown = self.daemon.iter().filter_map(|(_, status)| status["host"].as_str());
        own.into_iter().chain(aliases).chain(shown).any(|name| name.eq_ignore_ascii_case(host))
    }
}

/// The texts of an array.
fn strings(array: &Value) -> impl Iterator<Item = &str> {
    array.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The addresses of a node or a daemon, as the API tells them.
fn addresses_of(told: &Value) -> Vec<IpAddr> {
    strings(&told["addresses"]).flat_map(str::parse).collect()
}

/// So many of something.
fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Asks the EPMD at one address.
fn ask(place: SocketAddr, request: &Request<'_>) -> Result<Vec<u8>, AskError> {
    let stream = TcpStream::connect_timeout(&place, CONNECT_TIME).map_err(AskError::Connect)?;
    exchange(stream, request, Instant::now() + ANSWER_TIME)
}

/// Whether the EPMD there is repmd and serves `host`: it says where the daemon of that host is.
fn is_repmd(place: SocketAddr, host: &str) -> bool {
    let reply = ask(place, &Request::PortPlease2(&format!("@{host}")));
    let found = reply.ok().and_then(|reply| decode_port_reply(&reply).ok().flatten());
    found.is_some_and(|found| decode_whereabouts(&found.extra).is_some())
}
