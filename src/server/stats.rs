//! What is counted of requests and nodes. A look-up touches two of these counters.

use crate::metrics::Counter;

/// Counted since the start of the daemon.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections that were accepted.
    pub connections: Counter,
    /// Look-ups that were answered with a node of this daemon.
    pub found_here: Counter,
    /// Look-ups that were answered with what another daemon holds.
    pub found_elsewhere: Counter,
    /// Look-ups that were answered with "not registered".
    pub not_found: Counter,
    /// NAMES requests that were answered.
    pub names: Counter,
    /// DUMP requests that were answered.
    pub dump: Counter,
    /// STOP requests, whatever came of them.
    pub stop: Counter,
    /// KILL requests, whatever came of them.
    pub kill: Counter,
    /// Requests that no client should send.
    pub malformed: Counter,
    /// Requests of peers that may not make them.
    pub not_allowed: Counter,
    /// Requests of peers that make too many.
    pub too_fast: Counter,
    /// Nodes that registered.
    pub granted: Counter,
    /// Nodes that were refused, because another node of this daemon has the name.
    pub refused_here: Counter,
    /// Nodes that were refused, because another daemon of this host holds the name.
    pub refused_elsewhere: Counter,
    /// Nodes that were turned away without an answer, because no descriptor was left for them.
    pub turned_away: Counter,
    /// Nodes whose registration ended.
    pub unregistered: Counter,
    /// Times that accepting paused, because no descriptor was left.
    pub pauses: Counter,
}
