//! An EPMD (Erlang Port Mapper Daemon) for the whole cluster.

pub mod protocol;
pub mod server;
