//! The registry as DNS: hosts and nodes as names that every resolver can ask for.
//!
//! `HOST.ZONE` is where a host is reached, `NAME.nodes.ZONE` which hosts have a node of that name. It happens on a
//! thread of its own, with an event loop of its own: whatever is asked here, the wire does not wait.

mod face;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod index;
mod rate;
mod reply;
mod request;
mod stats;
mod tcp;
mod udp;
mod zone;

pub use stats::{CODES, Stats, TYPES};
pub use zone::{host_name, node_name};

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::rr::Name;
use repmd_backend_api::HostId;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::listen::Sockets;
use crate::printable::in_words;
use crate::server::Daemon;
use face::Face;

/// What is asked by DNS, and of whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen, by UDP and TCP.
    pub addresses: Vec<SocketAddr>,
    /// The zones that are answered for.
    pub zones: Vec<Name>,
    /// How long resolvers may remember what there is.
    pub ttl: Duration,
    /// How long they may remember what there is not.
    pub negative_ttl: Duration,
    /// Name servers for all other names; empty: those are refused.
    pub forward: Vec<SocketAddr>,
    /// Answers a second by UDP to one network that is not this machine's.
    pub rate: u32,
}

impl Options {
    /// Descriptors that it may have open at once.
    #[must_use]
    pub fn descriptors_max(&self) -> usize {
        // A question to another server takes one socket, and a second one where that has to be asked by TCP.
        let forwarding = if self.forward.is_empty() { 0 } else { 2 * face::FORWARDING_MAX };
        let answering = 2 * self.addresses.len() + tcp::CONNECTIONS_MAX + forwarding;
        if self.addresses.is_empty() { 0 } else { answering }
    }

    /// Whether a name server at this address is this one.
    #[must_use]
    pub fn answers_at(&self, server: SocketAddr) -> bool {
        self.addresses.iter().any(|own| {
            let is_here = own.ip().is_unspecified() && server.ip().to_canonical().is_loopback();
            server.port() == own.port() && (server.ip() == own.ip() || is_here)
        })
    }
}

/// For which hosts this machine stands.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Addresses of this machine at which it stands for other hosts: here they are reached at these.
    pub virtual_hosts: BTreeMap<IpAddr, HostId>,
}

/// Answers on these sockets, which do not block, until the daemon stops.
///
/// # Errors
/// When there can be no thread, no event loop or no forwarder, or a socket is none that can be watched.
pub fn start(
    sockets: Sockets,
    options: Options,
    rules: Rules,
    daemon: Arc<Daemon>,
    stats: Arc<Stats>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = daemon.stop().clone();
    let (udp, tcp, face) = {
        let _in_runtime = runtime.enter();
        let udp = sockets.udp.into_iter().map(udp::Socket::new).collect::<io::Result<Vec<_>>>()?;
        let tcp = sockets.tcp.into_iter().map(tokio::net::TcpListener::from_std);
        (udp, tcp.collect::<io::Result<Vec<_>>>()?, Arc::new(Face::new(daemon, options, rules, stats)?))
    };
    std::thread::Builder::new().name("dns".to_owned()).spawn(move || {
        runtime.block_on(serve(udp, tcp, face, stop));
        // Nobody waits for a name server that does not answer.
        runtime.shutdown_background();
    })
}

async fn serve(
    udp: Vec<udp::Socket>,
    tcp: Vec<tokio::net::TcpListener>,
    face: Arc<Face>,
    stop: CancellationToken,
) {
    for socket in udp {
        let (socket, face) = (Arc::new(socket), Arc::clone(&face));
        tokio::spawn(async move {
            if let Err(error) = udp::serve(socket, face).await {
                error!(error = %in_words(&error), "a socket for DNS failed");
            }
        });
    }
    let connections = Arc::new(tcp::queue());
    for listener in tcp {
        tokio::spawn(tcp::serve(listener, Arc::clone(&connections), Arc::clone(&face)));
    }
    stop.cancelled().await;
}
