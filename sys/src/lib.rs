//! The few system calls of repmd that Rust cannot check. All its unsafe code is here, each with the
//! reason why it is sound.
#![allow(unsafe_code)]

mod watch;

pub use watch::watch_listener;
