//! One run of the daemon: sockets, the step into the background, and the event loop until the end.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use repmd_backend_api::{Instance, InstanceId};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, About, Token};
use crate::background::{self, Background};
use crate::dns;
use crate::hosts_file::HostsFile;
use crate::kinds::Kinds;
use crate::links;
use crate::listen::{
    ListenError, Passed, STATE, Sockets, at_loopback, listen, passed_by_service_manager, taken,
};
use crate::orphans_file::OrphansFile;
use crate::printable::in_words;
use crate::registry::{Options, Registry};
use crate::relay::{self, Relay};
use crate::server::{Carried, Daemon, Listener, May, NodeKeeper, Verb, serve};
use crate::service_manager::{DescriptorStore, ServiceManager};
use crate::settings::{ADMIN_ADDRESS, Admin, Settings};
use crate::telemetry::{self, AuditLog, Log};
use crate::upgrade::{
    self, Begin, Called, Identity, Inherited, Kept, OtherSockets, Outcome, State, Upgrader, Went,
};

/// The longest that a node or an asker waits for the store: a node gives up after 10 s.
const STORE_DEADLINE: Duration = Duration::from_millis(500);

/// The longest that an asker waits to hear whether a node of before still listens.
const PROBE_TIME: Duration = Duration::from_millis(200);

/// What a daemon has open without any connection, and a few of these.
const FILES_MIN: usize = 16;

/// How long the end of the daemon waits for questions to name servers.
const LAST_QUESTIONS_TIME: Duration = Duration::from_millis(200);

/// How long the start waits for a disk.
const DISK_TIME: Duration = Duration::from_millis(500);

/// Nodes whose memory is worth giving back: some megabytes.
const MANY_NODES: usize = 1000;

/// In whose manner to start.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// The stock daemon's: an address in use ends the start with 0, because somebody serves already.
    Classic {
        /// Go into the background once it listens.
        daemon: bool,
        /// Take the sockets from the service manager, and tell it.
        systemd: bool,
    },
    /// Strict: an address in use is an error. The service manager is used where there is one.
    Modern,
}

/// What is opened before the step into the background: whoever started the daemon hears what cannot be had.
struct Opened {
    wire: Vec<Listener>,
    dns: Sockets,
    admin: Option<(TcpListener, Option<Token>)>,
    /// `None`: there can be no file in memory.
    outcome: Option<Outcome>,
}

/// What a run goes on from.
struct Past {
    state: Box<State>,
    /// The connections that the service manager has kept since the run before. `None`: it is the program before, in this
    /// process.
    kept: Option<Vec<OwnedFd>>,
}

/// How many files this process may have open once it serves: the hard limit.
#[must_use]
pub fn open_files() -> usize {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
    usize::try_from(hard).unwrap_or(1 << 20)
}

/// Runs a daemon until a signal or a KILL ends it. For the background, the calling process ends with 0 as
/// soon as its child serves.
pub fn run(
    settings: &Settings,
    start: Start,
    kinds: Kinds<'_>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> ExitCode {
    let in_background = matches!(start, Start::Classic { daemon: true, .. });
    let settings = &settings_of(settings, start);
    let fail = |error: &dyn Display| {
        if in_background {
            // Standard error may be closed.
            let _ = writeln!(io::stderr(), "epmd: {error}");
        } else {
            error!("{error}");
        }
        ExitCode::FAILURE
    };
    let not_taken_over = |error| fail(&format_args!("cannot take over from the program before: {error}"));
    let resumed = match upgrade::begin(environment) {
        Ok(Begin::Anew) => None,
        Ok(Begin::Check(state)) => {
            return match check(settings, &state, kinds) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => fail(&why),
            };
        }
        Ok(Begin::Resume(state)) => Some(state),
        Err(error) => return not_taken_over(error),
    };
    // Before the process goes to another directory.
    let called = Called::now();
    if in_background && resumed.is_none() {
        repmd_sys::close_inherited();
    }
    if let Start::Classic { daemon, .. } = start {
        info!("epmd running - daemon = {}", u8::from(daemon));
    }
    raise_open_files();
    repmd_sys::ignore_file_size_limit();
    repmd_sys::give_large_blocks_back();
    if open_files() < FILES_MIN {
        return fail(&format_args!("cannot serve with fewer than {FILES_MIN} open files: see ulimit -n"));
    }
    let inherited = match resumed.as_deref().map(Inherited::take).transpose() {
        Ok(inherited) => inherited,
        Err(error) => return not_taken_over(error),
    };
    let is_resumed = resumed.is_some();
    let (wire, others, outcome, kept) = match inherited {
        Some(Inherited { wire, others, outcome }) => (wire, others, Some(outcome), None),
        None => match open_listeners(settings, start, environment) {
            Ok(Passed { wire, dns, nodes, states }) => {
                let outcome = Outcome::new().inspect_err(
                    |error| warn!(%error, "no file in memory: no other program can take this one's place"),
                );
                (wire, OtherSockets { dns, admin: None }, outcome.ok(), Some((states, nodes)))
            }
            Err(error @ ListenError::InUse(_)) if matches!(start, Start::Classic { .. }) => {
                info!("{error}");
                return ExitCode::SUCCESS;
            }
            Err(error) if matches!(start, Start::Modern) => return fail(&error.explained()),
            Err(error) => return fail(&error),
        },
    };
    let opened = match open_the_others(settings, start, listeners(wire, settings), others, outcome) {
        Ok(opened) => opened,
        Err(error) => return fail(&error),
    };
    let mut waiting = if in_background && !is_resumed {
        match background::enter() {
            Ok(Background::Caller(status)) => return status,
            Ok(Background::Daemon(waiting)) => Some(waiting),
            Err(error) => return fail(&format_args!("cannot go into the background: {}", in_words(&error))),
        }
    } else {
        None
    };
    if in_background {
        drop(telemetry::start(Log::Syslog));
    }
    // A disk that does not answer takes a thread, which a process must not have that goes into the background.
    let on_disk =
        open_hosts_file(settings).and_then(|hosts_file| Ok((hosts_file, open_audit_log(settings)?)));
    let (hosts_file, audit_log) = match on_disk {
        Ok(on_disk) => on_disk,
        Err(error) => {
            if let Some(waiting) = waiting {
                waiting.tell_failure(&error);
                return ExitCode::FAILURE;
            }
            return fail(&error);
        }
    };
    let ended = audit_log.map(telemetry::audit_to).transpose().and_then(|_flush| {
        for warning in &settings.warnings {
            warn!("{warning}");
        }
        let manager = match start {
            Start::Classic { systemd: false, .. } => None,
            Start::Classic { systemd: true, .. } | Start::Modern => ServiceManager::find(environment)
                .unwrap_or_else(|error| {
                    warn!(error = %in_words(&error), "cannot notify the service manager");
                    None
                }),
        };
        let store = manager.as_ref().and_then(|manager| manager.descriptor_store(environment));
        if let Some(store) = &store {
            // A state that ended this run would else be there again in the next one.
            store.forget(STATE);
        }
        let of_the_run_before = |(states, nodes)| {
            let (state, sockets) = upgrade::before(states, nodes, settings)?;
            Some(Past { state: Box::new(state), kept: Some(sockets) })
        };
        let of_the_program = resumed.map(|state| Past { state, kept: None });
        let past = of_the_program.or_else(|| kept.and_then(of_the_run_before));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let on_serving = || {
            if let Some(waiting) = waiting.take() {
                waiting.tell_serving();
            }
        };
        let run = serve_until_stopped(
            settings, manager, store, opened, past, called, hosts_file, kinds, on_serving,
        );
        let ended = runtime.block_on(run);
        // A name server that does not answer holds the thread that asks it, for as long as it likes.
        runtime.shutdown_timeout(LAST_QUESTIONS_TIME);
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %in_words(&error), "the daemon cannot run");
            if let Some(waiting) = waiting {
                waiting.tell_failure(&format_args!("the daemon cannot run: {}", in_words(&error)));
            }
            ExitCode::FAILURE
        }
    }
}

/// The settings of a start: repmd's own lists names to a site alone, unless somebody says otherwise.
fn settings_of(settings: &Settings, start: Start) -> Settings {
    let policy = settings.policy.clone();
    let policy = match start {
        Start::Classic { .. } => policy,
        Start::Modern => policy.listing_to_a_site(),
    };
    Settings { policy, ..settings.clone() }
}

/// Lets this process open as many files as it may.
fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // It stays as it is when it cannot be raised; the daemon then pauses accepting earlier.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

fn open_listeners(
    settings: &Settings,
    start: Start,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Passed, ListenError> {
    let (ask, demand) = match start {
        Start::Classic { systemd, .. } => (systemd, systemd),
        Start::Modern => (true, false),
    };
    let mut passed = if ask { passed_by_service_manager(environment)? } else { Passed::default() };
    if demand && passed.wire.is_empty() {
        return Err(ListenError::NotPassed("LISTEN_FDS is not set for this process".to_owned()));
    }
    if passed.wire.is_empty() {
        passed.wire = listen(&settings.addresses, settings.port)?;
    }
    Ok(passed)
}

fn listeners(sockets: Vec<TcpListener>, settings: &Settings) -> Vec<Listener> {
    let listener = |socket| Listener { port: reported_port(&socket, settings), socket };
    sockets.into_iter().map(listener).collect()
}

/// All that is opened beside the wire. What is there already, from the program before or the service manager, stays as it
/// is; what the settings want beside it is opened.
fn open_the_others(
    settings: &Settings,
    start: Start,
    wire: Vec<Listener>,
    there: OtherSockets,
    outcome: Option<Outcome>,
) -> Result<Opened, String> {
    let OtherSockets { dns, admin } = there;
    let is_wanted = |socket: &TcpListener| match &settings.admin {
        Admin::Off | Admin::Https(..) => false,
        Admin::Default => true,
        Admin::At(address) => socket.local_addr().is_ok_and(|local| local == *address),
    };
    let admin = match admin.filter(is_wanted) {
        Some(socket) => Some((socket, read_token(settings)?)),
        None => open_admin(settings, start)?,
    };
    let dns = if dns.is_empty() { Sockets::bind("dns", &settings.dns.addresses)? } else { dns };
    Ok(Opened { wire, dns, admin, outcome })
}

/// Says to the program before that this one could serve its nodes.
///
/// # Errors
/// Why it could not.
fn check(settings: &Settings, state: &State, kinds: Kinds<'_>) -> Result<(), String> {
    check_files(settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let instance = instance(settings, Some(&state.identity)).map_err(|error| error.to_string())?;
    runtime.block_on(async { kinds.open(settings, Arc::new(instance)).map(drop) })?;
    upgrade::tell_could_serve(state.check(settings)?).map_err(|error| error.to_string())
}

/// The socket for operators, and the token that they must have. `None`: there is none. Where somebody else has the
/// default address, such as another daemon of this machine, it is at a free port.
///
/// # Errors
/// When what was asked for cannot be had. Without the default there is only a warning: the wire is served all the same.
fn open_admin(settings: &Settings, start: Start) -> Result<Option<(TcpListener, Option<Token>)>, String> {
    let address = match (&settings.admin, start) {
        (Admin::Off, _) | (Admin::Default, Start::Classic { .. }) => return Ok(None),
        (Admin::Default, Start::Modern) => ADMIN_ADDRESS,
        (Admin::At(address), _) => *address,
        (Admin::Https(..), _) => {
            return Err("admin: https is for commands that ask a proxy; a daemon has an address".to_owned());
        }
    };
    let token = read_token(settings)?;
    let bind = |address: SocketAddr| {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true).map(|()| socket)
    };
    let bound = match bind(address) {
        Err(error) if settings.admin == Admin::Default && error.kind() == io::ErrorKind::AddrInUse => {
            warn!(
                "{address} is taken, so the page and the metrics are at a free port: set admin to have them at the same again"
            );
            bind(SocketAddr::new(address.ip(), 0))
        }
        bound => bound,
    };
    match bound {
        Ok(socket) => Ok(Some((socket, token))),
        Err(error) if settings.admin == Admin::Default => {
            warn!(%address, error = %in_words(&error), "no page and no metrics: set admin to an address of its own, or to off");
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(format!("admin: {}", taken(address))),
        Err(error) => Err(format!("admin: cannot listen on {address}: {}", in_words(&error))),
    }
}

fn read_token(settings: &Settings) -> Result<Option<Token>, String> {
    let token = settings.admin_token_file.as_deref().map(Token::read).transpose();
    token.map_err(|error| format!("admin-token-file: {error}"))
}

/// Checks the files that settings name as the start of a daemon does, and leaves them as they are.
///
/// # Errors
/// The same as the start's.
pub fn check_files(settings: &Settings) -> Result<(), String> {
    if settings.admin != Admin::Off {
        read_token(settings)?;
    }
    if let Some((path, file)) = settings.hosts_file.as_deref().zip(hosts_file(settings)) {
        let inetrc = file.inetrc();
        if let Some(Err(error)) = within_disk_time(move || inetrc.check()) {
            return Err(cannot_write_beside("hosts-file", path, &error));
        }
    }
    if let Some(path) = settings.orphans_file.clone() {
        let file = OrphansFile::new(path.clone());
        if let Some(Err(error)) = within_disk_time(move || file.check()) {
            return Err(cannot_write_beside("orphans-file", &path, &error));
        }
    }
    if let Some(path) = settings.audit_log.clone() {
        let checking = path.clone();
        if let Some(Err(error)) = within_disk_time(move || telemetry::check_audit_log(&checking)) {
            return Err(at_audit_log(&path, &error));
        }
    }
    Ok(())
}

fn cannot_write_beside(key: &str, path: &Path, error: &io::Error) -> String {
    format!("{key}: cannot write beside {}: {}", path.display(), in_words(error))
}

fn at_audit_log(path: &Path, error: &io::Error) -> String {
    format!("audit-log: cannot open {}: {}", path.display(), in_words(error))
}

/// The hosts file that settings name, before anything is written.
fn hosts_file(settings: &Settings) -> Option<HostsFile> {
    let (virtual_hosts, domains) =
        (settings.topology.virtual_hosts.clone(), settings.hosts_file_domains.clone());
    settings.hosts_file.as_deref().map(|path| HostsFile::new(path, virtual_hosts, domains))
}

/// The hosts file, if there is to be one.
///
/// # Errors
/// When it cannot be written. That a disk does not say so in time is only a warning.
fn open_hosts_file(settings: &Settings) -> Result<Option<HostsFile>, String> {
    let Some((path, file)) = settings.hosts_file.as_deref().zip(hosts_file(settings)) else {
        return Ok(None);
    };
    let inetrc = file.inetrc();
    match within_disk_time(move || inetrc.write()) {
        Some(Err(error)) => {
            return Err(cannot_write_beside("hosts-file", path, &error));
        }
        Some(Ok(())) => {}
        None => {
            warn!(path = %path.display(), "the disk of the hosts file does not answer: it is written when it does");
        }
    }
    Ok(Some(file))
}

/// # Errors
/// When there is to be one, and it cannot be opened. That a disk does not say so in time is only a warning.
fn open_audit_log(settings: &Settings) -> Result<Option<AuditLog>, String> {
    let Some(path) = settings.audit_log.clone() else { return Ok(None) };
    let opening = path.clone();
    match within_disk_time(move || telemetry::open_audit_log(&opening)) {
        Some(Ok(file)) => Ok(Some(AuditLog::Open(file))),
        Some(Err(error)) => Err(at_audit_log(&path, &error)),
        None => {
            warn!(path = %path.display(), "the disk of the audit log does not answer: lines wait until it does");
            Ok(Some(AuditLog::Later(path)))
        }
    }
}

/// Does something that a disk may hold up. `None`: it is not done yet, and goes on.
fn within_disk_time<T: Send + 'static>(something: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Nobody may wait any longer.
        let _ = done.send(something());
    });
    wait.recv_timeout(DISK_TIME).ok()
}

/// The port that NAMES reports is the one that clients use: the socket's own, unless somebody who knows
/// of a translation in between has set one.
fn reported_port(socket: &TcpListener, settings: &Settings) -> u16 {
    if settings.port_is_set {
        return settings.port;
    }
    socket.local_addr().map_or(settings.port, |address| address.port())
}

#[expect(clippy::too_many_arguments, reason = "one run of the daemon, which has all of them once")]
async fn serve_until_stopped(
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

/// Gives the system back what lists for slow readers and thousands of nodes took, once they have gone: the allocator would
/// keep it for as many again.
async fn give_memory_back(daemon: Arc<Daemon>) {
    let (mut most_nodes, mut readers_before) = (0, 0);
    loop {
        sleep(Duration::from_secs(5)).await;
        let (nodes, readers) = (daemon.nodes_count(), daemon.slow_readers_total());
        most_nodes = most_nodes.max(nodes);
        let nodes_left = MANY_NODES <= most_nodes && nodes < most_nodes / 2;
        let readers_left = readers_before != readers && daemon.crowd_counts().1 == 0;
        if nodes_left || readers_left {
            // Some milliseconds, for which the wire does not wait.
            let _ = tokio::task::spawn_blocking(repmd_sys::give_free_memory_back).await;
            (most_nodes, readers_before) = (nodes, readers);
        }
    }
}

/// Ends the daemon when nodes have been there and none has been for so long.
async fn end_when_empty(daemon: Arc<Daemon>, patience: Duration) {
    let pause = (patience / 10).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let (mut came, mut was_used) = (0, false);
    let mut empty_since = Instant::now();
    loop {
        sleep(pause).await;
        let registrations = daemon.stats().granted.get();
        let has_nodes = 0 < daemon.nodes_count();
        was_used |= has_nodes || 0 < registrations;
        if !was_used || has_nodes || came != registrations {
            // One may have come and gone within the pause.
            came = registrations;
            empty_since = Instant::now();
        } else if patience <= empty_since.elapsed() {
            info!("no node is left: the daemon ends, as exit-when-empty says");
            return daemon.stop().cancel();
        }
    }
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

/// Who this daemon is, as far as its settings, or the program before, say.
fn instance(settings: &Settings, before: Option<&Identity>) -> io::Result<Instance> {
    let known = before.map(|before| before.addresses.clone());
    let addresses = settings.advertise.clone().or(known).unwrap_or_default();
    let aliases = match (&settings.aliases, before) {
        (Some(aliases), _) => aliases.clone(),
        (None, Some(before)) => before.aliases()?,
        (None, None) => settings.aliases_at(&addresses),
    };
    Ok(Instance {
        id: before.map_or_else(|| Ok(InstanceId::random()), Identity::id)?,
        name: settings.instance_name.clone(),
        host: settings.host.clone(),
        aliases,
        addresses,
        port: settings.port,
    })
}

/// This machine's address for others: the one on the connection to the store, unless the store, or a tunnel to it, is on
/// this machine; else that of the interface which leads to other networks. Only the routes are asked: no packet is sent.
pub(crate) fn own_address(on_connection: Option<IpAddr>) -> Option<IpAddr> {
    // Addresses for documentation: whatever leads there leads anywhere.
    let anywhere = [SocketAddr::from(([192, 0, 2, 1], 9)), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into()];
    let towards = |target: SocketAddr| {
        let any: IpAddr =
            if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let is_for_others = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
    on_connection
        .filter(is_for_others)
        .or_else(|| anywhere.into_iter().filter_map(towards).find(is_for_others))
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
