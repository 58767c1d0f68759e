//! What a process keeps when it becomes another program.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that was open when this program began, left by the program that this process ran before. From
/// then on it is closed when another program begins, unless somebody says otherwise.
///
/// # Errors
/// When `fd` is not open, is a standard stream, or was not left open on purpose: a program of Rust opens nothing that the
/// next one would find.
pub fn inherit(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 3 {
        return Err(io::Error::other(format!("descriptor {fd} is a standard stream")));
    }
    // SAFETY: it only reads a flag; a number that is not open is an error.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::other(format!("descriptor {fd} was not left open by the program before")));
    }
    // SAFETY: it only sets a flag of an open descriptor.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and no value owns it: all that this program opens has the flag, and so has this descriptor from
    // now on, so that it is not taken over twice.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A signal that does nothing, until this value goes. What begins meanwhile in this process ignores it too.
#[derive(Debug)]
pub struct Ignored {
    signal: i32,
    before: libc::sigaction,
}

/// Ignores `signal` from now on.
#[must_use = "it is ignored until the value goes"]
pub fn ignore(signal: i32) -> Ignored {
    // SAFETY: an all-zero `sigaction` is a value; SIG_IGN is no handler, so no code runs when the signal arrives.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        let mut nothing: libc::sigaction = std::mem::zeroed();
        nothing.sa_sigaction = libc::SIG_IGN;
        libc::sigaction(signal, &raw const nothing, &raw mut before);
        Ignored { signal, before }
    }
}

impl Drop for Ignored {
    fn drop(&mut self) {
        // SAFETY: what was there before is still loaded, and may run as before.
        unsafe { libc::sigaction(self.signal, &raw const self.before, std::ptr::null_mut()) };
    }
}
