//! A request's body -> what to answer. All that a request can do to the daemon's nodes is here.
//!
//! What this daemon knows by itself is answered at once; only what the registry must be asked for waits.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::slice;
use std::sync::Arc;

use repmd_backend_api::{AliveName, Found, HostId, Instance, Node, Registration};
use rustix::io::Errno;
use rustix::net::{RecvFlags, getsockname, recv};
use tokio::sync::OwnedSemaphorePermit;
use tracing::field::display;
use tracing::{debug, info, warn};

use super::daemon::Daemon;
use super::policy::{May, Policy, Verb, is_local};
use super::resolve::{Resolution, VirtualHost};
use super::table::Listing;
use super::topology::Names;
use crate::printable::as_value;
use crate::protocol::{
    ADMIN_NAME, DecodeError, Request, Response, decode_request, encode_whereabouts, is_reserved,
    write_active_line, write_names_line,
};
use crate::registry::{self, Question, Source};
use crate::telemetry::{AUDIT, REQUESTS};

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    /// Without IPv4 mapped into IPv6.
    pub(super) peer: IpAddr,
    /// The port that NAMES and DUMP report: the one that the asker used.
    pub(super) port: u16,
    pub(super) socket: BorrowedFd<'a>,
}

impl Asker<'_> {
    /// The address that the asker connected to: one system call, so only where it decides something.
    fn local(&self) -> Option<IpAddr> {
        let address = SocketAddr::try_from(getsockname(self.socket).ok()?).ok()?;
        Some(address.ip().to_canonical())
    }

    fn is_local(&self) -> bool {
        is_local(self.peer, || self.local())
    }

    /// Whether the asker has reset the connection since. One that only closed its side still reads.
    fn has_reset(&self) -> bool {
        matches!(recv(self.socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::CONNRESET))
    }
}

/// What a connection does next.
#[derive(Debug)]
pub(super) enum Answer {
    /// Close without a word.
    Silence,
    /// Write what was encoded, and close.
    Reply,
    /// Write this list, and close.
    List(Arc<Vec<u8>>),
    /// Ask the registry first; see [`answer_later`].
    Later(Later),
    /// Register the node, and hold the connection for as long as it is registered.
    Register(Node, OwnedSemaphorePermit),
    /// Write what was encoded, and end the daemon.
    Kill,
}

/// What the registry must be asked for.
#[derive(Debug)]
pub(super) enum Later {
    /// Whether the asker is of the cluster, which may do what it asks for.
    Allowed,
    /// The node that a look-up means, and where it is relayed.
    LookUp(Question, Option<VirtualHost>),
    /// The nodes of `hosts`, for NAMES or DUMP.
    List(List),
}

/// A list of names that is asked for.
#[derive(Debug)]
pub(super) struct List {
    is_dump: bool,
    listing: Listing,
    /// Hosts whose nodes are listed: this one first, if it is among them.
    hosts: Vec<HostId>,
}

/// Answers one request; a reply is appended to `out`.
pub(super) fn answer(daemon: &Daemon, body: &[u8], asker: Asker<'_>, out: &mut Vec<u8>) -> Answer {
    if daemon.is_too_fast(asker.peer, || asker.local()) {
        daemon.stats.too_fast.add();
        complain_of(daemon, asker, Fault::TooFast, &"more requests in a second than it may make");
        return Answer::Silence;
    }
    let request = decode_request(body);
    match verb_of(&request).map_or(May::Yes, |verb| daemon.may(verb, asker.peer, || asker.local())) {
        May::Yes => answer_allowed(daemon, request, asker, out),
        May::No => not_allowed(daemon, asker, &request),
        May::IfOfTheCluster => Answer::Later(Later::Allowed),
    }
}

/// What its asker must be allowed to do.
fn verb_of(request: &Result<Request<'_>, DecodeError>) -> Option<Verb> {
    match request {
        Ok(Request::PortPlease2(_)) => Some(Verb::LookUp),
        Ok(Request::Names) => Some(Verb::List),
        Ok(Request::Alive2(_)) | Err(DecodeError::Refused { .. }) => Some(Verb::Register),
        Ok(Request::Dump | Request::Kill | Request::Stop(_)) => Some(Verb::Command),
        Err(_) => None,
    }
}

fn answer_allowed(
    daemon: &Daemon,
    request: Result<Request<'_>, DecodeError>,
    asker: Asker<'_>,
    out: &mut Vec<u8>,
) -> Answer {
    let relaxed = daemon.policy.relaxed_command_check;
    match request {
        // Before any node of that name: where it leads, operators show their token.
        Ok(Request::PortPlease2(ADMIN_NAME)) if asker.is_local() => admin(daemon, out),
        Ok(Request::PortPlease2(name)) => look_up(daemon, name, asker, out),
        Ok(Request::Names) => list(daemon, asker, false),
        Ok(Request::Dump) => list(daemon, asker, true),
        Ok(Request::Alive2(node)) => register(daemon, node, asker),
        Ok(Request::Kill) if relaxed || daemon.table().len() == 0 => {
            daemon.stats.kill.add();
            info!(target: AUDIT, peer = %asker.peer, "got KILL_REQ - terminates normal");
            Response::Killed.encode(out);
            Answer::Kill
        }
        Ok(Request::Kill) => {
            daemon.stats.kill.add();
            warn!(target: AUDIT, peer = %asker.peer, "Disallowed KILL_REQ, live nodes");
            reply(Response::KillRefused, out)
        }
        Ok(Request::Stop(name)) if relaxed => stop(daemon, name, asker, out),
        Ok(Request::Stop(_)) => {
            daemon.stats.stop.add();
            warn!(target: AUDIT, peer = %asker.peer, "Disallowed STOP_REQ, no relaxed_command_check");
            Answer::Silence
        }
        Err(DecodeError::Refused { highest_version, reason }) => {
            daemon.stats.malformed.add();
            complain(daemon, asker, &reason);
            reply(Response::Alive2Refused { highest_version }, out)
        }
        Err(error) => {
            daemon.stats.malformed.add();
            complain(daemon, asker, &error);
            Answer::Silence
        }
    }
}

fn register(daemon: &Daemon, node: Node, asker: Asker<'_>) -> Answer {
    let Policy { node_ports, node_ports_are_strict, .. } = &daemon.policy;
    if let Some(ports) = node_ports.as_ref().filter(|ports| !ports.contains(&node.port)) {
        let (name, port, first, last) = (as_value(node.name.as_str()), node.port, ports.start(), ports.end());
        let what = format_args!("{name} listens on port {port}, which is not of node-ports ({first}-{last})");
        complain_of(daemon, asker, Fault::NodePort, &what);
        if *node_ports_are_strict {
            daemon.stats.turned_away.add();
            // Not a refusal: the node would print it as a duplicate name.
            return Answer::Silence;
        }
    }
    // Taken here and not when the name is claimed: any number may come before the first of them claims.
    if let Ok(place) = Arc::clone(&daemon.places).try_acquire_owned() {
        return Answer::Register(node, place);
    }
    daemon.stats.turned_away.add();
    // Not a refusal: the node would print it as a duplicate name.
    complain_of(daemon, asker, Fault::TurnedAway, &"no descriptor left for another node");
    Answer::Silence
}

/// Answers what needs the registry to be asked; a reply is appended to `out`.
pub(super) async fn answer_later(
    daemon: &Daemon,
    later: Later,
    request: &[u8],
    asker: Asker<'_>,
    out: &mut Vec<u8>,
) -> Answer {
    match later {
        Later::Allowed => {
            // If it does not answer, the asker is of none that is known.
            let is_of_the_cluster = daemon.registry.is_of_the_cluster(asker.peer).await;
            let request = decode_request(request);
            if is_of_the_cluster {
                answer_allowed(daemon, request, asker, out)
            } else {
                not_allowed(daemon, asker, &request)
            }
        }
        Later::LookUp(question, relayed_at) => {
            let told = daemon.registry.look_up(&question, Some(asker.peer)).await;
            found_elsewhere(daemon, told.answer, relayed_at, asker, out);
            tell_look_up(&question, told.source, asker, out);
            Answer::Reply
        }
        Later::List(list) => {
            let mut nodes = Vec::with_capacity(list.hosts.len());
            for host in &list.hosts {
                nodes.push(daemon.registry.nodes(host).await);
            }
            tell_list(&list, asker, write_list(daemon, &list, &nodes))
        }
    }
}

fn look_up(daemon: &Daemon, name: &str, asker: Asker<'_>, out: &mut Vec<u8>) -> Answer {
    let source = match daemon.resolve(name, || daemon.topology.virtual_host(|| asker.local())) {
        Resolution::Here(registration) => {
            found_here(daemon, &registration, asker, own_extra(&registration), out);
            Source::Here
        }
        Resolution::HereByFullName(registration) => {
            let me = daemon.registry.instance();
            let (_, addresses) = way_here(&registration, &me, &asker);
            let extra = encode_whereabouts(addresses, &me.host);
            found_here(daemon, &registration, asker, &extra, out);
            Source::Here
        }
        Resolution::Registry(question, relayed_at) => match daemon.registry.known(&question) {
            Some(told) => {
                found_elsewhere(daemon, told.answer, relayed_at, asker, out);
                told.source
            }
            None => return Answer::Later(Later::LookUp(question, relayed_at)),
        },
        Resolution::Nobody => {
            not_found(daemon, out);
            Source::Here
        }
    };
    tell_look_up(&name, source, asker, out);
    Answer::Reply
}

/// Where the admin API is, in the form of a node.
fn admin(daemon: &Daemon, out: &mut Vec<u8>) -> Answer {
    let Some(address) = daemon.admin else { return reply(Response::PortNotFound, out) };
    let node = Node::ordinary(AliveName::parse(ADMIN_NAME.as_bytes()).expect("it is a name"), address.port());
    let extra = encode_whereabouts(&[address.ip()], &daemon.registry.instance().host);
    reply(Response::PortFound { node: &node, port: address.port(), extra: &extra }, out)
}

/// Says what was answered to a look-up, in the words of the stock daemon. Costs nothing where nobody reads it.
fn tell_look_up(name: &dyn Display, source: Source, asker: Asker<'_>, reply: &[u8]) {
    let found = reply.get(1) == Some(&0);
    let result = if found { "ok" } else { "error" };
    debug!(target: REQUESTS, %name, found, from = %source.as_str(), peer = %asker.peer,
        "** sent PORT2_RESP ({result}) for {:?}", name.to_string());
}

/// A node's own extra, as it registered it. One that clients could take for a daemon's words is left out: it would
/// send them anywhere.
fn own_extra(registration: &Registration) -> &[u8] {
    let extra = &*registration.node.extra;
    if is_reserved(extra) { &[] } else { extra }
}

/// The port of a node of this daemon, and the addresses to use it at. Address and port go together: where other
/// machines use another port than the node's own, this one reaches it by the asker's address.
fn way_here<'a>(registration: &Registration, me: &'a Instance, asker: &'a Asker<'_>) -> (u16, &'a [IpAddr]) {
    let addresses = if is_behind_another_port(registration, asker) {
        slice::from_ref(&asker.peer)
    } else {
        &*me.addresses
    };
    (port_here(registration, asker), addresses)
}

fn port_here(registration: &Registration, asker: &Asker<'_>) -> u16 {
    let Registration { node, advertised_port, .. } = registration;
    if is_behind_another_port(registration, asker) { node.port } else { *advertised_port }
}

fn is_behind_another_port(registration: &Registration, asker: &Asker<'_>) -> bool {
    registration.node.port != registration.advertised_port && asker.is_local()
}

fn found_here(
    daemon: &Daemon,
    registration: &Registration,
    asker: Asker<'_>,
    extra: &[u8],
    out: &mut Vec<u8>,
) {
    daemon.stats.found_here.add();
    let port = port_here(registration, &asker);
    Response::PortFound { node: &registration.node, port, extra }.encode(out);
}

/// `relayed_at`: the asker reaches the node's host at this address, so a relay answers with a port of it.
fn found_elsewhere(
    daemon: &Daemon,
    found: registry::Answer,
    relayed_at: Option<VirtualHost>,
    asker: Asker<'_>,
    out: &mut Vec<u8>,
) {
    match found {
        registry::Answer::Node(registration)
            if let (Some(relay), Some(VirtualHost { address, host })) = (&daemon.relay, &relayed_at) =>
        {
            let Some(port) = relay.port_of(*address, host, &registration) else {
                return not_found(daemon, out);
            };
            daemon.stats.found_elsewhere.add();
            let extra = encode_whereabouts(slice::from_ref(address), host);
            Response::PortFound { node: &registration.node, port, extra: &extra }.encode(out);
        }
        registry::Answer::Node(registration) => {
            daemon.stats.found_elsewhere.add();
            let Registration { node, advertised_port, instance, .. } = &*registration;
            let me = daemon.registry.instance();
            let (port, addresses) = if daemon.registry.is_ours_of_before(&registration) {
                way_here(&registration, &me, &asker)
            } else {
                (*advertised_port, &*instance.addresses)
            };
            let extra = encode_whereabouts(addresses, &instance.host);
            Response::PortFound { node, port, extra: &extra }.encode(out);
        }
        registry::Answer::Daemon(instance) => {
            let Ok(name) = AliveName::parse(format!("@{}", instance.host).as_bytes()) else {
                return not_found(daemon, out);
            };
            daemon.stats.found_elsewhere.add();
            let (node, port) = (Node::ordinary(name, instance.port), instance.port);
            let extra = encode_whereabouts(&instance.addresses, &instance.host);
            Response::PortFound { node: &node, port, extra: &extra }.encode(out);
        }
        registry::Answer::Absent => not_found(daemon, out),
    }
}

fn not_found(daemon: &Daemon, out: &mut Vec<u8>) {
    daemon.stats.not_found.add();
    Response::PortNotFound.encode(out);
}

fn list(daemon: &Daemon, asker: Asker<'_>, is_dump: bool) -> Answer {
    let stats = &daemon.stats;
    let counter = if is_dump { &stats.dump } else { &stats.names };
    counter.add();
    // A list can take as long as a thousand look-ups, and a backlog holds thousands of connections.
    if asker.has_reset() {
        debug!(peer = %asker.peer, "reset before its list was made");
        return Answer::Silence;
    }
    let own = || daemon.registry.instance().host.clone();
    let virtual_hosts = || daemon.topology.virtual_hosts.values().cloned();
    let hosts = match (daemon.topology.virtual_host(|| asker.local()), daemon.topology.names) {
        (Some((_, host)), _) => vec![host.clone()],
        (None, Names::Host) => vec![own()],
        (None, Names::Scope) => std::iter::once(own()).chain(virtual_hosts()).collect(),
    };
    let advertised = !daemon.topology.advertised_ports.is_empty() && !asker.is_local();
    let listing = Listing { port: asker.port, advertised };
    let list = List { is_dump, listing, hosts };
    let known: Option<Vec<_>> = list.hosts.iter().map(|host| daemon.registry.known_nodes(host)).collect();
    match known {
        Some(nodes) => tell_list(&list, asker, write_list(daemon, &list, &nodes)),
        None => Answer::Later(Later::List(list)),
    }
}

fn tell_list(list: &List, asker: Asker<'_>, reply: Arc<Vec<u8>>) -> Answer {
    let verb = if list.is_dump { "DUMP" } else { "NAMES" };
    debug!(target: REQUESTS, bytes = reply.len(), peer = %asker.peer, "** sent {verb}_RESP");
    Answer::List(reply)
}

/// `elsewhere`: what the registry knows of each of the list's hosts, beside this daemon's own nodes.
fn write_list(daemon: &Daemon, list: &List, elsewhere: &[Arc<Vec<Found>>]) -> Arc<Vec<u8>> {
    let List { is_dump, listing, hosts } = list;
    let has_own = hosts.first() == Some(&daemon.registry.instance().host);
    if has_own && elsewhere.iter().all(|nodes| nodes.is_empty()) {
        return if *is_dump { daemon.table().dump(*listing) } else { daemon.table().names(*listing) };
    }
    let mut reply = match (has_own, is_dump) {
        (true, false) => daemon.table().names(*listing).to_vec(),
        (true, true) => daemon.table().dump_active(*listing),
        (false, _) => listing.start(),
    };
    for Found { registration, .. } in elsewhere.iter().flat_map(|nodes| nodes.iter()) {
        let name = registration.node.name.as_str();
        match is_dump {
            false => write_names_line(&mut reply, name, registration.advertised_port),
            // No descriptor of this daemon holds it.
            true => write_active_line(&mut reply, name, registration.advertised_port, -1),
        }
    }
    if has_own && *is_dump {
        daemon.table().dump_departed(&mut reply);
    }
    Arc::new(reply)
}

fn stop(daemon: &Daemon, name: &[u8], asker: Asker<'_>, out: &mut Vec<u8>) -> Answer {
    daemon.stats.stop.add();
    let known = std::str::from_utf8(name).is_ok_and(|name| daemon.table().stop(name));
    let result = if known { "STOPPED" } else { "NOEXIST" };
    info!(target: AUDIT, name = %name.escape_ascii(), known, peer = %asker.peer, "STOP_REQ");
    debug!(target: REQUESTS, name = %name.escape_ascii(), peer = %asker.peer, "** sent STOP_RESP {result}");
    reply(if known { Response::Stopped } else { Response::StopUnknown }, out)
}

fn reply(response: Response<'_>, out: &mut Vec<u8>) -> Answer {
    response.encode(out);
    Answer::Reply
}

fn not_allowed(daemon: &Daemon, asker: Asker<'_>, request: &Result<Request<'_>, DecodeError>) -> Answer {
    let (fault, request) = match request {
        Ok(Request::PortPlease2(_)) => (Fault::LookUp, "PORT2_REQ"),
        Ok(Request::Names) => (Fault::List, "NAMES_REQ"),
        Ok(Request::Dump) => (Fault::List, "DUMP_REQ"),
        Ok(Request::Kill) => (Fault::Command, "KILL_REQ"),
        Ok(Request::Stop(_)) => (Fault::Command, "STOP_REQ"),
        Ok(Request::Alive2(_)) | Err(_) => (Fault::Registration, "ALIVE2_REQ"),
    };
    daemon.stats.not_allowed.add();
    complain_of(daemon, asker, fault, &format_args!("{request} from non local address"));
    Answer::Silence
}

/// What a peer did wrong. Processes of this machine that may not do what they ask for are no matter of this: they are
/// always logged, as registrations are.
#[derive(Clone, Copy)]
enum Fault {
    Malformed,
    TurnedAway,
    Occupied,
    Registration,
    LookUp,
    List,
    Command,
    TooFast,
    NodePort,
}

/// How many kinds of faults there are.
pub(super) const FAULTS: usize = Fault::NodePort as usize + 1;

/// Logs that a node is refused, within bounds for each name: whoever asks for it again and again is told of a few times.
/// `holder`: the other daemon that has it.
pub(super) fn tell_of_refusal(daemon: &Daemon, node: &Node, holder: Option<&str>, peer: Option<IpAddr>) {
    let (name, port, peer) = (as_value(node.name.as_str()), node.port, peer.map(display));
    match daemon.faults.of(Fault::Occupied as usize, &node.name).pass() {
        Some(0) => warn!(target: AUDIT, port, holder, peer, "node name already occupied {name}"),
        Some(left_out) => {
            warn!(target: AUDIT, port, holder, peer, left_out, "node name already occupied {name}");
        }
        None => debug!(port, holder, peer, "node name already occupied {name}"),
    }
}

/// Logs that what a peer sent is no request, within bounds.
pub(super) fn complain(daemon: &Daemon, asker: Asker<'_>, what: &dyn Display) {
    complain_of(daemon, asker, Fault::Malformed, what);
}

/// Logs what a peer did wrong, within bounds: a stranger must not be able to fill the disk, nor to hide by noise what
/// another does, or what it does itself.
fn complain_of(daemon: &Daemon, asker: Asker<'_>, fault: Fault, what: &dyn Display) {
    match daemon.faults.of(fault as usize, asker.peer).pass() {
        Some(0) => warn!(target: AUDIT, peer = %asker.peer, "{what}"),
        Some(left_out) => warn!(target: AUDIT, peer = %asker.peer, left_out, "{what}"),
        None => debug!(peer = %asker.peer, "{what}"),
    }
}
