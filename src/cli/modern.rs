//! repmd's own command line, made from the table of settings.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use repmd_backend_api::AliveName;

use super::client::{AskError, ask_host, ask_local};
use crate::protocol::{NamesReply, PortReply, Request, decode_names_reply, decode_port_reply};
use crate::run::{Backends, Start, open_files, run};
use crate::settings::{CONFIG_PATH, CONFIG_VARIABLE, SettingError, Settings, Shown, TABLE, Values};
use crate::telemetry::{self, Log};

/// Exit status of a look-up whose name is not registered.
const NOT_FOUND: u8 = 1;
/// Exit status of a command that could not do what it was asked.
const FAILED: u8 = 2;

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn main(
    arguments: Vec<OsString>,
    environment: Environment<'_>,
    backends: &dyn Backends,
) -> ExitCode {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and the version are "errors" that go to standard output and exit with 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FAILED));
        }
    };
    let (name, matches) = matches.subcommand().expect("clap demands a subcommand");
    let done = match name {
        "serve" => return serve(matches, environment, backends),
        "check-config" => check_config(matches, environment, backends),
        "names" => names(matches, environment),
        "lookup" => lookup(matches, environment),
        "completions" => completions(matches),
        "man" => man(matches),
        other => unreachable!("clap knows no command {other}"),
    };
    done.unwrap_or_else(|error| {
        eprintln!("repmd: {error}");
        ExitCode::from(FAILED)
    })
}

/// The whole command line. Help, man pages and completions come from here.
fn command() -> Command {
    let port = || {
        let help = "Ask the daemon on this port [env: REPMD_PORT, ERL_EPMD_PORT] [default: 4369]";
        Arg::new("port").long("port").value_name("PORT").help(help)
    };
    let at = || {
        Arg::new("at").long("at").value_name("HOST").help("Ask the daemon of this host [default: this one]")
    };
    let page = Arg::new("command").value_name("COMMAND").help("The command whose page to write");
    Command::new("repmd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("One EPMD (Erlang Port Mapper Daemon) for the whole cluster")
        .after_help("Called as `epmd`, or as `repmd epmd ...`, it takes the stock program's command line.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(with_settings(Command::new("serve").about("Run the daemon in the foreground")))
        .subcommand(with_settings(
            Command::new("check-config").about("Check the settings and show them with their origins"),
        ))
        .subcommand(Command::new("names").about("List the nodes of a host").args([at(), port()]))
        .subcommand(
            Command::new("lookup")
                .about("Ask where a node listens; exits with 1 when it is not registered")
                .arg(Arg::new("name").value_name("NAME").required(true).help("The part before the @"))
                .args([at(), port()]),
        )
        .subcommand(
            Command::new("completions")
                .about("Write completions for a shell")
                .arg(Arg::new("shell").required(true).value_parser(value_parser!(Shell))),
        )
        .subcommand(Command::new("man").about("Write the man page of repmd, or of a command").arg(page))
}

fn with_settings(command: Command) -> Command {
    let config = Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf)).help(
        format!("Read settings from this TOML file [env: {CONFIG_VARIABLE}] [default: {CONFIG_PATH}, if it exists]"),
    );
    let settings = TABLE.iter().map(|setting| {
        let variables = setting.variables.join(", ");
        let arg = Arg::new(setting.key)
            .long(setting.key)
            .value_name(setting.value)
            .help(format!("{} [env: {variables}] [default: {}]", setting.help, setting.default));
        // `--flag` alone means `--flag true`.
        if setting.value == "BOOL" { arg.num_args(0..=1).default_missing_value("true") } else { arg }
    });
    command.arg(config).args(settings)
}

fn merge(matches: &ArgMatches, environment: Environment<'_>) -> Result<Values, SettingError> {
    let given = |key| Some((key, matches.get_one::<String>(key)?.clone()));
    let flags: Vec<_> = TABLE.iter().filter_map(|setting| given(setting.key)).collect();
    Values::merge(&flags, environment, matches.get_one::<PathBuf>("config").map(PathBuf::as_path))
}

fn serve(matches: &ArgMatches, environment: Environment<'_>, backends: &dyn Backends) -> ExitCode {
    let checked = merge(matches, environment)
        .and_then(|values| Settings::check(&values, open_files(), &|url| backends.check(url)));
    match checked {
        Ok(settings) => {
            let under_journald = environment("JOURNAL_STREAM").is_some();
            telemetry::start(Log::Modern {
                filter: &settings.log,
                format: settings.log_format,
                with_time: !under_journald,
            });
            run(&settings, Start::Modern, backends, environment)
        }
        Err(error) => {
            eprintln!("repmd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A command's failure, for standard error.
type Failure = Box<dyn std::error::Error>;

fn check_config(
    matches: &ArgMatches,
    environment: Environment<'_>,
    backends: &dyn Backends,
) -> Result<ExitCode, Failure> {
    let values = merge(matches, environment)?;
    let settings = Settings::check(&values, open_files(), &|url| backends.check(url))?;
    let mut table = String::new();
    for Shown { key, value, origin } in settings.shown {
        table += &format!("{key} = {value} ({origin})\n");
    }
    say(table.as_bytes())
}

/// Asks the host that the flags name.
fn ask(
    matches: &ArgMatches,
    environment: Environment<'_>,
    request: &Request<'_>,
) -> Result<Vec<u8>, Failure> {
    let flag = matches.get_one::<String>("port").map(|port| ("port", port.clone()));
    let values = Values::merge(flag.as_slice(), environment, None)?;
    // Which store the daemon uses is no matter to a client.
    let port = Settings::check(&values, open_files(), &|_| Ok(()))?.port;
    let at = matches.get_one::<String>("at");
    let reply = match at {
        Some(host) => ask_host(host, port, request),
        None => ask_local(port, request),
    };
    let place = at.map_or("this host", String::as_str);
    reply.map_err(|error| match error {
        AskError::Connect(error) => format!("no EPMD at {place}, port {port}: {error}").into(),
        error => format!("the EPMD at {place}, port {port}: {error}").into(),
    })
}

fn names(matches: &ArgMatches, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let reply = ask(matches, environment, &Request::Names)?;
    let names: NamesReply<'_> = decode_names_reply(&reply)?;
    let mut nodes: Vec<_> = names.nodes().collect();
    nodes.sort_unstable();
    let width = nodes.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max("NAME".len());
    let mut table = format!("{:width$}  PORT\n", "NAME");
    for (name, port) in nodes {
        table += &format!("{name:width$}  {port}\n");
    }
    say(table.as_bytes())
}

fn lookup(matches: &ArgMatches, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("name").expect("clap demands a name");
    AliveName::check(name.as_bytes()).map_err(|error| format!("{name:?}: {error}"))?;
    let reply = ask(matches, environment, &Request::PortPlease2(name))?;
    match decode_port_reply(&reply)? {
        Some(found) => say(describe(name, &found).as_bytes()),
        None => {
            eprintln!("{name} is not registered");
            Ok(ExitCode::from(NOT_FOUND))
        }
    }
}

fn describe(name: &str, found: &PortReply) -> String {
    let PortReply { port, lowest_version, highest_version, .. } = found;
    let kind = match found.node_type {
        77 => "normal node".to_owned(),
        72 => "hidden node".to_owned(),
        other => format!("node of type {other}"),
    };
    let mut text = format!("{name}: port {port}, {kind}, versions {lowest_version} to {highest_version}");
    if !found.extra.is_empty() {
        text += &format!(", extra \"{}\"", found.extra.escape_ascii());
    }
    text + "\n"
}

fn completions(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let shell = *matches.get_one::<Shell>("shell").expect("clap demands a shell");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "repmd", &mut script);
    say(&script)
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
    say(&text)
}

/// Writes to standard output. That nobody reads it any longer is no failure: `repmd names | head -1`.
fn say(text: &[u8]) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
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
