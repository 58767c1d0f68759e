//! The few system calls of repmd that Rust cannot check. All its unsafe code is here, each with the
//! reason why it is sound.
#![allow(unsafe_code)]

mod exec;
mod process;
mod watch;

pub use exec::{Ignored, ignore, inherit};
pub use process::{
    Forked, adopt_datagram, adopt_listener, close_inherited, ctime, fork, give_free_memory_back,
    give_large_blocks_back, ignore_file_size_limit, ignore_hangup, is_datagram, is_ignored,
};
pub use watch::{watch_listener, watch_peer};
