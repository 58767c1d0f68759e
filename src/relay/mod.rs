//! Connections to nodes of networks that this machine reaches, and those who dial do not.
//!
//! Who asks at the address of a virtual host for a node of that host is told a port of that very address,
//! and what is dialled there is moved to the node and back. It happens on a thread of its own with an event
//! loop of its own, so that look-ups do not wait for the bytes of nodes. Nothing is relayed unless the
//! settings name the networks that may be dialled.

mod connection;
mod door;
mod pipe;
mod stats;

pub use stats::{Refused, Stats};

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use repmd_backend_api::{HostId, Registration};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::registry::Registry;
use crate::throttle::Throttle;
use connection::Refusal;
pub(crate) use connection::is_elsewhere;
use door::{Door, Open, Ports};
use pipe::Pipes;

/// What is relayed, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Where nodes may be dialled.
    pub networks: Vec<IpNet>,
    /// The ports at which nodes may be dialled.
    pub target_ports: RangeInclusive<u16>,
    /// The ports to listen on, for the sake of firewalls; `None`: any that is free.
    pub ports: Option<RangeInclusive<u16>>,
    /// Most connections at once.
    pub connections_max: usize,
    /// The same for one address that dials.
    pub connections_per_peer_max: usize,
    /// A connection ends when nothing is sent on it for this long, or up to twice as long.
    pub idle_time: Duration,
    /// Most nodes at once whose look-ups were answered with a port of ours.
    pub listeners_max: usize,
}

impl Limits {
    /// How many descriptors the relay has at most: two sockets and two pipes a connection, and the listeners.
    #[must_use]
    pub fn descriptors_max(&self) -> usize {
        self.connections_max.saturating_mul(6).saturating_add(self.listeners_max)
    }
}

/// What the relay is told of its daemon.
#[derive(Clone)]
pub struct Options {
    /// What is relayed, and how much.
    pub limits: Limits,
    /// Whether a peer may connect to a local address.
    pub may_connect: Arc<dyn Fn(IpAddr, IpAddr) -> bool + Send + Sync>,
    /// Whether an address may be dialled, whatever the networks are.
    pub may_dial: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.limits.fmt(f)
    }
}

/// The relay of one daemon.
#[derive(Debug)]
pub struct Relay {
    registry: Arc<Registry>,
    options: Options,
    event_loop: Handle,
    /// What is listened on, by the node behind it.
    doors: Mutex<HashMap<Door, Open>>,
    /// Those that may be listened on; `None`: any.
    ports: Option<Ports>,
    permits: Arc<Semaphore>,
    /// The connections of each address that dials.
    peers: Mutex<HashMap<IpAddr, usize>>,
    pipes: Pipes,
    complaints: Throttle,
    stats: Stats,
}

impl Relay {
    /// Starts the thread. When `stop` fires, it ends, and with it every relayed connection.
    ///
    /// # Errors
    /// When there can be no thread or no event loop.
    pub fn start(
        registry: Arc<Registry>,
        options: Options,
        stop: CancellationToken,
    ) -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let relay = Arc::new(Self {
            registry,
            event_loop: event_loop.handle().clone(),
            doors: Mutex::default(),
            ports: options.limits.ports.clone().map(Ports::new),
            peers: Mutex::default(),
            permits: Arc::new(Semaphore::new(options.limits.connections_max)),
            options,
            pipes: Pipes::default(),
            complaints: Throttle::default(),
            stats: Stats::default(),
        });
        let thread = std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || event_loop.block_on(stop.cancelled()))?;
        Ok((relay, thread))
    }

    /// What is counted.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How many connections are relayed now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.options.limits.connections_max - self.permits.available_permits()
    }

    /// How many nodes are listened for now.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.doors().len()
    }

    /// The port at `address`, which stands for `host`, that leads to this node of it. Listens there if
    /// nobody has asked for the node before, if need be in the place of the node that nobody is connected to and that
    /// was asked for least recently; does not wait. `None`: it is not relayed.
    #[must_use]
    pub fn port_of(
        self: &Arc<Self>,
        address: IpAddr,
        host: &HostId,
        registration: &Registration,
    ) -> Option<u16> {
        let alive = registration.node.name.clone();
        let door = Door { address, host: host.clone(), alive };
        if self.targets(registration).is_empty() {
            self.refuse(&door, &Refusal::Network { node: registration.node_name() });
            return None;
        }
        let mut doors = self.doors();
        if let Some(open) = doors.get_mut(&door) {
            open.asked = Instant::now();
            return Some(open.port);
        }
        if self.options.limits.listeners_max <= doors.len() && !door::close_one(&mut doors) {
            self.refuse(&door, &Refusal::Listeners);
            return None;
        }
        let used = doors.iter().filter(|(door, _)| door.address == address).map(|(_, open)| open.port);
        let used: HashSet<_> = used.collect();
        let listening = door::listen(address, self.ports.as_ref(), |port| used.contains(&port))
            .and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
        let (port, listener) = match listening {
            Ok(listening) => listening,
            Err(error) => {
                self.refuse(&door, &Refusal::Listen(error));
                return None;
            }
        };
        info!(node = %door, %address, port, "relaying");
        let open = Open::new(port);
        self.event_loop.spawn(door::serve(
            Arc::clone(self),
            Arc::new(door.clone()),
            open.way_in.clone(),
            listener,
        ));
        doors.insert(door, open);
        Some(port)
    }

    fn targets(&self, registration: &Registration) -> Vec<SocketAddr> {
        connection::targets(registration, &self.options.limits)
    }

    fn refuse(&self, door: &Door, refusal: &Refusal) {
        let refused = &self.stats.refused;
        let counter = match refusal {
            Refusal::Network { .. } => &refused.network,
            Refusal::Connections | Refusal::PeerConnections(_) => &refused.connections,
            Refusal::Peer(_) => &refused.peer,
            Refusal::Gone => &refused.gone,
            Refusal::Unreachable { .. } => &refused.unreachable,
            Refusal::Listeners | Refusal::Listen(_) => &refused.listeners,
        };
        counter.add();
        match self.complaints.pass() {
            Some(left_out) => warn!(node = %door, left_out, "not relayed: {refusal}"),
            None => debug!(node = %door, "not relayed: {refusal}"),
        }
    }

    /// Held for a few instructions.
    fn peers(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held for a few instructions, or as long as it takes to listen, never over an await.
    fn doors(&self) -> MutexGuard<'_, HashMap<Door, Open>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
