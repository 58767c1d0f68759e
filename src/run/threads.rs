//! What runs beside the wire, on threads of its own: the relay, DNS, the links, and what operators see.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::admin::{self, About, Token};
use crate::dns;
use crate::links;
use crate::listen::Sockets;
use crate::registry::Registry;
use crate::relay::{self, Relay};
use crate::server::{Daemon, May, Verb};
use crate::settings::Settings;

/// Those that were started.
#[derive(Default)]
pub(super) struct Threads {
    relay: Option<JoinHandle<()>>,
    operators: Option<JoinHandle<()>>,
    links: Option<JoinHandle<()>>,
    dns: Option<JoinHandle<()>>,
}

impl Threads {
    /// The relay, if there is to be one, until `stop`.
    pub(super) fn start_relay(
        &mut self,
        settings: &Settings,
        registry: &Arc<Registry>,
        stop: CancellationToken,
    ) -> io::Result<Option<Arc<Relay>>> {
        let Some(limits) = settings.relay.clone() else { return Ok(None) };
        info!(networks = ?limits.networks, "relaying to nodes of virtual hosts");
        let (policy, of_whom) = (settings.policy.clone(), Arc::clone(registry));
        let may_connect = Arc::new(move |peer, local| {
            let is_of_the_cluster = |peer| of_whom.is_known_of_the_cluster(peer);
            policy.may(Verb::LookUp, peer, || Some(local), is_of_the_cluster) == May::Yes
        });
        let options = relay::Options { limits, may_connect, may_dial: Arc::new(relay::is_elsewhere) };
        let (relay, thread) = Relay::start(Arc::clone(registry), options, stop)?;
        self.relay = Some(thread);
        Ok(Some(relay))
    }

    /// DNS, if it is asked at any of these sockets, until the daemon stops. Returns what it counts.
    pub(super) fn start_dns(
        &mut self,
        settings: &Settings,
        sockets: Sockets,
        daemon: &Arc<Daemon>,
    ) -> io::Result<Arc<dns::Stats>> {
        let stats = Arc::<dns::Stats>::default();
        if sockets.is_empty() {
            return Ok(stats);
        }
        let rules = dns::Rules { virtual_hosts: settings.topology.virtual_hosts.clone() };
        let addresses: Vec<_> = sockets.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let zones: Vec<_> = settings.dns.zones.iter().map(ToString::to_string).collect();
        info!(?addresses, zones = zones.join(" "), "answering by DNS");
        let (options, daemon) = (settings.dns.clone(), Arc::clone(daemon));
        self.dns = Some(dns::start(sockets, options, rules, daemon, Arc::clone(&stats))?);
        Ok(stats)
    }

    /// What operators see at this socket, until the daemon stops. To be started after DNS.
    pub(super) fn start_operators(
        &mut self,
        settings: &Settings,
        (socket, token): (TcpListener, Option<Token>),
        dns: Arc<dns::Stats>,
        daemon: &Arc<Daemon>,
    ) -> io::Result<()> {
        // Looking takes memory and questions to the store, which a daemon is to spare that shows nothing to operators.
        let (links, thread) = links::start(Arc::clone(daemon))?;
        self.links = Some(thread);
        info!(address = %socket.local_addr()?, "showing the cluster by HTTP");
        let dns_zones = if self.dns.is_some() { settings.dns.zones.clone() } else { Vec::new() };
        let (settings, cluster) = (settings.shown.clone(), settings.cluster.clone());
        let about = About { settings, cluster, dns, dns_zones, links };
        self.operators = Some(admin::start(socket, token, Arc::clone(daemon), about)?);
        Ok(())
    }

    /// Waits for their ends.
    pub(super) fn join(self) {
        let has_failed = |thread: Option<JoinHandle<()>>| thread.is_some_and(|thread| thread.join().is_err());
        if has_failed(self.relay) {
            error!("the thread of the relay failed");
        }
        if has_failed(self.operators) {
            error!("the thread for operators failed");
        }
        if has_failed(self.links) {
            error!("the thread for links failed");
        }
        if has_failed(self.dns) {
            error!("the thread for DNS failed");
        }
    }
}
