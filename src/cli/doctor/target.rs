//! A node that is to be reached: its host, that host's EPMD, its name there and in the registry, its port.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};

use serde_json::Value;

use super::finding::{
    DIST_FILTERED, DIST_FOREIGN, DIST_REFUSED, DIST_TLS, EPMD_ABSENT, EPMD_FILTERED, EPMD_FOREIGN,
    HOST_ELSEWHERE, HOST_IS_LOOPBACK, HOST_NOT_SHARED, HOST_UNREACHABLE, HOST_UNRESOLVABLE, Kind,
    NAME_DIFFERS, NAME_ELSEWHERE, NAME_FORM, NAME_NOT_SHARED, NAME_UNKNOWN, NODE_REFUSES, REGISTRY_DISAGREES,
};
use super::{CONNECT_TIME, Doctor, addresses_of, ask};
use crate::cli::api::{in_path, items};
use crate::cli::client::AskError;
use crate::handshake::{Met, STEP_TIME, meet};
use crate::printable::in_words;
use crate::protocol::{PortReply, Request, decode_port_reply, decode_whereabouts};

/// Why steps are left out that come after one that failed.
const NOT_REACHED: &str = "the way ends before";

impl Doctor<'_> {
    pub(super) fn examine_target(&mut self, name: &str, host: &str) {
        self.report.step("the host");
        let Some(address) = self.resolve(host) else {
            return self.report.left_out(format!("the EPMD of {host}, the name and the node"), NOT_REACHED);
        };
        self.report.step("its EPMD");
        let Some(found) = self.ask_epmd(address, name, host) else {
            return self.report.left_out("the name and the node", NOT_REACHED);
        };
        self.report.step("the name");
        let Some(found) = self.compare(found, address, name, host) else {
            return self.report.left_out("the node", NOT_REACHED);
        };
        self.report.step("the node");
        self.meet_node(SocketAddr::new(address, found.port), name, host);
        let why = "only the nodes can tell: see their logs, and run this on the other host too";
        self.report.left_out("whether the cookies are the same, and whether the way back is open", why);
    }

    /// The address that a node of this machine would dial.
    fn resolve(&mut self, host: &str) -> Option<IpAddr> {
        let addresses: Vec<IpAddr> = match (host, 0).to_socket_addrs() {
            Ok(places) => places.map(|place| place.ip()).collect(),
            Err(error) => {
                let known: Vec<_> = self.registered_addresses(host).iter().map(ToString::to_string).collect();
                let known = if known.is_empty() {
                    String::new()
                } else {
                    format!("; the registry knows it at {}", known.join(", "))
                };
                self.report
                    .found(HOST_UNRESOLVABLE, format!("{host} has no address: {}{known}", in_words(&error)));
                return None;
            }
        };
        // Nodes use IPv4 unless -proto_dist says otherwise.
        let address = *addresses.iter().find(|address| address.is_ipv4()).or(addresses.first())?;
        if address.is_loopback() && !self.is_here(host) {
            let saw = format!("{host} is {address}, which leads back to this machine, and is not its name");
            self.report.found(HOST_IS_LOOPBACK, saw);
            return None;
        }
        self.report.fine(format!("{host} is {address}"));
        Some(address)
    }

    /// Where the registry says that a host is reached.
    fn registered_addresses(&self, host: &str) -> Vec<IpAddr> {
        let Some(daemon) = self.ask_api(&format!("/api/v1/lookups/{}", in_path(&format!("@{host}")))) else {
            return Vec::new();
        };
        addresses_of(&daemon)
    }

    /// Whether the host is elsewhere by the registry, in words.
    fn elsewhere(&self, address: IpAddr, host: &str) -> Option<String> {
        let known = self.registered_addresses(host);
        if known.is_empty() || known.contains(&address) || address.is_loopback() {
            return None;
        }
        let known = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Some(format!("{host} is {address} for this machine, and {known} by what its daemon says"))
    }

    /// What the EPMD there says of the name: `Some(None)` when it knows none.
    #[allow(clippy::option_option, reason = "whether it answers, and what")]
    fn ask_epmd(&mut self, address: IpAddr, name: &str, host: &str) -> Option<Option<PortReply>> {
        let place = SocketAddr::new(address, self.settings.port);
        let error = match ask(place, &Request::PortPlease2(name)) {
            Ok(reply) => match decode_port_reply(&reply) {
                Ok(found) => {
                    self.report.fine(format!("answers at {place}"));
                    return Some(found);
                }
                Err(error) => {
                    self.report.found(EPMD_FOREIGN, format!("what answers at {place} is no EPMD: {error}"));
                    return None;
                }
            },
            Err(error) => error,
        };
        // A wrong address looks like a missing daemon, too.
        if let Some(saw) = self.elsewhere(address, host) {
            self.report.found(HOST_ELSEWHERE, format!("{saw}; at {place}: {error}"));
            return None;
        }
        match error {
            AskError::Connect(error) => self.report.found(
                unconnected(&error, EPMD_ABSENT, EPMD_FILTERED),
                format!("cannot connect to {place}: {}", in_words(&error)),
            ),
            error => self
                .report
                .found(EPMD_FOREIGN, format!("{place} takes the question and gives no answer: {error}")),
        }
        None
    }

    /// Compares what the EPMD there says with what the registry says.
    fn compare(
        &mut self,
        found: Option<PortReply>,
        address: IpAddr,
        name: &str,
        host: &str,
    ) -> Option<PortReply> {
        // Its daemon may not know that the host is also called this, and knows its addresses.
        let at = |host: &str| self.ask_api(&format!("/api/v1/nodes/{}", in_path(&format!("{name}@{host}"))));
        let registered = at(host).or_else(|| at(&address.to_string()));
        let port_of = |node: &Value, key: &str| node[key].as_u64().and_then(|port| u16::try_from(port).ok());
        let Some(found) = found else {
            let epmd = SocketAddr::new(address, self.settings.port);
            let (kind, saw) = if let Some(saw) = self.elsewhere(address, host) {
                (HOST_ELSEWHERE, format!("{saw}; the EPMD at {epmd} does not know {name}"))
            } else if let Some(node) = registered {
                let holder = node["daemon"].as_str().unwrap_or_default();
                let saw = format!(
                    "the EPMD at {epmd} does not know {name}, though the registry has it, held by the daemon {holder}"
                );
                (REGISTRY_DISAGREES, saw)
            } else {
                let list = self.ask_api(&format!("/api/v1/nodes?name={}", in_path(name))).unwrap_or_default();
                let nodes = items(&list, "nodes");
                let nodes: Vec<_> = nodes.filter_map(|node| node["node"].as_str()).collect();
                if nodes.is_empty() {
                    (NAME_UNKNOWN, format!("the EPMD at {epmd} does not know {name}, and nobody else does"))
                } else {
                    let nodes = nodes.join(", ");
                    (NAME_ELSEWHERE, format!("the EPMD at {epmd} does not know {name}, but there is {nodes}"))
                }
            };
            self.report.found(kind, saw);
            return None;
        };
        if registered.is_none()
            && let Some(whereabouts) = decode_whereabouts(&found.extra)
            && let other = whereabouts.host.as_str()
            && !other.eq_ignore_ascii_case(host)
            && !are_forms_of_one(other, host)
        {
            let saw = format!("{host} has no {name}: its EPMD answers for the one of {other}");
            self.report.found(NAME_ELSEWHERE, saw);
            return None;
        }
        self.report.fine(format!("{host} says that {name} listens on port {}", found.port));
        let is_shared =
            self.daemon.as_ref().is_some_and(|(_, status)| status["registry"]["is_shared"] == true);
        match registered {
            Some(node) => {
                let ports = [port_of(&node, "port"), port_of(&node, "advertised_port")];
                if ports.contains(&Some(found.port)) {
                    self.report.fine("the daemon of this host says the same");
                } else {
                    let saw = format!(
                        "{host} says port {}, and the daemon of this host says port {}",
                        found.port,
                        ports[1].unwrap_or_default()
                    );
                    self.report.found(REGISTRY_DISAGREES, saw);
                }
            }
            None if is_shared && !self.is_here(host) => {
                let is_shared = |host: &str| {
                    let daemon = self.ask_api(&format!("/api/v1/lookups/{}", in_path(&format!("@{host}"))));
                    daemon.is_some_and(|daemon| daemon["is_found"] == true)
                };
                if is_shared(host) || is_shared(&address.to_string()) {
                    self.report.found(NAME_NOT_SHARED, format!("the registry does not have {name}@{host}"));
                } else {
                    let saw = format!("no daemon of {host} is in the registry that this host shares");
                    self.report.found(HOST_NOT_SHARED, saw);
                }
            }
            None => {}
        }
        Some(found)
    }

    fn meet_node(&mut self, place: SocketAddr, name: &str, host: &str) {
        let stream = match TcpStream::connect_timeout(&place, CONNECT_TIME) {
            Ok(stream) => stream,
            Err(error) => {
                let saw = format!("cannot connect to {place}: {}", in_words(&error));
                return match self.elsewhere(place.ip(), host) {
                    Some(why) => self.report.found(HOST_ELSEWHERE, format!("{why}; {saw}")),
                    None => self.report.found(unconnected(&error, DIST_REFUSED, DIST_FILTERED), saw),
                };
            }
        };
        let wanted = format!("{name}@{host}");
        match meet(stream, STEP_TIME) {
            Met::Node { name: met, .. } if met == wanted => {
                self.report.fine(format!("{met} answers at {place}, up to where cookies are compared"));
            }
            Met::Node { name: met, .. } => {
                let (kind, saw) = match met.rsplit_once('@') {
                    Some((alive, met_host)) if alive == name && are_forms_of_one(met_host, host) => {
                        (NAME_FORM, format!("the node calls itself {met}, and {wanted} was asked for"))
                    }
                    _ => match self.elsewhere(place.ip(), host) {
                        Some(saw) => (HOST_ELSEWHERE, format!("{saw}; there, {met} answers")),
                        None => {
                            (NAME_DIFFERS, format!("the node at {place} calls itself {met}, not {wanted}"))
                        }
                    },
                };
                self.report.found(kind, saw);
            }
            Met::Unwilling(word) if word == "not_allowed" => {
                self.report.found(NODE_REFUSES, format!("the node at {place} answers {word}"));
            }
            // Somebody else tries it at the same time.
            Met::Unwilling(word) => self.report.fine(format!("a node answers at {place} ({word})")),
            Met::Tls => self.report.found(DIST_TLS, format!("what listens at {place} speaks TLS")),
            Met::Nothing(what) => {
                self.report.found(DIST_FOREIGN, format!("{place} takes the connection, and then {what}"));
            }
            Met::Other(bytes) => {
                let bytes = bytes[..bytes.len().min(40)].escape_ascii();
                self.report.found(DIST_FOREIGN, format!("what listens at {place} says \"{bytes}\""));
            }
        }
    }
}

/// Why there is no connection: nobody listens, or nothing comes back.
fn unconnected(error: &io::Error, refused: Kind, filtered: Kind) -> Kind {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => HOST_UNREACHABLE,
        _ => filtered,
    }
}

/// Whether one is the other with a domain.
fn are_forms_of_one(one: &str, other: &str) -> bool {
    let is_short_of =
        |short: &str, long: &str| long.strip_prefix(short).is_some_and(|domain| domain.starts_with('.'));
    is_short_of(one, other) || is_short_of(other, one)
}
