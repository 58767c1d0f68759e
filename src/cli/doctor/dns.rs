//! The daemon's DNS, and whether this machine's resolver comes to it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::finding::{DNS_NAMELESS, DNS_SEARCH, DNS_SECOND, DNS_SILENT, DNS_UNASKED};
use super::{CONNECT_TIME, Doctor};
use crate::cli::client::resolve;
use crate::dns;
use crate::listen::at_loopback;
use crate::printable::in_words;

/// What tells the C library, and Erlang's own resolver, whom to ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What is left out, and why, where nothing answers by DNS.
const RESOLVER: &str = "whether this machine's resolver comes to the daemon";
const NOT_THERE: &str = "it does not answer by DNS";

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(2);

impl Doctor<'_> {
    /// Looks where these settings say that the daemon answers by DNS. `alive`: the node that is to be reached.
    pub(super) fn examine_dns(&mut self, alive: Option<&str>) {
        let dns = self.settings.dns.clone();
        let Some(address) = dns.addresses.first().copied() else { return };
        self.report.step("the daemon's DNS");
        let zone = dns.zones[0].clone();
        let asked = at_loopback(address);
        match ask(asked, &zone, RecordType::SOA) {
            Ok(answer) if answer.metadata.response_code == ResponseCode::NoError => {
                self.report.fine(format!("{asked} answers for {zone}"));
            }
            Ok(answer) => {
                let code = answer.metadata.response_code;
                self.report.found(DNS_SILENT, format!("{asked} answers for {zone} with {code}: no repmd"));
                return self.report.left_out(RESOLVER, NOT_THERE);
            }
            Err(error) => {
                let saw = format!("{asked} gives no answer for {zone}: {}", in_words(&error));
                self.report.found(DNS_SILENT, saw);
                return self.report.left_out(RESOLVER, NOT_THERE);
            }
        }
        let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let conf = ResolvConf::parse(&text);
        let is_ours = |server: &IpAddr| dns.answers_at(SocketAddr::new(*server, 53));
        let others: Vec<_> =
            conf.servers.iter().filter(|server| !is_ours(server)).map(ToString::to_string).collect();
        if others.len() < conf.servers.len() && !others.is_empty() {
            let saw = format!("{RESOLV_CONF} names {} beside the daemon", others.join(" and "));
            self.report.found(DNS_SECOND, saw);
        }
        self.examine_resolver(&zone, &conf, &dns.zones);
        if let Some(alive) = alive {
            match dns::node_name(alive, &zone) {
                Some(name) => self.report.fine(format!("the hosts that have {alive} are {name}")),
                None => {
                    let why = "an upper-case letter, a dot, a character beyond ASCII or more than 63 bytes";
                    self.report.found(DNS_NAMELESS, format!("{alive} has {why}"));
                }
            }
        }
    }

    /// Whether the resolver of this machine finds its host by the daemon.
    fn examine_resolver(&mut self, zone: &Name, conf: &ResolvConf, zones: &[Name]) {
        let shown = self.daemon.as_ref().and_then(|(_, status)| status["host"].as_str());
        let host = shown.unwrap_or(self.settings.host.as_str()).to_owned();
        let Some(name) = dns::host_name(zones, zone, &host) else { return };
        let text = name.to_ascii();
        match resolve(text.trim_end_matches('.'), 0, Instant::now() + CONNECT_TIME) {
            Ok(places) => {
                let addresses: Vec<_> = places.iter().map(|place| place.ip().to_string()).collect();
                self.report.fine(format!("this machine's resolver finds {name} at {}", addresses.join(", ")));
            }
            Err(error) => {
                let saw = format!("this machine's resolver does not find {name}: {}", in_words(&error));
                return self.report.found(DNS_UNASKED, saw);
            }
        }
        if !conf.search.iter().any(|domain| zones.contains(domain)) {
            self.report.found(DNS_SEARCH, format!("{RESOLV_CONF} does not search {zone}"));
        }
    }
}

/// What a resolver reads.
#[derive(Debug, Default, PartialEq)]
struct ResolvConf {
    servers: Vec<IpAddr>,
    search: Vec<Name>,
}

impl ResolvConf {
    /// Of several lines with search lists the last one counts.
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    conf.servers.extend(server);
                }
                Some("search" | "domain") => {
                    let name = |word: &str| Name::from_ascii(format!("{}.", word.trim_end_matches('.'))).ok();
                    conf.search = words.filter_map(name).map(|name| name.to_lowercase()).collect();
                }
                _ => {}
            }
        }
        conf
    }
}

fn ask(server: SocketAddr, name: &Name, kind: RecordType) -> io::Result<Message> {
    let any =
        if server.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_TIME))?;
    let mut question = Message::query();
    question.add_query(Query::query(name.clone(), kind));
    socket.send(&question.to_vec().map_err(io::Error::other)?)?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::other("nothing came within 2 s"),
        _ => error,
    })?;
    Message::from_vec(&answer[..length]).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_s_file_is_read_as_resolvers_do() {
        let text = "# a comment\nnameserver 127.0.0.1\nnameserver ::1 # x\nnameserver nonsense\n\
                    search one.example\nsearch RePmD two.example.\noptions ndots:5\n";
        let conf = ResolvConf::parse(text);
        assert_eq!(conf.servers, ["127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!(conf.search, ["repmd.", "two.example."].map(|text| Name::from_ascii(text).unwrap()));
    }
}
