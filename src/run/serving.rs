//! A daemon from its registry to its last connection.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::housekeeping::keep_house;
use super::opening::Opened;
use super::past::{Past, Resumed};
use super::registry::open_registry;
use super::replacement::Replacement;
use super::threads::Threads;
use crate::hosts_file::HostsFile;
use crate::kinds::Kinds;
use crate::listen::at_loopback;
use crate::orphans_file::OrphansFile;
use crate::printable::in_words;
use crate::registry::Registry;
use crate::server::{Daemon, NodeKeeper, serve};
use crate::service_manager::{DescriptorStore, ServiceManager};
use crate::settings::Settings;
use crate::telemetry;
use crate::upgrade::{Called, Kept};

/// All that a run has when its event loop begins.
pub(super) struct Begun {
    pub(super) called: io::Result<Called>,
    pub(super) opened: Opened,
    pub(super) hosts_file: Option<HostsFile>,
    pub(super) manager: Option<ServiceManager>,
    pub(super) store: Option<DescriptorStore>,
    pub(super) past: Option<Past>,
}

/// Serves until a signal or a KILL. `on_serving` is called when there is nothing left that could fail.
pub(super) async fn serve_until_stopped(
    settings: &Settings,
    kinds: Kinds<'_>,
    begun: Begun,
    on_serving: impl FnOnce(),
) -> io::Result<()> {
    let Begun { called, opened, hosts_file, manager, store, past } = begun;
    let Opened { wire, dns, admin, outcome } = opened;
    let operators = admin.as_ref().map(|(socket, _)| socket);
    let program = past.as_ref().and_then(Past::program);
    let replacement = Replacement::prepare(called, outcome, &dns, operators, program)?;
    let stop = stop_by_signal()?;
    let registry = open_registry(settings, kinds, past.as_ref().map(Past::identity))?;
    let resumed = match past {
        Some(past) => Some(past.take_over(&registry).await?),
        None => None,
    };
    let kept = store.map(Kept::start);
    let keeper = Keeper::start(&registry);
    if let Some(hosts_file) = hosts_file {
        keep_hosts_file(hosts_file, &registry, &stop);
    }
    let (relaying, mut threads) = (CancellationToken::new(), Threads::default());
    let relay = threads.start_relay(settings, &registry, relaying.clone())?;
    tokio::spawn(telemetry::tell_of_losses());
    let operators = operators.map(TcpListener::local_addr).transpose()?.map(at_loopback);
    let node_keeper = kept.clone().map(|kept| kept as Arc<dyn NodeKeeper>);
    let daemon = daemon(settings, &registry, &stop).with_relay(relay);
    let daemon = Arc::new(daemon.with_admin(operators).with_node_keeper(node_keeper));
    let addresses: Vec<_> = wire.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect();
    info!(host = %settings.host, ?addresses, "serving");
    let dns = threads.start_dns(settings, dns, &daemon)?;
    if let Some(admin) = admin {
        threads.start_operators(settings, admin, dns, &daemon)?;
    }
    keep_house(&daemon, settings.exit_when_empty);
    if let Some(manager) = manager {
        manager.keep_informed(registry.readiness(), stop);
    }
    let has_the_nodes = resumed.as_ref().is_some_and(Resumed::is_kept);
    if let Some(resumed) = resumed {
        resumed.go_on(&daemon, replacement.outcome());
    }
    if let Some(path) = &settings.orphans_file {
        keep_orphans_file(path, &daemon);
    }
    kept.as_ref().inspect(|kept| kept.begin(&daemon, has_the_nodes));
    let (replacements, asked_to_pause) = mpsc::channel(1);
    replacement.keep(&daemon, replacements);
    on_serving();
    let served = serve(wire, daemon, asked_to_pause).await;
    relaying.cancel();
    keeper.end().await;
    registry.retire().await;
    if let Some(kept) = kept {
        kept.settle().await;
    }
    threads.join();
    served
}

fn daemon(settings: &Settings, registry: &Arc<Registry>, stop: &CancellationToken) -> Daemon {
    let (policy, topology) = (settings.policy.clone(), settings.topology.clone());
    Daemon::new(Arc::clone(registry), policy, topology, settings.limits, stop.clone())
}

/// The task that keeps what the daemon holds in the registry.
struct Keeper {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Keeper {
    fn start(registry: &Arc<Registry>) -> Self {
        let stop = CancellationToken::new();
        let (registry, stopped) = (Arc::clone(registry), stop.clone());
        Self { stop, task: tokio::spawn(async move { registry.keep(&stopped).await }) }
    }

    async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            error!(error = %in_words(&error), "the registry was not kept");
        }
    }
}

/// What fires when a signal asks the daemon to stop.
fn stop_by_signal() -> io::Result<CancellationToken> {
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
    Ok(stop)
}

fn keep_hosts_file(file: HostsFile, registry: &Arc<Registry>, stop: &CancellationToken) {
    let (registry, stop) = (Arc::clone(registry), stop.clone());
    tokio::spawn(async move { stop.run_until_cancelled(file.keep(&registry)).await });
}

fn keep_orphans_file(path: &Path, daemon: &Arc<Daemon>) {
    let (daemon, stop) = (Arc::clone(daemon), daemon.stop().clone());
    let keeping = OrphansFile::new(path.to_owned()).keep(daemon);
    // What ends with this run is no longer remembered.
    tokio::spawn(async move { stop.run_until_cancelled(keeping).await });
}
