//! A daemon from its registry to its last connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use repmd_backend_api::Instance;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::housekeeping::{end_when_empty, give_memory_back};
use super::identity::{instance, own_address};
use super::opening::Opened;
use crate::admin::{self, About};
use crate::dns;
use crate::hosts_file::HostsFile;
use crate::kinds::Kinds;
use crate::links;
use crate::listen::at_loopback;
use crate::orphans_file::OrphansFile;
use crate::printable::in_words;
use crate::registry::{Options, Registry};
use crate::relay::{self, Relay};
use crate::server::{Carried, Daemon, May, NodeKeeper, Verb, serve};
use crate::service_manager::{DescriptorStore, ServiceManager};
use crate::settings::Settings;
use crate::telemetry;
use crate::upgrade::{Called, Kept, OtherSockets, Outcome, State, Upgrader, Went};

/// The longest that a node or an asker waits for the store: a node gives up after 10 s.
const STORE_DEADLINE: Duration = Duration::from_millis(500);

/// The longest that an asker waits to hear whether a node of before still listens.
const PROBE_TIME: Duration = Duration::from_millis(200);

/// What a run goes on from.
pub(super) struct Past {
    pub(super) state: Box<State>,
    /// The connections that the service manager has kept since the run before. `None`: it is the program before, in this
    /// process.
    pub(super) kept: Option<Vec<OwnedFd>>,
}

#[expect(clippy::too_many_arguments, reason = "one run of the daemon, which has all of them once")]
pub(super) async fn serve_until_stopped(
    settings: &Settings,
    manager: Option<ServiceManager>,
    store: Option<DescriptorStore>,
    opened: Opened,
    past: Option<Past>,
    called: io::Result<Called>,
    hosts_file: Option<HostsFile>,
    kinds: Kinds<'_>,
    on_serving: impl FnOnce(),
) -> io::Result<()> {
    let Opened { wire, dns, admin, outcome } = opened;
    let asked_to_upgrade = Upgrader::signal()?;
    let program = past.as_ref().filter(|past| past.kept.is_none());
    let asked_to_reload = Upgrader::reload_signal(program.map(|past| &*past.state))?;
    let admin_socket = admin.as_ref().map(|(socket, _)| socket.try_clone()).transpose()?;
    let other_sockets = OtherSockets { dns: dns.try_clone()?, admin: admin_socket };
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        // As the stock daemon and `nohup` have it: what whoever started the program ignores, it ignores too.
        if repmd_sys::is_ignored(kind.as_raw_value()) {
            continue;
        }
        let (mut signal, stop) = (signal(kind)?, stop.clone());
        tokio::spawn(async move {
            signal.recv().await;
            stop.cancel();
        });
    }
    let instance = Arc::new(instance(settings, past.as_ref().map(|past| &past.state.identity))?);
    let backend = kinds.open(settings, Arc::clone(&instance)).map_err(io::Error::other)?;
    let options = Options {
        lookup: settings.lookup,
        stale_for: settings.stale_for,
        deadline: STORE_DEADLINE,
        clock: Arc::new(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
        probe: Arc::new(|port, addresses| Box::pin(somebody_listens(port, addresses))),
    };
    let registry = Registry::new(backend, Arc::clone(&instance), options);
    let registry = Arc::new(match (settings.backend.is_shared(), &settings.advertise) {
        (true, None) => {
            let settings = settings.clone();
            registry.with_addresses_of_the_connection(Box::new(move |on_connection| {
                let addresses: Vec<_> = own_address(on_connection).into_iter().collect();
                let aliases = settings.aliases_at(&addresses);
                Instance { addresses, aliases, ..(*instance).clone() }
            }))
        }
        (false, _) | (_, Some(_)) => registry,
    });
    let has_the_nodes = past.as_ref().is_some_and(|past| past.kept.is_some());
    let resumed = match past {
        Some(Past { state, kept }) => {
            let instance = registry.instance();
            let of_the_registry = state.registry(&instance)?;
            let carried = match kept {
                None => state.take_over(&instance)?,
                Some(sockets) => state.take_kept(&instance, sockets),
            };
            let nodes = carried.nodes.iter().map(|node| (node.claim, Arc::clone(&node.registration)));
            registry.resume(nodes.collect(), of_the_registry).await;
            let registry = Arc::clone(&registry);
            tokio::spawn(async move { registry.release_the_rest().await });
            Some((state, carried))
        }
        None => None,
    };
    let kept = store.map(Kept::start);
    let keeping = CancellationToken::new();
    let keeper = {
        let (registry, keeping) = (Arc::clone(&registry), keeping.clone());
        tokio::spawn(async move { registry.keep(&keeping).await })
    };
    if let Some(hosts_file) = hosts_file {
        let (registry, stop) = (Arc::clone(&registry), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(hosts_file.keep(&registry)).await });
    }
    let (policy, topology) = (settings.policy.clone(), settings.topology.clone());
    let relaying = CancellationToken::new();
    let (relay, relay_thread) = match &settings.relay {
        Some(limits) => {
            info!(networks = ?limits.networks, "relaying to nodes of virtual hosts");
            let (policy, of_whom) = (policy.clone(), Arc::clone(&registry));
            let may_connect = Arc::new(move |peer, local| {
                let is_of_the_cluster = |peer| of_whom.is_known_of_the_cluster(peer);
                policy.may(Verb::LookUp, peer, || Some(local), is_of_the_cluster) == May::Yes
            });
            let options = relay::Options {
                limits: limits.clone(),
                may_connect,
                may_dial: Arc::new(relay::is_elsewhere),
            };
            let (relay, thread) = Relay::start(Arc::clone(&registry), options, relaying.clone())?;
            (Some(relay), Some(thread))
        }
        None => (None, None),
    };
    tokio::spawn(telemetry::tell_of_losses());
    let daemon = Daemon::new(Arc::clone(&registry), policy, topology, settings.limits, stop.clone());
    let admin_address = match &admin {
        Some((socket, _)) => Some(at_loopback(socket.local_addr()?)),
        None => None,
    };
    let node_keeper = kept.clone().map(|kept| kept as Arc<dyn NodeKeeper>);
    let daemon = Arc::new(daemon.with_relay(relay).with_admin(admin_address).with_node_keeper(node_keeper));
    let addresses: Vec<_> = wire.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect();
    info!(host = %settings.host, ?addresses, "serving");
    let dns_stats = Arc::<dns::Stats>::default();
    let dns_zones = if dns.is_empty() { Vec::new() } else { settings.dns.zones.clone() };
    let dns = if dns.is_empty() {
        None
    } else {
        let rules = dns::Rules { virtual_hosts: settings.topology.virtual_hosts.clone() };
        let addresses: Vec<_> = dns.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let zones: Vec<_> = dns_zones.iter().map(ToString::to_string).collect();
        info!(?addresses, zones = zones.join(" "), "answering by DNS");
        let stats = Arc::clone(&dns_stats);
        Some(dns::start(dns, settings.dns.clone(), rules, Arc::clone(&daemon), stats)?)
    };
    // Looking takes memory and questions to the store, which a daemon is to spare that shows nothing to operators.
    let (links, links_thread) = if admin.is_some() {
        let (links, thread) = links::start(Arc::clone(&daemon))?;
        (Some(links), Some(thread))
    } else {
        (None, None)
    };
    let admin = match admin.zip(links) {
        Some(((socket, token), links)) => {
            info!(address = %socket.local_addr()?, "showing the cluster by HTTP");
            let about = About {
                settings: settings.shown.clone(),
                cluster: settings.cluster.clone(),
                dns: dns_stats,
                dns_zones,
                links,
            };
            Some(admin::start(socket, token, Arc::clone(&daemon), about)?)
        }
        None => None,
    };
    tokio::spawn(give_memory_back(Arc::clone(&daemon)));
    if let Some(patience) = settings.exit_when_empty {
        tokio::spawn(end_when_empty(Arc::clone(&daemon), patience));
    }
    if let Some(manager) = manager {
        manager.keep_informed(registry.readiness(), stop);
    }
    let (replacements, asked_to_pause) = mpsc::channel(1);
    if let Some((state, carried)) = resumed {
        let program = (!has_the_nodes).then_some(&*state);
        go_on(program, &daemon, carried, outcome.as_ref());
    }
    if let Some(path) = settings.orphans_file.clone() {
        let (daemon, stop) = (Arc::clone(&daemon), daemon.stop().clone());
        let keeping = OrphansFile::new(path).keep(daemon);
        // What ends with this run is no longer remembered.
        tokio::spawn(async move { stop.run_until_cancelled(keeping).await });
    }
    kept.as_ref().inspect(|kept| kept.begin(&daemon, has_the_nodes));
    let called = called.inspect_err(
        |error| warn!(%error, "this program's file is not known: no other one can take its place"),
    );
    if let (Ok(called), Some(outcome)) = (called, outcome) {
        let (daemon, stop) = (Arc::clone(&daemon), daemon.stop().clone());
        let reloads = asked_to_reload.is_some();
        let upgrader = Upgrader { called, sockets: other_sockets, outcome, reloads, daemon, replacements };
        // With it go the sockets that it keeps for another program.
        tokio::spawn(async move {
            stop.run_until_cancelled(upgrader.keep(asked_to_upgrade, asked_to_reload)).await
        });
    }
    on_serving();
    let served = serve(wire, daemon, asked_to_pause).await;
    relaying.cancel();
    keeping.cancel();
    if let Err(error) = keeper.await {
        error!(error = %in_words(&error), "the registry was not kept");
    }
    registry.retire().await;
    if let Some(kept) = kept {
        kept.settle().await;
    }
    if relay_thread.is_some_and(|thread| thread.join().is_err()) {
        error!("the thread of the relay failed");
    }
    if admin.is_some_and(|thread| thread.join().is_err()) {
        error!("the thread for operators failed");
    }
    if links_thread.is_some_and(|thread| thread.join().is_err()) {
        error!("the thread for links failed");
    }
    if dns.is_some_and(|thread| thread.join().is_err()) {
        error!("the thread for DNS failed");
    }
    served
}

/// Goes on with what was there before this run, and says so. `program`: what the program before left in this process, if
/// it was one.
fn go_on(
    program: Option<&State>,
    daemon: &Arc<Daemon>,
    carried: Carried<OwnedFd>,
    outcome: Option<&Outcome>,
) {
    let (nodes, under_way) = (carried.nodes.len(), carried.under_way.len());
    let lost = daemon.resume(carried);
    let Some(state) = program else {
        return info!(nodes, lost, "went on from the run before, by what the service manager has kept");
    };
    let (version, paused) = (&state.version, state.paused());
    info!(nodes, lost, under_way, version, ?paused, "went on from the program before");
    let went = Went::Replaced {
        versions: [version.clone(), env!("CARGO_PKG_VERSION").to_owned()],
        nodes: [nodes, lost],
        paused_ms: u64::try_from(paused.as_millis()).unwrap_or(u64::MAX),
    };
    outcome.inspect(|outcome| outcome.tell(&went));
}

/// Whether something accepts connections on `port` of this host: it connects, and closes at once. A node may listen at
/// one address alone. `addresses` that are not this machine's, such as those of a proxy, say nothing of its nodes.
async fn somebody_listens(port: u16, addresses: Vec<IpAddr>) -> bool {
    let is_here = |address: &IpAddr| UdpSocket::bind((*address, 0)).is_ok();
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    for address in loopback.into_iter().chain(addresses.into_iter().filter(is_here)) {
        if let Ok(Ok(_)) = timeout(PROBE_TIME, TcpStream::connect((address, port))).await {
            return true;
        }
    }
    false
}
