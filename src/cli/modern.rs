//! repmd's own command line, made from the table of settings.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use repmd_backend_api::{AliveName, NodeType};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::api::{Api, ApiError, in_path, is_named};
use super::client::{ANSWER_TIME, ask_at, read_names};
use super::{doctor, links, overview, policy, register, status, upgrade, wait};
use crate::kinds::Kinds;
use crate::printable::{escaped, escaped_json, in_words};
use crate::protocol::{PortReply, ReplyError, Request, Whereabouts, decode_port_reply, decode_whereabouts};
use crate::run::{Start, check_files, open_files, own_address, run};
use crate::settings::{
    Admin, CONFIG_PATH, CONFIG_VARIABLE, Origin, Setting, SettingError, Settings, Shown, TABLE, Values,
    duration,
};
use crate::telemetry::{self, Log};

/// Exit status of a look-up whose name is not registered.
pub(super) const NOT_FOUND: u8 = 1;
/// Exit status of a command that could not do what it was asked.
const FAILED: u8 = 2;

pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn main(arguments: Vec<OsString>, environment: Environment<'_>, kinds: Kinds<'_>) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return end_with(&error),
    };
    let (name, matches) = matches.subcommand().expect("clap demands a subcommand");
    let done = match name {
        "serve" => return serve(matches, environment, kinds),
        "check-config" => check_config(matches, environment, kinds),
        "names" => names(matches, environment),
        "status" => status::main(matches, environment),
        "nodes" => overview::nodes(matches, environment).map(|()| ExitCode::SUCCESS),
        "links" => links::main(matches, environment),
        "events" => overview::events(matches, environment).map(|()| ExitCode::SUCCESS),
        "lookup" => lookup(matches, environment),
        "wait" => wait::main(matches, environment),
        "register" => register::main(matches, environment),
        "upgrade" => upgrade::main(matches, environment),
        "policy" => policy::main(matches, environment, kinds),
        "doctor" => doctor::main(matches, environment, kinds),
        "schema" => schema(matches, kinds),
        "completions" => completions(matches),
        "man" => man(matches),
        "help" => return help(matches),
        other => unreachable!("clap knows no command {other}"),
    };
    done.unwrap_or_else(|error| {
        complain(&in_words(&*error));
        ExitCode::from(FAILED)
    })
}

/// Ends as clap does. Help and the version are "errors" that go to standard output and exit with 0.
fn end_with(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FAILED))
}

/// Says on standard error what is wrong. Much of it may be the words of others.
pub(super) fn complain(wrong: &dyn fmt::Display) {
    eprintln!("repmd: {}", escaped(&wrong.to_string()));
}

/// The whole command line. Help, man pages and completions come from here.
fn command() -> Command {
    let port = || {
        let help = "Ask the daemon on this port [env: REPMD_PORT, ERL_EPMD_PORT] [default: 4369]";
        Arg::new("port").long("port").value_name("PORT").help(help)
    };
    let at = || {
        Arg::new("at")
            .long("at")
            .value_name("HOST[:PORT]")
            .help("Ask the daemon of this host [default: this one]")
    };
    let name = || {
        let help = "The part before the @; repmd knows nodes elsewhere by both parts";
        Arg::new("name").value_name("NAME[@HOST]").required(true).help(help)
    };
    let json = |help| Arg::new("json").long("json").action(ArgAction::SetTrue).help(help);
    let watch = "Show the table again whenever it changes, until interrupted";
    let of_command = |help| Arg::new("command").value_name("COMMAND").help(help);
    Command::new("repmd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("One EPMD (Erlang Port Mapper Daemon) for the whole cluster")
        .after_help("Called as `epmd`, or as `repmd epmd ...`, it takes the stock program's command line.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        // The one that clap makes has all commands below it once more, in the man pages and the completions.
        .disable_help_subcommand(true)
        .subcommand(with_settings(Command::new("serve").about("Run the daemon in the foreground")))
        .subcommand(with_settings(
            Command::new("check-config").about("Check the settings and show them with their origins"),
        ))
        .subcommand(with_settings(
            Command::new("policy").about("Say who may ask a daemon of these settings what, and what the internet can reach"),
        ))
        .subcommand(
            Command::new("names")
                .about("List the nodes of a host")
                .arg(Arg::new("host").value_name("HOST[:PORT]").conflicts_with("at").help("As --at"))
                .args([at(), port()])
                .arg(json("Write the list as JSON")),
        )
        .subcommand(
            Command::new("lookup")
                .about("Ask where a node listens; exits with 1 when it is not registered")
                .arg(name())
                .args([at(), port()])
                .args(of_admin())
                .arg(json("Write the answer as JSON")),
        )
        .subcommand(
            Command::new("wait")
                .about("Wait until a node is registered, or without a name until the daemon answers; exits with 1 when that is not in time")
                .arg(name().required(false))
                .arg(
                    Arg::new("timeout")
                        .long("timeout")
                        .value_name("TIME")
                        .default_value("30s")
                        .value_parser(|text: &str| duration(text).ok_or("expected a time such as 30s"))
                        .help("How long to wait"),
                )
                .args([at(), port()]),
        )
        .subcommand(
            Command::new("register")
                .about("Hold a name for a node that does not register by itself, until interrupted; exits with 1 when another has it")
                .arg(Arg::new("alive").value_name("NAME").required(true).help("The part before the @"))
                .arg(
                    Arg::new("node-port")
                        .value_name("NODE_PORT")
                        .required(true)
                        .value_parser(value_parser!(u16).range(1..))
                        .help("Where the node listens"),
                )
                .arg(Arg::new("hidden").long("hidden").action(ArgAction::SetTrue).help("It is a hidden node"))
                .arg(port()),
        )
        .subcommand(
            Command::new("upgrade")
                .about("Let a running daemon go on as the program that is installed now, under its nodes; exits with 1 when the old one serves on")
                .arg(
                    Arg::new("pid")
                        .long("pid")
                        .value_name("PID")
                        .value_parser(value_parser!(i32).range(1..))
                        .help("The daemon's process [default: the one that listens on the port]"),
                )
                .arg(port()),
        )
        .subcommand(
            Command::new("status")
                .about("Show how the daemon of this host is: its store, its nodes, DNS, the last trouble; exits with 1 when not all is well")
                .arg(json("Write it as JSON"))
                .arg(port())
                .args(of_admin()),
        )
        .subcommand(
            Command::new("nodes")
                .about("List the nodes of the whole cluster, as the daemon of this host knows them")
                .arg(Arg::new("of-host").long("host").value_name("HOST").help("Only those of this host"))
                .arg(Arg::new("watch").long("watch").action(ArgAction::SetTrue).help(watch))
                .arg(json("Write the list as JSON, one list a line"))
                .arg(port())
                .args(of_admin()),
        )
        .subcommand(
            Command::new("links")
                .about("List which nodes are connected with each other, and which should be; exits with 1 when a link is missing")
                .arg(Arg::new("of-host").long("host").value_name("HOST").help("Only those with an end on this host"))
                .arg(
                    Arg::new("watch").long("watch").action(ArgAction::SetTrue).help(
                        "Go on with a line for each link that comes, goes, is missing or does not answer, until interrupted",
                    ),
                )
                .arg(json("Write the list as JSON; with --watch each link and each change on a line of its own"))
                .arg(port())
                .args(of_admin()),
        )
        .subcommand(
            Command::new("events")
                .about("Follow what happens in the cluster: who registers, ends, is refused; the store")
                .arg(json("Write each event as JSON on a line of its own"))
                .arg(port())
                .args(of_admin()),
        )
        .subcommand(with_settings(
            Command::new("doctor")
                .about("Look for what keeps nodes of this host from others: of the daemon, its store, and the way to a node")
                .after_help(
                    "Takes the settings of the daemon. Exits with 0 when all is well, with 1 after warnings, and with 2 \
                     after failures. docs/doctor.md lists what it can find.",
                )
                .arg(Arg::new("node").value_name("NAME@HOST").help("A node that should be reached from here"))
                .arg(json("Write the findings as JSON")),
        ))
        .subcommand(
            Command::new("schema")
                .about("Write what makes the tables of a store, for whoever may run it there")
                .arg(Arg::new("kind").value_name("KIND").required(true).help("What its URLs begin with, such as postgres")),
        )
        .subcommand(
            Command::new("completions")
                .about("Write completions for a shell")
                .arg(Arg::new("shell").required(true).value_parser(value_parser!(Shell))),
        )
        .subcommand(
            Command::new("man")
                .about("Write the man page of repmd, or of a command")
                .arg(of_command("The command whose page to write")),
        )
        .subcommand(
            Command::new("help")
                .about("Show the help of repmd, or of a command")
                .arg(of_command("The command whose help to show")),
        )
}

fn with_settings(command: Command) -> Command {
    command.arg(config_file()).args(TABLE.iter().map(flag))
}

fn config_file() -> Arg {
    Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf)).help(format!(
        "Read settings from this TOML file [env: {CONFIG_VARIABLE}] [default: {CONFIG_PATH}, if it exists]"
    ))
}

fn flag(setting: &Setting) -> Arg {
    let variables = setting.variables.join(", ");
    let arg = Arg::new(setting.key)
        .long(setting.key)
        .value_name(setting.value)
        .help(format!("{} [env: {variables}] [default: {}]", setting.help, setting.default));
    // `--flag` alone means `--flag true`.
    if setting.value == "BOOL" { arg.num_args(0..=1).default_missing_value("true") } else { arg }
}

/// Where the daemon shows the cluster: for who asks it, by the same settings that it has.
fn of_admin() -> [Arg; 3] {
    let variables = |key: &str| {
        let setting = TABLE.iter().find(|setting| setting.key == key);
        setting.map(|setting| setting.variables.join(", ")).unwrap_or_default()
    };
    let arg = |key: &'static str, value: &'static str, help: &str, default: &str| {
        let help = format!("{help} [env: {}] [default: {default}]", variables(key));
        Arg::new(key).long(key).value_name(value).help(help)
    };
    [
        arg(
            "admin",
            "ADDRESS:PORT",
            "Ask the daemon whose admin API is here",
            "where the daemon on --port says",
        ),
        arg("admin-token-file", "PATH", "Show it the token in this file", "none"),
        config_file(),
    ]
}

/// What was given, of those settings that the command has flags for.
pub(super) fn merge(matches: &ArgMatches, environment: Environment<'_>) -> Result<Values, SettingError> {
    let given = |key| Some((key, matches.try_get_one::<String>(key).ok()??.clone()));
    let flags: Vec<_> = TABLE.iter().filter_map(|setting| given(setting.key)).collect();
    let config = matches.try_get_one::<PathBuf>("config").ok().flatten();
    Values::merge(&flags, environment, config.map(PathBuf::as_path))
}

/// The settings of a command that asks a daemon. Which store that uses is no matter to who asks.
pub(super) fn settings(matches: &ArgMatches, environment: Environment<'_>) -> Result<Settings, SettingError> {
    Settings::check(&merge(matches, environment)?, open_files(), &|url| Ok(url.contains("://")))
}

/// The settings of a daemon, or of a command that looks at them as it does.
pub(super) fn settings_of_daemon(
    matches: &ArgMatches,
    environment: Environment<'_>,
    kinds: Kinds<'_>,
) -> Result<Settings, SettingError> {
    Settings::check(&merge(matches, environment)?, open_files(), &|url| kinds.check(url))
}

fn serve(matches: &ArgMatches, environment: Environment<'_>, kinds: Kinds<'_>) -> ExitCode {
    match settings_of_daemon(matches, environment, kinds) {
        Ok(settings) => {
            let _log = telemetry::start(Log::Modern {
                filter: &settings.log,
                format: settings.log_format,
                under_journald: telemetry::is_journald(environment("JOURNAL_STREAM").as_deref()),
            });
            run(&settings, Start::Modern, kinds, environment)
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// A command's failure, for standard error.
pub(super) type Failure = Box<dyn std::error::Error>;

fn check_config(
    matches: &ArgMatches,
    environment: Environment<'_>,
    kinds: Kinds<'_>,
) -> Result<ExitCode, Failure> {
    let checked = settings_of_daemon(matches, environment, kinds)
        .map_err(Failure::from)
        .and_then(|settings| Ok(check_files(&settings).map(|()| settings)?));
    let settings = match checked {
        Ok(settings) => settings,
        Err(error) => {
            complain(&in_words(&*error));
            // As `serve` ends.
            return Ok(ExitCode::FAILURE);
        }
    };
    for warning in &settings.warnings {
        complain(&format_args!("warning: {warning}"));
    }
    let mut table = String::new();
    for Shown { key, value, origin } in shown_here(&settings) {
        table += &escaped(&format!("{key} = {value} ({origin})"));
        table.push('\n');
    }
    say(table.as_bytes()).map(|()| ExitCode::SUCCESS)
}

/// Every setting, as far as anybody knows it before the daemon is connected to its store.
fn shown_here(settings: &Settings) -> Vec<Shown> {
    let mut shown = settings.shown.clone();
    let advertise =
        shown.iter_mut().find(|shown| shown.key == "advertise" && shown.origin == Origin::Default);
    if let (Some(advertise), true, Some(address)) =
        (advertise, settings.backend.is_shared(), own_address(None))
    {
        advertise.value = format!("{address}, or this machine's address on the connection to the store");
    }
    shown
}

/// Asks the host that the flags name, and takes what `read` makes of an answer that is whole within that time.
pub(super) fn ask<T>(
    matches: &ArgMatches,
    environment: Environment<'_>,
    request: &Request<'_>,
    within: Duration,
    read: impl FnOnce(&[u8]) -> Result<T, ReplyError>,
) -> Result<T, Failure> {
    let at = matches.get_one::<String>("at").map(String::as_str);
    Ok(ask_at(at, settings(matches, environment)?.port, request, within, read)?)
}

fn names(matches: &ArgMatches, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let at = matches.get_one::<String>("host").or_else(|| matches.get_one("at")).map(String::as_str);
    let port = settings(matches, environment)?.port;
    let mut nodes = ask_at(at, port, &Request::Names, ANSWER_TIME, read_names)?;
    nodes.sort_unstable();
    if matches.get_flag("json") {
        let nodes: Vec<_> = nodes.iter().map(|(name, port)| json!({ "name": name, "port": port })).collect();
        return say_json(&json!({ "nodes": nodes })).map(|()| ExitCode::SUCCESS);
    }
    let nodes: Vec<_> = nodes.iter().map(|(name, port)| (escaped(name), port)).collect();
    if nodes.is_empty() {
        return say(b"no nodes\n").map(|()| ExitCode::SUCCESS);
    }
    let width = nodes.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max("NAME".len());
    let mut table = format!("{:width$}  PORT\n", "NAME");
    for (name, port) in nodes {
        table += &format!("{name:width$}  {port}\n");
    }
    say(table.as_bytes()).map(|()| ExitCode::SUCCESS)
}

fn lookup(matches: &ArgMatches, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").expect("clap demands a name");
    AliveName::check(name.as_bytes()).map_err(|error| format!("{name:?}: {error}"))?;
    // First: the look-up itself would be remembered.
    let origin = origin(matches, environment, name)?;
    let found = ask(matches, environment, &Request::PortPlease2(name), ANSWER_TIME, decode_port_reply)?;
    if matches.get_flag("json") {
        say_json(&to_json(name, found.as_ref(), origin.as_ref()))?;
    } else if let Some(found) = &found {
        let origin = origin.as_ref().map(describe_origin).unwrap_or_default();
        say((describe(name, found) + &origin).as_bytes())?;
    } else {
        eprintln!("{} is not registered", escaped(name));
    }
    Ok(if found.is_some() { ExitCode::SUCCESS } else { ExitCode::from(NOT_FOUND) })
}

/// Where the daemon knows of a node, if it says so: only this host's does, and only by its admin API.
fn origin(matches: &ArgMatches, environment: Environment<'_>, name: &str) -> Result<Option<Value>, Failure> {
    let settings = settings(matches, environment)?;
    if matches.contains_id("at") {
        return Ok(None);
    }
    let ask = || -> Result<Option<Value>, ApiError> {
        let api = Api::of(&settings)?;
        // The one that is named may be another daemon's.
        if api.get("/api/v1/status")?["port"] != settings.port {
            return Ok(None);
        }
        api.find(&format!("/api/v1/lookups/{}", in_path(name)))
    };
    let is_asked_for =
        settings.admin_token_file.is_some() || is_named(&settings) && settings.admin != Admin::Off;
    match ask() {
        Ok(origin) => Ok(origin),
        // The look-up itself would meet the same, after as long again.
        Err(ApiError::NoDaemon(said)) => Err(said.into()),
        Err(error) => {
            if is_asked_for {
                complain(&format_args!("where the answer comes from is not known: {error}"));
            }
            Ok(None)
        }
    }
}

fn describe_origin(origin: &Value) -> String {
    let age = Duration::from_millis(origin["age_ms"].as_u64().unwrap_or_default());
    let from = match origin["from"].as_str() {
        Some("here") => "this daemon".to_owned(),
        Some("registry") => "the registry".to_owned(),
        Some("cache") => format!("the cache, {age:?} old"),
        _ => format!("the cache, {age:?} old: the registry is away"),
    };
    let holder = origin["daemon"].as_str().map(|holder| format!(", held by {}", escaped(holder)));
    let holder = holder.unwrap_or_default();
    let names = origin["dns_names"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let names: Vec<_> = names.map(|name| escaped(name.trim_end_matches('.')).to_string()).collect();
    let by_dns = if names.is_empty() { String::new() } else { format!("  by DNS {}\n", names.join(", on ")) };
    format!("  from {from}{holder}\n{by_dns}")
}

fn to_json(name: &str, found: Option<&PortReply>, origin: Option<&Value>) -> Value {
    let mut answer = json!({ "name": name, "is_found": found.is_some() });
    if let Some(found) = found {
        answer["port"] = found.port.into();
        answer["type"] = NodeType(found.node_type).to_string().into();
        answer["lowest_version"] = found.lowest_version.into();
        answer["highest_version"] = found.highest_version.into();
        answer["extra"] = String::from_utf8_lossy(&found.extra).into();
    }
    for key in ["from", "age_ms", "node", "daemon", "addresses", "dns_names"] {
        answer[key] = origin.map(|origin| origin[key].clone()).unwrap_or_default();
    }
    answer
}

fn describe(name: &str, found: &PortReply) -> String {
    let PortReply { port, lowest_version, highest_version, .. } = found;
    let kind = match NodeType(found.node_type) {
        NodeType::C => "C node".to_owned(),
        known @ (NodeType::NORMAL | NodeType::HIDDEN) => format!("{known} node"),
        other => format!("node of type {other}"),
    };
    let name = escaped(name);
    let mut text = format!("{name}: port {port}, {kind}, versions {lowest_version} to {highest_version}");
    if let Some(Whereabouts { addresses, host }) = decode_whereabouts(&found.extra) {
        let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        let at = if addresses.is_empty() { ", whose address is not known" } else { " at " };
        text += &format!(", on {host}{at}{addresses}");
    } else if !found.extra.is_empty() {
        text += &format!(", extra \"{}\"", found.extra.escape_ascii());
    }
    text + "\n"
}

fn schema(matches: &ArgMatches, kinds: Kinds<'_>) -> Result<ExitCode, Failure> {
    let kind = matches.get_one::<String>("kind").expect("clap demands a kind");
    say(kinds.schema(kind)?.as_bytes()).map(|()| ExitCode::SUCCESS)
}

fn completions(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let shell = *matches.get_one::<Shell>("shell").expect("clap demands a shell");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "repmd", &mut script);
    say(&script).map(|()| ExitCode::SUCCESS)
}

fn man(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let mut command = command();
    command.build();
    let page = match matches.get_one::<String>("command") {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).cloned();
            found.ok_or_else(|| format!("there is no command {name:?}"))?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    say(&text).map(|()| ExitCode::SUCCESS)
}

/// `repmd help COMMAND` is `repmd COMMAND --help`.
fn help(matches: &ArgMatches) -> ExitCode {
    let of = matches.get_one::<String>("command").map(String::as_str);
    let words = ["repmd"].into_iter().chain(of).chain(["--help"]);
    end_with(
        &command()
            .try_get_matches_from(words)
            .expect_err("help is an error to clap, as is an unknown command"),
    )
}

/// Writes to standard output. That nobody reads it any longer is no failure: `repmd names | head -1`.
pub(super) fn say(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Err(_) => std::process::exit(0),
        Ok(()) => Ok(()),
    }
}

/// Ends the program, from now on, when nobody reads what it says any longer: what goes on without an end would find
/// that out with its next words alone.
pub(super) fn end_with_the_reader() -> io::Result<()> {
    std::thread::Builder::new().name("reader".to_owned()).spawn(|| {
        let out = io::stdout();
        let is_gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        loop {
            let mut polled = [PollFd::new(&out, PollFlags::empty())];
            match poll(&mut polled, None) {
                Ok(_) if polled[0].revents().intersects(is_gone) => std::process::exit(0),
                Ok(_) | Err(Errno::INTR) => {}
                // Its next words will tell.
                Err(_) => return,
            }
        }
    })?;
    Ok(())
}

/// A document on a line of its own.
pub(super) fn json_line(document: &Value) -> String {
    escaped_json(&format!("{document}\n")).into_owned()
}

/// Says one.
pub(super) fn say_json(document: &Value) -> Result<(), Failure> {
    say(json_line(document).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn help_shows_every_setting_with_its_variable_and_its_default() {
        let mut command = command();
        let help = command.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in TABLE {
            assert!(help.contains(&format!("--{}", setting.key)), "{}", setting.key);
            assert!(help.contains(&format!("[default: {}]", setting.default)), "{}", setting.key);
            assert!(setting.variables.iter().all(|variable| help.contains(variable)), "{}", setting.key);
        }
    }
}
