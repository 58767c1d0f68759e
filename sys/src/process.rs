//! Turning a program into a daemon, and what a service manager hands to it.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::RawFd;

use crate::exec::inherit;

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The process that called.
    Parent,
    /// The new one.
    Child,
}

/// Splits the process in two.
///
/// # Errors
/// When the system has no room for another process, or this process runs more threads than one: a
/// child of such a process may find locks held that nobody will ever release.
pub fn fork() -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if 1 < threads {
        return Err(io::Error::other(format!("cannot fork a process of {threads} threads")));
    }
    // SAFETY: no other thread exists, so the child is a whole copy of a consistent process.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        _ => Ok(Forked::Parent),
    }
}

/// Closes every descriptor that whoever started this program left open, but the standard streams: they must not wait for
/// their pipes to close.
pub fn close_inherited() {
    let open: Vec<RawFd> = match std::fs::read_dir("/proc/self/fd") {
        Ok(files) => files.filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok()).collect(),
        // Where there is no /proc, each number that there could be.
        Err(_) => (3..descriptors_max()).collect(),
    };
    // What this program has opened itself is none of them, nor is a number that is not open.
    open.into_iter().filter_map(|fd| inherit(fd).ok()).for_each(drop);
}

/// One above the highest number that a descriptor may have.
fn descriptors_max() -> RawFd {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it writes to a live value.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if failed == 0 { RawFd::try_from(limit.rlim_max).unwrap_or(1 << 20).min(1 << 20) } else { 1024 }
}

/// Lets the allocator give large blocks back to the system as soon as they are free. By itself it learns to keep blocks as
/// large as those that it has seen, and a list of names that was large once would be paid for ever after. Only glibc has
/// such a setting.
pub fn give_large_blocks_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it changes a number of the allocator, which takes a lock for it.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 * 1024);
    }
}

/// Gives the system back what is free in the allocator's pages.
pub fn give_free_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only gives back pages that the allocator holds and nobody uses, under its locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Keeps the end of a terminal's session from ending the process.
pub fn ignore_hangup() {
    // SAFETY: SIG_IGN is no handler, so no code runs when the signal arrives.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// Whether the process ignores a signal, most likely because whoever started it does.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: an all-zero `sigaction` is a value, and nothing is changed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Makes a write beyond the limit of the size of files an error. By default it ends the process.
pub fn ignore_file_size_limit() {
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Takes over a listening TCP socket that a service manager left open under the number `fd`.
///
/// # Errors
/// As [`inherit`], and when it is no listening stream socket.
pub fn adopt_listener(fd: RawFd) -> io::Result<TcpListener> {
    if socket_option(fd, libc::SO_ACCEPTCONN)? == 0 {
        return Err(io::Error::other(format!("descriptor {fd} does not listen")));
    }
    inherit(fd).map(TcpListener::from)
}

/// Whether descriptor `fd` is a socket for datagrams.
#[must_use]
pub fn is_datagram(fd: RawFd) -> bool {
    socket_option(fd, libc::SO_TYPE).is_ok_and(|kind| kind == libc::SOCK_DGRAM)
}

/// Takes a datagram socket over that a service manager passed, as [`adopt_listener`] does.
///
/// # Errors
/// As [`inherit`], and when it is no datagram socket.
pub fn adopt_datagram(fd: RawFd) -> io::Result<UdpSocket> {
    if socket_option(fd, libc::SO_TYPE)? != libc::SOCK_DGRAM {
        return Err(io::Error::other(format!("descriptor {fd} is no datagram socket")));
    }
    inherit(fd).map(UdpSocket::from)
}

fn socket_option(fd: RawFd, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to live values of the size that is given.
    let failed =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut size) };
    if failed == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// The local time as C's `ctime` writes it, without the newline: `Tue Nov 24 10:26:10 2026`.
#[must_use]
pub fn ctime(unix_seconds: i64) -> String {
    let time: libc::time_t = unix_seconds;
    let mut text = [0u8; 64];
    // SAFETY: all pointers are to live values; an all-zero `tm` is a value; strftime writes at most as
    // many bytes as it is told, and returns how many.
    let written = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const time, &raw mut parts);
        let format = c"%a %b %e %H:%M:%S %Y";
        libc::strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), &raw const parts)
    };
    String::from_utf8_lossy(&text[..written]).into_owned()
}
