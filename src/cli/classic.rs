//! The stock program's command line: every flag, output and exit code of it.
//!
//! Flags are read from left to right. A client command acts where it stands and must be the last.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use tracing::level_filters::LevelFilter;

use super::client::{AskError, STOCK_ANSWER_TIME, ask_local};
use crate::kinds::Kinds;
use crate::printable::escaped;
use crate::protocol::{Request, decode_names_reply};
use crate::run::{Start, open_files, run};
use crate::settings::{SettingError, Settings, Values};
use crate::telemetry::{self, Log};

/// The longest name that `-stop` sends.
const STOP_NAME_BYTES_MAX: usize = 1000;

const USAGE: &str = "\
usage: epmd [-d|-debug] [DbgExtra...] [-address List]
            [-port No] [-daemon] [-relaxed_command_check] [-systemd]
       epmd [-d|-debug] [-port No] [-names|-dump|-started|-kill|-stop Name]

This is repmd in the place of epmd; `repmd serve --help` shows what else it can do.

Running a daemon
    -address List              Listen on these addresses, separated by commas, and on loopback
    -port No                   Listen on this port, or ask there (default 4369)
    -daemon                    Return once it listens, and run in the background
    -relaxed_command_check     Allow -stop, and -kill while nodes are registered
    -systemd                   Take the listening sockets from the service manager
    -d, -debug                 Log to standard error; say it again to log more

Testing clients (DbgExtra)
    -packet_timeout Seconds    Close connections that are silent for so long (default 60)
    -delay_accept Seconds      Wait before accepting
    -delay_write Seconds       Wait before answering

Asking the daemon that runs
    -names                     List the registered nodes
    -dump                      List them with the names of before
    -started                   Say by the exit status whether there is one
    -kill                      End it, if no node is registered
    -stop Name                 Unregister a node, if it allows that
";

/// What the flags say.
#[derive(Debug, Default)]
struct Flags {
    settings: Vec<(&'static str, String)>,
    daemon: bool,
    systemd: bool,
    debug: u32,
}

/// What stands last, if it is no daemon that is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Names,
    Dump,
    Started,
    Kill,
    Stop(Vec<u8>),
}

/// The arguments are not the program's: usage, and exit status 1.
#[derive(Debug, PartialEq, Eq)]
struct Usage;

pub(super) fn main(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<String>,
    kinds: Kinds<'_>,
) -> ExitCode {
    let Ok((flags, command)) = parse(arguments) else {
        eprint!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let level = match flags.debug {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let _log = if flags.daemon { None } else { telemetry::start(Log::Classic(level)) };
    let settings = Values::merge(&flags.settings, environment, None)
        .and_then(|values| Settings::check(&values, open_files(), &|url| kinds.check(url)));
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) if flags.daemon => {
            eprintln!("epmd: {}", escaped(&describe(&error)));
            return ExitCode::FAILURE;
        }
        Err(error) => {
            tracing::error!("{}", describe(&error));
            return ExitCode::FAILURE;
        }
    };
    match command {
        Some(command) => ask(settings.port, &command),
        None => {
            let Flags { daemon, systemd, .. } = flags;
            run(&settings, Start::Classic { daemon, systemd }, kinds, environment)
        }
    }
}

/// The stock program's words where it has some.
fn describe(error: &SettingError) -> String {
    match error {
        SettingError::Value { key: "address", value, .. } => {
            let wrong = value
                .split([',', ' '])
                .find(|item| !item.is_empty() && item.parse::<std::net::IpAddr>().is_err());
            format!("cannot parse IP address \"{}\"", wrong.unwrap_or(value))
        }
        other => other.to_string(),
    }
}

/// Reads arguments and checks what they set, for the target in `fuzz/`.
#[cfg(feature = "fuzzing")]
pub(super) fn read(arguments: &[OsString]) {
    let Ok((flags, _)) = parse(arguments) else { return };
    let values = Values::merge(&flags.settings, &|_| None, Some(std::path::Path::new("/dev/null")));
    let checked = values.and_then(|values| Settings::check(&values, 1024, &|url| Ok(url.contains("://"))));
    if let Err(error) = checked {
        describe(&error);
    }
}

fn parse(arguments: &[OsString]) -> Result<(Flags, Option<Command>), Usage> {
    let mut flags = Flags::default();
    let mut words = arguments.iter().map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        let command = match &*word {
            "-d" | "-debug" => {
                flags.debug += 1;
                continue;
            }
            "-daemon" => {
                flags.daemon = true;
                continue;
            }
            "-systemd" => {
                flags.systemd = true;
                continue;
            }
            "-relaxed_command_check" => {
                flags.settings.push(("relaxed-command-check", "true".to_owned()));
                continue;
            }
            "-address" => {
                flags.settings.push(("address", words.next().ok_or(Usage)?.into_owned()));
                continue;
            }
            "-port" => {
                flags.settings.push(("port", number(words.next())?));
                continue;
            }
            "-packet_timeout" => {
                flags.settings.push(("packet-timeout", number(words.next())?));
                continue;
            }
            "-delay_accept" => {
                flags.settings.push(("delay-accept", number(words.next())?));
                continue;
            }
            "-delay_write" => {
                flags.settings.push(("delay-write", number(words.next())?));
                continue;
            }
            "-names" => Command::Names,
            "-dump" => Command::Dump,
            "-started" => Command::Started,
            "-kill" => Command::Kill,
            "-stop" => Command::Stop(words.next().ok_or(Usage)?.as_bytes().to_vec()),
            _ => return Err(Usage),
        };
        return if words.next().is_none() { Ok((flags, Some(command))) } else { Err(Usage) };
    }
    Ok((flags, None))
}

/// A number as C's `atoi` reads it: digits up to the first other character. 0 is none.
fn number(word: Option<Cow<'_, str>>) -> Result<String, Usage> {
    let word = word.ok_or(Usage)?;
    let text = word.trim_start();
    let digits = &text[..text.bytes().take_while(u8::is_ascii_digit).count()];
    if digits.bytes().all(|digit| digit == b'0') { Err(Usage) } else { Ok(digits.to_owned()) }
}

fn ask(port: u16, command: &Command) -> ExitCode {
    let request = match command {
        Command::Names | Command::Started => Request::Names,
        Command::Dump => Request::Dump,
        Command::Kill => Request::Kill,
        Command::Stop(name) if STOP_NAME_BYTES_MAX < name.len() => {
            return say(b"epmd: Name too long!", ExitCode::FAILURE);
        }
        Command::Stop(name) => Request::Stop(name),
    };
    let reply = match (ask_local(port, &request, STOCK_ANSWER_TIME), command) {
        (Ok(reply), _) => reply,
        (Err(_), Command::Started) => return ExitCode::FAILURE,
        (Err(AskError::Connect(_)), _) => {
            eprintln!("epmd: Cannot connect to local epmd");
            return ExitCode::FAILURE;
        }
        (Err(AskError::Write(_)), _) => return say(b"epmd: Can't write to epmd\n", ExitCode::FAILURE),
        (Err(AskError::Read { .. } | AskError::Silent { .. }), Command::Kill | Command::Stop(_)) => {
            return say(b"epmd: failed to read answer from local epmd\n", ExitCode::FAILURE);
        }
        // A listing that breaks off is shown as far as it came.
        (
            Err(AskError::Read { reply, .. } | AskError::Silent { reply, .. }),
            Command::Names | Command::Dump,
        ) => reply,
    };
    match command {
        Command::Names | Command::Dump => match decode_names_reply(&reply) {
            Ok(names) => {
                let head = format!("epmd: up and running on port {} with data:\n", names.port);
                say(&[head.as_bytes(), names.lines].concat(), ExitCode::SUCCESS)
            }
            Err(_) => say(b"epmd: no response from local epmd\n", ExitCode::FAILURE),
        },
        Command::Started if decode_names_reply(&reply).is_ok() => ExitCode::SUCCESS,
        Command::Started => ExitCode::FAILURE,
        Command::Kill if reply == b"OK" => say(b"Killed\n", ExitCode::SUCCESS),
        Command::Kill if reply.len() == 2 => {
            say(b"Killing not allowed - living nodes in database.\n", ExitCode::FAILURE)
        }
        Command::Stop(_) if 7 <= reply.len() => say(&[&reply[..7], b"\n"].concat(), ExitCode::SUCCESS),
        Command::Kill | Command::Stop(_) => {
            say(&[b"epmd: local epmd responded with <", &*reply, b">\n"].concat(), ExitCode::FAILURE)
        }
    }
}

/// Writes to standard output: to programs as it is, bytes and all, and to a terminal without what that would obey.
/// Nobody is left to tell when it is closed.
fn say(text: &[u8], code: ExitCode) -> ExitCode {
    let mut out = io::stdout().lock();
    let shown = if out.is_terminal() { for_people(text) } else { Cow::Borrowed(text) };
    let _ = out.write_all(&shown).and_then(|()| out.flush());
    code
}

/// The same lines, each without what a terminal obeys.
fn for_people(text: &[u8]) -> Cow<'static, [u8]> {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<_> = text.split('\n').map(escaped).collect();
    Cow::Owned(lines.join("\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Flags, Option<Command>), Usage> {
        parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn settings(line: &str) -> Vec<(&'static str, String)> {
        parsed(line).unwrap().0.settings
    }

    #[test]
    fn numbers_end_at_the_first_character_that_is_none() {
        assert_eq!(settings("-port 12abc"), [("port", "12".to_owned())]);
    }

    #[test]
    fn a_flag_without_its_number_or_with_0_or_text_is_answered_with_usage() {
        for flag in ["-port", "-packet_timeout", "-delay_accept", "-delay_write"] {
            for value in ["", "0", "abc", "-1"] {
                assert_eq!(parsed(&format!("{flag} {value}")).err(), Some(Usage), "{flag} {value}");
            }
        }
    }

    #[test]
    fn a_command_must_be_the_last_word_and_flags_go_before_it() {
        assert_eq!(parsed("-port 5000 -names").unwrap().1, Some(Command::Names));
        assert_eq!(parsed("-stop foo").unwrap().1, Some(Command::Stop(b"foo".to_vec())));
        for line in ["-names -port 5000", "-kill x", "-stop", "-nonsense", "names"] {
            assert_eq!(parsed(line).err(), Some(Usage), "{line}");
        }
    }

    #[test]
    fn the_last_of_equal_flags_wins_and_debug_adds_up() {
        let (flags, _) = parsed("-d -port 1 -debug -port 2 -daemon").unwrap();
        assert_eq!(flags.debug, 2);
        assert!(flags.daemon);
        assert_eq!(flags.settings.last(), Some(&("port", "2".to_owned())));
    }

    #[test]
    fn every_flag_is_in_the_usage_text() {
        for flag in [
            "-address",
            "-port",
            "-daemon",
            "-relaxed_command_check",
            "-systemd",
            "-debug",
            "-d,",
            "-packet_timeout",
            "-delay_accept",
            "-delay_write",
            "-names",
            "-dump",
            "-started",
            "-kill",
            "-stop",
        ] {
            assert!(USAGE.contains(flag), "{flag}");
        }
    }
}
