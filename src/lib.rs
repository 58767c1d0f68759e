//! An EPMD (Erlang Port Mapper Daemon) for the whole cluster.

pub mod listen;
pub mod protocol;
pub mod server;
pub mod settings;
