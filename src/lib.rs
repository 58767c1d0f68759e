//! An EPMD (Erlang Port Mapper Daemon) for the whole cluster.
//!
//! | module | noun |
//! |---|---|
//! | [`protocol`] | the wire format, without IO |
//! | [`server`] | the daemon: connections, nodes, answers, limits |
//! | [`registry`] | what the daemon holds in the registry, and knows of the rest |
//! | [`relay`] | connections to nodes of networks that those who dial do not reach |
//! | [`links`] | which nodes are connected with each other, as the kernels of their machines have it |
//! | [`admin`] | what operators see: HTTP, metrics, the live page |
//! | [`dns`] | the registry as names that every resolver can ask for |
//! | [`metrics`] | counters |
//! | [`printable`] | text of others, shown to people |
//! | `handshake` | the start of the handshake between nodes, which says who a node is |
//! | `hosts` | whose a host name is, and where it is reached, for resolvers |
//! | [`hosts_file`] | the hosts of the cluster, for nodes whose resolver does not know them |
//! | [`service_manager`] | what the service manager is told |
//! | [`settings`] | everything that can be set, from one table |
//! | [`kinds`] | the kinds of registry that the program has |
//! | [`line_queue`] | lines on their way to a log |
//! | [`listen`] | addresses and listening sockets |
//! | `listeners` | the processes on a port |
//! | [`run`] | one run: sockets, signals, end |
//! | [`upgrade`] | another program in the place of this one, under its nodes |
//! | `background` | `-daemon`: leaving whoever started the program |
//! | [`telemetry`] | log lines |
//! | [`cli`] | the two command lines |
//!
//! Which of them use which is in `docs/ARCHITECTURE.md`, held by a test. Only the program names a concrete backend.

pub mod admin;
mod background;
pub mod cli;
pub mod dns;
mod handshake;
mod hosts;
pub mod hosts_file;
pub mod kinds;
pub mod line_queue;
pub mod links;
pub mod listen;
mod listeners;
pub mod metrics;
mod orphans_file;
pub mod printable;
pub mod protocol;
mod queue;
mod rate;
pub mod registry;
pub mod relay;
pub mod run;
pub mod server;
pub mod service_manager;
pub mod settings;
pub mod telemetry;
mod throttle;
pub mod upgrade;
mod whole_file;
