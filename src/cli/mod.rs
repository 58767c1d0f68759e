//! The command lines: the stock program's, when called as `epmd`, and repmd's own.

mod api;
mod classic;
mod client;
pub mod doctor;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod link_changes;
mod links;
mod modern;
mod overview;
mod policy;
mod register;
mod status;
mod upgrade;
mod wait;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::kinds::Kinds;

/// Does what the arguments say. `epmd serve`, which is no command of the stock program, is `repmd serve`. `arguments` starts with the program's name; the environment is a
/// parameter, so that no test sets a process variable.
pub fn main(
    arguments: impl Iterator<Item = OsString>,
    environment: &dyn Fn(&str) -> Option<String>,
    kinds: Kinds<'_>,
) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let called_as = arguments.first().map(Path::new).and_then(Path::file_name);
    let is_epmd = called_as.is_some_and(|name| name == "epmd");
    if is_epmd && arguments.get(1).is_some_and(|word| word == "serve") {
        // The unit in the stock daemon's place does so, for those who look for a process by that name. What the kernel
        // calls it comes from the file, and is not the name by which it was called.
        let _ = rustix::thread::set_name(c"epmd");
        return modern::main(arguments, environment, kinds);
    }
    if is_epmd {
        return classic::main(&arguments[1..], environment, kinds);
    }
    if arguments.get(1).is_some_and(|word| word == "epmd") {
        return classic::main(&arguments[2..], environment, kinds);
    }
    modern::main(arguments, environment, kinds)
}
