//! What is counted of relayed connections.

use crate::metrics::Counter;

/// Counted since the start of the daemon.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections that were relayed to a node.
    pub connections: Counter,
    /// Bytes on their way from those who dialled to nodes.
    pub bytes_to_nodes: Counter,
    /// Bytes on their way back.
    pub bytes_from_nodes: Counter,
    /// What was not relayed, by the reason.
    pub refused: Refused,
}

/// Look-ups and connections that were not relayed.
#[derive(Debug, Default)]
pub struct Refused {
    /// The node is in none of the networks that may be dialled.
    pub network: Counter,
    /// As many connections as may be are relayed.
    pub connections: Counter,
    /// As many nodes as may be are listened for, or no port is free.
    pub listeners: Counter,
    /// Who dialled may not look up either.
    pub peer: Counter,
    /// The node is not registered any longer.
    pub gone: Counter,
    /// The node could not be dialled.
    pub unreachable: Counter,
}
