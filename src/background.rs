//! `-daemon`: leaving whoever started the program, which waits until the daemon serves.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use repmd_sys::Forked;

use crate::printable::in_words;

/// What the daemon says when it serves. All else that it says is why it does not.
const SERVES: &[u8] = b"\0";

/// The longest reason that is shown.
const REASON_BYTES_MAX: u64 = 4096;

/// Which process this is now.
#[derive(Debug)]
pub(crate) enum Background {
    /// One that was only needed on the way, and ends with this status.
    Caller(ExitCode),
    /// The daemon. Its caller waits.
    Daemon(Waiting),
}

/// The process that started the daemon, which ends when it hears how that went.
#[derive(Debug)]
pub(crate) struct Waiting(PipeWriter);

impl Waiting {
    /// The daemon serves.
    pub(crate) fn tell_serving(mut self) {
        // If nobody is left to hear it, nobody waits.
        let _ = self.0.write_all(SERVES);
    }

    /// It does not, and ends.
    pub(crate) fn tell_failure(mut self, why: &dyn Display) {
        let _ = self.0.write_all(why.to_string().as_bytes());
    }
}

/// Leaves the session, the terminal, the working directory and the standard streams.
///
/// # Errors
/// When there can be no other process.
pub(crate) fn enter() -> io::Result<Background> {
    let (result, waiting) = pipe()?;
    if repmd_sys::fork()? == Forked::Parent {
        drop(waiting);
        return Ok(Background::Caller(wait_for(result)));
    }
    drop(result);
    let waiting = Waiting(waiting);
    match leave() {
        Ok(Forked::Parent) => Ok(Background::Caller(ExitCode::SUCCESS)),
        Ok(Forked::Child) => Ok(Background::Daemon(waiting)),
        Err(error) => {
            waiting.tell_failure(&format_args!("cannot go into the background: {}", in_words(&error)));
            Ok(Background::Caller(ExitCode::FAILURE))
        }
    }
}

/// Not for the child's status, which is nobody's where the caller was started with SIGCHLD ignored.
fn wait_for(result: PipeReader) -> ExitCode {
    let mut said = Vec::new();
    let read = result.take(REASON_BYTES_MAX).read_to_end(&mut said);
    let reason = match read {
        Ok(_) if said == SERVES => return ExitCode::SUCCESS,
        Ok(0) => "the daemon ended before it served".to_owned(),
        Ok(_) => String::from_utf8_lossy(&said).into_owned(),
        Err(error) => format!("nobody knows whether the daemon serves: {}", in_words(&error)),
    };
    // Standard error may be closed.
    let _ = writeln!(io::stderr(), "epmd: {reason}");
    ExitCode::FAILURE
}

fn leave() -> io::Result<Forked> {
    rustix::process::setsid()?;
    // The first child's end must not hang up on the second.
    repmd_sys::ignore_hangup();
    if repmd_sys::fork()? == Forked::Parent {
        return Ok(Forked::Parent);
    }
    rustix::process::chdir("/")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let (input, output) = silence()?;
    rustix::stdio::dup2_stdin(&input)?;
    rustix::stdio::dup2_stdout(&output)?;
    rustix::stdio::dup2_stderr(&output)?;
    Ok(Forked::Child)
}

/// What has nothing to read, and what takes all that is written. Where `/dev/null` is missing, as in an empty root, a
/// pipe that nobody writes to, and one that nobody reads: the stock daemon does without, too.
fn silence() -> io::Result<(OwnedFd, OwnedFd)> {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        return Ok((null.try_clone()?.into(), null.into()));
    }
    let ((input, _), (_, output)) = (pipe()?, pipe()?);
    Ok((input.into(), output.into()))
}
