//! The command lines: the stock program's, when called as `epmd`, and repmd's own.

mod api;
mod classic;
mod client;
pub mod doctor;
mod modern;
mod overview;
mod wait;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::run::Backends;

/// Does what the arguments say. `arguments` starts with the program's name; the environment is a
/// parameter, so that no test sets a process variable.
pub fn main(
    arguments: impl Iterator<Item = OsString>,
    environment: &dyn Fn(&str) -> Option<String>,
    backends: &dyn Backends,
) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let called_as = arguments.first().map(Path::new).and_then(Path::file_name);
    if called_as.is_some_and(|name| name == "epmd") {
        return classic::main(&arguments[1..], environment, backends);
    }
    if arguments.get(1).is_some_and(|word| word == "epmd") {
        return classic::main(&arguments[2..], environment, backends);
    }
    modern::main(arguments, environment, backends)
}
