//! What a daemon carries over to the program that takes its place in this process: its nodes and all that is under way;
//! and what is kept of its nodes for its next run.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use repmd_backend_api::{AliveName, Registration};

use super::table::AliveSocket;

/// All that a daemon serves. `Socket` is what a node's connection is known by.
#[derive(Debug)]
pub struct Carried<Socket> {
    /// The nodes, oldest first.
    pub nodes: Vec<CarriedNode<Socket>>,
    /// Names that departed, as DUMP shows them, oldest first.
    pub departed: Vec<Departed>,
    /// The number that the next claim on a name gets.
    pub next_claim: u64,
    /// Connections that have had no answer yet, or only a part of one.
    pub under_way: Vec<UnderWay>,
}

/// A node of a daemon that serves on.
pub type ServedNode = CarriedNode<Arc<AliveSocket>>;

/// Keeps the nodes of a daemon for its next run, whichever way this one ends. It waits for nobody.
pub trait NodeKeeper: fmt::Debug + Send + Sync {
    /// A node has registered.
    fn registered(&self, node: &ServedNode);

    /// The node of this claim has left, and its connection is shut down.
    fn left(&self, claim: u64);
}

/// A node.
#[derive(Debug)]
pub struct CarriedNode<Socket> {
    /// The number of its claim.
    pub claim: u64,
    /// Its connection.
    pub socket: Socket,
    /// What it registered.
    pub registration: Arc<Registration>,
}

/// A name that departed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// The name.
    pub name: AliveName,
    /// Where its node listened.
    pub port: u16,
    /// The number of the descriptor that its connection had.
    pub fd: i32,
}

/// A connection between its request and the last byte of its answer.
#[derive(Debug)]
pub struct UnderWay {
    /// The connection.
    pub socket: OwnedFd,
    /// The port of the daemon that it uses.
    pub port: u16,
    /// How far it is.
    pub progress: Progress,
}

/// How far a connection is.
#[derive(Debug)]
pub enum Progress {
    /// It has sent so much of its request, and is told nothing yet.
    Asked(Vec<u8>),
    /// The reply to it, and how much of that is written.
    Told(Arc<Vec<u8>>, usize),
}
