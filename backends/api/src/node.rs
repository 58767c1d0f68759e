//! What a node registers, and the registration that a registry keeps of it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::creation::Creation;
use crate::name::{AliveName, HostId, NodeName};

/// The wire byte that says what kind of node this is. Any value is stored and returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeType(pub u8);

impl NodeType {
    /// An ordinary Erlang node; `erl -hidden` says this too.
    pub const NORMAL: Self = Self(77);
    /// A hidden node, by the protocol.
    pub const HIDDEN: Self = Self(72);
    /// A hidden node in C, as `ei` calls itself.
    pub const C: Self = Self(104);
}

/// `normal`, `hidden`, `c`, or the number.
impl fmt::Display for NodeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NORMAL => f.write_str("normal"),
            Self::HIDDEN => f.write_str("hidden"),
            Self::C => f.write_str("c"),
            Self(other) => other.fmt(f),
        }
    }
}

/// Most bytes of a node's extra.
pub const EXTRA_BYTES_MAX: usize = 1020;

/// What one node said of itself in its ALIVE2 request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The part before the `@`.
    pub name: AliveName,
    /// Where it accepts distribution connections. Unchecked, as on the stock daemon: 0 is possible.
    pub port: u16,
    /// Normal, hidden, or whatever the node sent.
    pub node_type: NodeType,
    /// 0 is TCP. Unchecked.
    pub protocol: u8,
    /// Highest distribution version.
    pub highest_version: u16,
    /// Lowest distribution version; may be above the highest.
    pub lowest_version: u16,
    /// Opaque bytes, at most [`EXTRA_BYTES_MAX`].
    pub extra: Box<[u8]>,
}

impl Node {
    /// What an Erlang node of today says of itself: normal, TCP, versions 5 to 6, no extra.
    #[must_use]
    pub fn ordinary(name: AliveName, port: u16) -> Self {
        Self {
            name,
            port,
            node_type: NodeType::NORMAL,
            protocol: 0,
            highest_version: 6,
            lowest_version: 5,
            extra: Box::default(),
        }
    }
}

/// A random 128-bit number for one run of one daemon.
///
/// Packed, because aligned to 16 bytes each lease of it would be padded for each node.
#[repr(Rust, packed(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(pub u128);

impl InstanceId {
    /// A new one, from the system's random numbers.
    #[must_use]
    pub fn random() -> Self {
        let mut number = [0; 16];
        // The system call itself: a static program in an empty root has neither the C library's function
        // nor the device. It gives 16 bytes whole or none.
        let given = retry_on_intr(|| getrandom(&mut number, GetRandomFlags::empty()));
        assert_eq!(given, Ok(number.len()), "the kernel has random numbers");
        Self(u128::from_ne_bytes(number))
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", { self.0 })
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One run of one daemon: who holds registrations, and where its nodes are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Tells this run from every other.
    pub id: InstanceId,
    /// What stays the same over the daemon's restarts. A registration that an earlier run of the same
    /// name left behind is replaced, never a reason to refuse.
    pub name: String,
    /// The host that its nodes are on.
    pub host: HostId,
    /// Other names of that host: its full name, `--alias`.
    pub aliases: Vec<HostId>,
    /// Where the host's nodes are reached from other hosts.
    pub addresses: Vec<IpAddr>,
    /// Where the daemon itself listens.
    pub port: u16,
}

impl Instance {
    /// A new run of the daemon at EPMD's port of `host`, which is at no address yet.
    #[must_use]
    pub fn new(name: impl Into<String>, host: HostId) -> Self {
        let (aliases, addresses) = (Vec::new(), Vec::new());
        Self { id: InstanceId::random(), name: name.into(), host, aliases, addresses, port: 4369 }
    }

    /// Whether `host` is this daemon's host or an alias of it.
    #[must_use]
    pub fn answers_to(&self, host: &HostId) -> bool {
        self.host == *host || self.aliases.contains(host)
    }
}

/// A node as a registry keeps it, under the key (cluster, host, alive name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// What the node said.
    pub node: Node,
    /// The port that askers from other machines get; the node's own unless a port map says otherwise.
    pub advertised_port: u16,
    /// Which life of its name this is.
    pub creation: Creation,
    /// The daemon that the node registered with.
    pub instance: Arc<Instance>,
    /// When, by that daemon's clock. For people; no decision is made by it.
    pub registered_at: SystemTime,
}

impl Registration {
    /// `alive@host`, for logs and errors.
    #[must_use]
    pub fn node_name(&self) -> NodeName {
        NodeName { alive: self.node.name.clone(), host: self.instance.host.clone() }
    }
}
