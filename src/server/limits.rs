//! The bounds that keep the daemon alive, whatever its peers do.

use std::time::Duration;

/// Every bound and every wait of the server, with its unit in its type or last in its name.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A connection is closed when its request is not whole, or its reply not read, for this long since
    /// the last byte moved. Default: 60 s, as on the stock daemon.
    pub packet_timeout: Duration,
    /// Most connections at once whose request is not whole. Beyond it the oldest is closed. Default: a
    /// quarter of the descriptors, at most 16,384.
    pub waiting_max: usize,
    /// The same for one address; loopback is exempt, because all of a host's nodes come from there.
    /// Default: a quarter of `waiting_max`.
    pub waiting_per_peer_max: usize,
    /// Most connections at once that read a long reply slowly. Beyond it the oldest is closed. Default: 64.
    pub slow_readers_max: usize,
    /// Most bytes of the replies that they keep in memory, in all: each may keep a list of its own where names
    /// come and go. Beyond it the oldest is closed. Default: 64 MiB.
    pub slow_reply_bytes_max: usize,
    /// Most nodes that are registered or about to be. Beyond it ALIVE2 is closed without an answer, so that
    /// look-ups still find a descriptor. Default: all descriptors but those that the daemon itself may have
    /// open, and 64 for look-ups, or an eighth where there are few.
    pub nodes_max: usize,
    /// How long a node that asks for a taken name waits whether the holder leaves, before it is refused.
    /// Default: 500 ms, a twentieth of what a node waits for its answer.
    pub holder_leaves: Duration,
    /// Most nodes at once that wait for that. Beyond it the oldest is refused at once. Default: a sixteenth of
    /// the descriptors, at most 256.
    pub holder_waits_max: usize,
    /// Most connections of operators at once, beside those that follow events. Beyond it the oldest is closed.
    /// Default: a sixteenth of the descriptors, 4 to 32.
    pub operators_max: usize,
    /// Most requests a second of one address that is not this machine's. More are closed without an answer. Default:
    /// any number.
    pub requests_per_peer_rate: Option<u32>,
    /// How long to stop accepting when descriptors or memory run out. Default: 50 ms.
    pub accept_pause: Duration,
    /// How long after its accept a connection is closed by a stopping daemon, if it has sent nothing: whoever
    /// has just connected is about to ask. Default: 500 ms.
    pub first_byte: Duration,
    /// How long a stopping daemon waits for requests that are on their way. Default: 5 s.
    pub drain_time: Duration,
    /// For tests of clients: sleep on every wake-up of a listener. Default: none.
    pub delay_accept: Duration,
    /// For tests of clients: sleep before every write. Default: none.
    pub delay_write: Duration,
}

/// What the daemon itself has open at most, beside the connections of its peers and of operators: three of the
/// standard streams, its listeners, three event loops with their wakers, signals, the log, the audit log, the service
/// manager, the store's connections and one more that replaces one of them, the hosts file, a look at the links; and while
/// another program takes this one's place, its state, its pipes, and the sockets of operators once more.
const OWN_DESCRIPTORS: usize = 40;

impl Limits {
    /// The defaults for a process that may have `descriptors` open files.
    #[must_use]
    pub fn for_descriptors(descriptors: usize) -> Self {
        let waiting_max = (descriptors / 4).clamp(8, 16_384);
        let operators_max = (descriptors / 16).clamp(4, 32);
        let reserve = OWN_DESCRIPTORS + operators_max + (descriptors / 8).min(64);
        Self {
            packet_timeout: Duration::from_secs(60),
            waiting_max,
            waiting_per_peer_max: waiting_max / 4,
            slow_readers_max: 64,
            slow_reply_bytes_max: 64 << 20,
            nodes_max: descriptors.saturating_sub(reserve).max(1),
            holder_leaves: Duration::from_millis(500),
            holder_waits_max: (descriptors / 16).clamp(2, 256),
            operators_max,
            requests_per_peer_rate: None,
            accept_pause: Duration::from_millis(50),
            first_byte: Duration::from_millis(500),
            drain_time: Duration::from_secs(5),
            delay_accept: Duration::ZERO,
            delay_write: Duration::ZERO,
        }
    }
}
