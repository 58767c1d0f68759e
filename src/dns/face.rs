//! A question -> an answer.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, HINFO, NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;
use repmd_backend_api::{AliveName, Found, Instance, Registration, is_reachable};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::forward::Forwarder;
use super::index::{Entry, Index};
use super::rate::{Rates, Verdict};
use super::reply::Reply;
use super::request::Request;
use super::stats::Stats;
use super::zone::{Below, Meaning, host_name, meaning};
use super::{Options, Rules};
use crate::registry::{Daemons, NobodyKnows};
use crate::server::{Daemon, May, Verb, is_local};

/// Questions that wait for the registry at once. Look-ups on the wire have a thousand of their own.
const ASKING_MAX: usize = 64;

/// Questions that wait for other name servers at once.
pub(super) const FORWARDING_MAX: usize = 128;

/// A stranger gets no more than so many times the bytes that came: a forged address is worth little then.
const AMPLIFICATION_MAX: usize = 10;

/// Most bytes of a message by TCP.
const MESSAGE_MAX: usize = u16::MAX as usize;

/// How a question came, and who asks it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    /// Without IPv4 mapped into IPv6.
    pub(super) peer: IpAddr,
    /// The address of this machine that was asked, likewise.
    pub(super) local: Option<IpAddr>,
    pub(super) by_tcp: bool,
}

/// What becomes of a packet.
#[derive(Debug)]
pub(super) enum Step {
    /// This is the answer.
    Reply(Vec<u8>),
    /// Somebody has to be asked first: see [`Face::finish`].
    Wait(Box<Waiting>),
    /// There is none.
    Silence,
}

/// A question whose answer takes a while.
#[derive(Debug)]
pub(super) struct Waiting {
    request: Request,
    query: Query,
    asker: Asker,
    turn: Turn,
}

/// The right to ask somebody.
#[derive(Debug)]
enum Turn {
    Registry(OwnedSemaphorePermit),
    NameServer(OwnedSemaphorePermit),
}

/// The nodes of one name that other daemons hold.
type Holders = Result<Arc<Vec<Found>>, NobodyKnows>;

/// The hosts of a list of daemons.
#[derive(Debug)]
struct Indexed {
    own: Arc<Instance>,
    daemons: Arc<Daemons>,
    index: Arc<Index>,
}

pub(super) struct Face {
    daemon: Arc<Daemon>,
    options: Options,
    rules: Rules,
    forwarder: Option<Forwarder>,
    stats: Arc<Stats>,
    rate: Mutex<Rates>,
    asking: Arc<Semaphore>,
    forwarding: Arc<Semaphore>,
    indexed: Mutex<Option<Indexed>>,
    /// The list of daemons where none is known.
    nobody: Arc<Daemons>,
}

impl Face {
    pub(super) fn new(
        daemon: Arc<Daemon>,
        options: Options,
        rules: Rules,
        stats: Arc<Stats>,
    ) -> io::Result<Self> {
        let forwarder =
            (!options.forward.is_empty()).then(|| Forwarder::new(&options.forward)).transpose()?;
        Ok(Self {
            daemon,
            forwarder,
            stats,
            rate: Mutex::new(Rates::new(options.rate)),
            options,
            rules,
            asking: Arc::new(Semaphore::new(ASKING_MAX)),
            forwarding: Arc::new(Semaphore::new(FORWARDING_MAX)),
            indexed: Mutex::default(),
            nobody: Arc::default(),
        })
    }

    /// Answers a packet, if nobody has to be asked for that.
    pub(super) fn begin(&self, packet: &[u8], asker: Asker) -> Step {
        let Some((request, readable)) = Request::read(packet) else { return Step::Silence };
        if !asker.by_tcp && !asker.is_local() {
            let rate =
                self.rate.lock().unwrap_or_else(PoisonError::into_inner).judge(asker.peer, Instant::now());
            match rate {
                Verdict::Answer => {}
                Verdict::Slip => {
                    self.stats.limited.add();
                    return Step::Reply(Reply::by_tcp(&request));
                }
                Verdict::Drop => {
                    self.stats.limited.add();
                    return Step::Silence;
                }
            }
        }
        self.stats.asked(request.query.as_ref().map_or(RecordType::ZERO, |query| query.query_type));
        let may = self.daemon.may(Verb::Dns, asker.peer, || asker.local);
        let readable = readable.and(if may == May::No { Err(ResponseCode::Refused) } else { Ok(()) });
        let query = match (&request.query, readable) {
            (Some(query), Ok(())) => query,
            (_, readable) => {
                let code = readable.err().unwrap_or(ResponseCode::FormErr);
                return Step::Reply(self.write(Reply::code(code), &request, asker));
            }
        };
        let known = if may == May::Yes { self.known(query) } else { Known::NotYet };
        let turn = match known {
            Known::Reply(reply) => return Step::Reply(self.write(reply, &request, asker)),
            Known::Foreign => self.turn_to_forward(asker).map(Turn::NameServer),
            Known::NotYet => turn(&self.asking).map(Turn::Registry),
        };
        match turn {
            Ok(turn) => Step::Wait(Box::new(Waiting { query: query.clone(), request, asker, turn })),
            Err(code) => Step::Reply(self.write(Reply::code(code), &request, asker)),
        }
    }

    /// Answers a question for which somebody has to be asked.
    pub(super) async fn finish(&self, waiting: Box<Waiting>) -> Vec<u8> {
        let Waiting { request, query, asker, turn } = *waiting;
        let turn = match turn {
            Turn::NameServer(permit) => Ok(permit),
            Turn::Registry(permit) => {
                if self.daemon.may(Verb::Dns, asker.peer, || asker.local) != May::Yes
                    && !self.daemon.registry().is_of_the_cluster(asker.peer).await
                {
                    return self.write(Reply::code(ResponseCode::Refused), &request, asker);
                }
                if let Some(reply) = self.ask(&query, asker).await {
                    return self.write(reply, &request, asker);
                }
                // Others wait for the registry, whatever a name server does.
                drop(permit);
                self.turn_to_forward(asker)
            }
        };
        let reply = match (turn, &self.forwarder) {
            (Ok(_permit), Some(forwarder)) => {
                self.stats.forwarded.add();
                forwarder.answer(&query).await
            }
            (Ok(_), None) => Reply::code(ResponseCode::Refused),
            (Err(code), _) => Reply::code(code),
        };
        self.write(reply, &request, asker)
    }

    /// A turn to ask another name server for this asker.
    fn turn_to_forward(&self, asker: Asker) -> Result<OwnedSemaphorePermit, ResponseCode> {
        if self.recurses_for(asker) { turn(&self.forwarding) } else { Err(ResponseCode::Refused) }
    }

    fn write(&self, reply: Reply, request: &Request, asker: Asker) -> Vec<u8> {
        self.stats.answered(reply.code);
        let bytes_max = if asker.by_tcp {
            MESSAGE_MAX
        } else if asker.is_stranger() {
            request.datagram_max.min(AMPLIFICATION_MAX * request.length)
        } else {
            request.datagram_max
        };
        let (bytes, is_cut) = reply.write(request, self.recurses_for(asker), bytes_max);
        if is_cut {
            self.stats.truncated.add();
        }
        bytes
    }

    /// Whether other name servers are asked for this asker.
    fn recurses_for(&self, asker: Asker) -> bool {
        self.forwarder.is_some() && self.daemon.may_recurse(asker.peer, || asker.local)
    }

    /// The answer, if nobody has to be asked.
    fn known(&self, query: &Query) -> Known {
        let registry = self.daemon.registry();
        match meaning(&self.options.zones, &query.name) {
            Meaning::Apex(zone) => Known::Reply(self.apex(query, zone)),
            Meaning::Nothing(zone) => Known::Reply(self.absent(zone, ResponseCode::NXDomain)),
            Meaning::Foreign => Known::Foreign,
            Meaning::Reverse(network) => {
                let Some(daemons) = registry.known_daemons() else { return Known::NotYet };
                self.reverse(query, &network, daemons).map_or(Known::Foreign, Known::Reply)
            }
            Meaning::Below(name) => {
                let Some(daemons) = registry.known_daemons() else { return Known::NotYet };
                let Some(node) = &name.node else {
                    return Known::Reply(self.below(query, &name, daemons, None));
                };
                let Some(holders) = registry.known_holders(node) else { return Known::NotYet };
                Known::Reply(self.below(query, &name, daemons, Some((node, holders))))
            }
        }
    }

    /// The answer, from the registry where it has to be asked. `None`: it is about another zone.
    async fn ask(&self, query: &Query, asker: Asker) -> Option<Reply> {
        let registry = self.daemon.registry();
        let daemons = registry.current_daemons().await;
        match meaning(&self.options.zones, &query.name) {
            Meaning::Below(name) => {
                let holders = match &name.node {
                    Some(node) => Some((node, registry.holders(node, asker.peer).await)),
                    None => None,
                };
                Some(self.below(query, &name, daemons, holders))
            }
            Meaning::Reverse(network) => self.reverse(query, &network, daemons),
            // For these nobody has to be asked.
            Meaning::Apex(_) | Meaning::Nothing(_) | Meaning::Foreign => None,
        }
    }

    fn apex(&self, query: &Query, zone: &Name) -> Reply {
        let records = match query.query_type {
            RecordType::SOA => vec![self.soa(zone)],
            RecordType::NS => self.ns(zone).into_iter().collect(),
            _ => vec![],
        };
        self.present(query, zone, records)
    }

    /// The answer for a name below a zone: that of a host, of a node with its holders elsewhere, or of nothing.
    fn below(
        &self,
        query: &Query,
        name: &Below<'_>,
        daemons: Result<Arc<Daemons>, NobodyKnows>,
        holders: Option<(&AliveName, Holders)>,
    ) -> Reply {
        let Below { zone, full, prefix, is_nodes, .. } = name;
        let is_whole = daemons.is_ok();
        let index = self.index(daemons);
        if let Some(host) = index.named(full).or_else(|| index.named(prefix)) {
            return self.present(query, zone, self.addresses(query, &host.addresses));
        }
        let is_known = match holders {
            Some((node, Ok(holders))) => {
                if let Some(reply) = self.node(query, zone, node, &holders, &index) {
                    return reply;
                }
                true
            }
            Some((_, Err(NobodyKnows))) => return Reply::code(ResponseCode::ServFail),
            None => is_whole,
        };
        if *is_nodes || index.is_between(full) || index.is_between(prefix) {
            self.present(query, zone, vec![])
        } else if is_known {
            self.absent(zone, ResponseCode::NXDomain)
        } else {
            Reply::code(ResponseCode::ServFail)
        }
    }

    /// The names of the hosts at an address. `None`: it is not the registry's.
    fn reverse(
        &self,
        query: &Query,
        network: &IpNet,
        daemons: Result<Arc<Daemons>, NobodyKnows>,
    ) -> Option<Reply> {
        let is_whole = daemons.is_ok();
        let index = self.index(daemons);
        // Of the zones above we have nothing but these names.
        let empty = || self.absent(&query.name, ResponseCode::NoError);
        if network.prefix_len() < network.max_prefix_len() {
            return index.has_any_in(network).then(empty);
        }
        let names: Vec<_> = index.at(network.addr()).collect();
        if names.is_empty() {
            return (!is_whole).then(|| Reply::code(ResponseCode::ServFail));
        }
        if query.query_type != RecordType::PTR {
            return Some(empty());
        }
        let zone = &self.options.zones[0];
        let names = names.into_iter().filter_map(|host| host_name(&self.options.zones, zone, host));
        let records = names.map(|name| self.record(query, RData::PTR(PTR(name)))).collect();
        Some(self.present(query, &query.name, records))
    }

    /// The hosts that have a node of this name. `None`: there is none.
    fn node(
        &self,
        query: &Query,
        zone: &Name,
        name: &AliveName,
        holders: &[Found],
        index: &Index,
    ) -> Option<Reply> {
        let own = self.daemon.registered_as(name);
        let mut nodes: Vec<&Arc<Registration>> = holders.iter().map(|found| &found.registration).collect();
        nodes.extend(own.as_ref());
        if nodes.is_empty() {
            return None;
        }
        fastrand::shuffle(&mut nodes);
        let records = match query.query_type {
            RecordType::A | RecordType::AAAA => {
                let addresses: Vec<_> =
                    nodes.iter().flat_map(|node| addresses_of(node, index.of(&node.instance.host))).collect();
                self.addresses(query, &addresses)
            }
            RecordType::SRV => {
                let service = |node: &&Arc<Registration>| {
                    let host = index.of(&node.instance.host).filter(|host| !host.is_stood_for)?;
                    let target = host_name(&self.options.zones, zone, host.name.as_deref()?)?;
                    Some(self.record(query, RData::SRV(SRV::new(0, 0, node.advertised_port, target))))
                };
                nodes.iter().filter_map(service).collect()
            }
            _ => vec![],
        };
        Some(self.present(query, zone, records))
    }

    /// The records of these addresses that are asked for.
    fn addresses(&self, query: &Query, addresses: &[IpAddr]) -> Vec<Record> {
        let data = |address: &IpAddr| match (address, query.query_type) {
            (IpAddr::V4(address), RecordType::A) => Some(RData::A(A(*address))),
            (IpAddr::V6(address), RecordType::AAAA) => Some(RData::AAAA(AAAA(*address))),
            _ => None,
        };
        addresses.iter().filter_map(data).map(|data| self.record(query, data)).collect()
    }

    /// The answer for a name that there is. Where it has nothing of what is asked for, that is said as it must be:
    /// "no such name" would be believed for all types.
    fn present(&self, query: &Query, zone: &Name, mut answers: Vec<Record>) -> Reply {
        if query.query_type == RecordType::ANY {
            // Not all that there is (RFC 8482).
            let data = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
            answers = vec![self.record(query, data)];
        }
        if answers.is_empty() {
            return self.absent(zone, ResponseCode::NoError);
        }
        Reply { code: ResponseCode::NoError, answers, authorities: Vec::new(), is_authoritative: true }
    }

    fn absent(&self, zone: &Name, code: ResponseCode) -> Reply {
        Reply { code, answers: Vec::new(), authorities: vec![self.soa(zone)], is_authoritative: true }
    }

    fn record(&self, query: &Query, data: RData) -> Record {
        Record::from_rdata(query.name.clone(), seconds(self.options.ttl), data)
    }

    fn soa(&self, zone: &Name) -> Record {
        let name_server = self.name_server(zone).unwrap_or_else(|| zone.clone());
        let serial = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mailbox = zone.prepend_label("hostmaster").unwrap_or_else(|_| zone.clone());
        let ttl = seconds(self.options.negative_ttl);
        #[expect(clippy::cast_possible_truncation, reason = "serial numbers wrap (RFC 1982)")]
        let soa = SOA::new(name_server, mailbox, serial as u32, 3600, 600, 86_400, ttl);
        Record::from_rdata(zone.clone(), ttl, RData::SOA(soa))
    }

    fn ns(&self, zone: &Name) -> Option<Record> {
        let data = RData::NS(NS(self.name_server(zone)?));
        Some(Record::from_rdata(zone.clone(), seconds(self.options.ttl), data))
    }

    /// This daemon's host.
    fn name_server(&self, zone: &Name) -> Option<Name> {
        host_name(&self.options.zones, zone, self.daemon.registry().instance().host.as_str())
    }

    /// The hosts of these daemons; this one's alone where nobody knows of others.
    fn index(&self, daemons: Result<Arc<Daemons>, NobodyKnows>) -> Arc<Index> {
        let some = daemons.ok().filter(|daemons| !daemons.all().is_empty());
        let daemons = some.unwrap_or_else(|| Arc::clone(&self.nobody));
        let own = self.daemon.registry().instance();
        let mut indexed = self.indexed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*indexed
            && Arc::ptr_eq(&known.daemons, &daemons)
            && Arc::ptr_eq(&known.own, &own)
        {
            return Arc::clone(&known.index);
        }
        let index = Arc::new(Index::new(&own, &daemons, &self.rules.virtual_hosts));
        *indexed = Some(Indexed { own, daemons, index: Arc::clone(&index) });
        index
    }
}

/// What is known of a question without asking anybody.
enum Known {
    Reply(Reply),
    /// It is about another zone.
    Foreign,
    /// The registry must be asked.
    NotYet,
}

impl Asker {
    fn is_local(self) -> bool {
        is_local(self.peer, || self.local)
    }

    /// Whether it is somewhere on the internet.
    fn is_stranger(self) -> bool {
        let is_near = match self.peer {
            IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
        };
        !is_near && !self.is_local()
    }
}

/// A turn among those who ask at once, if there is one.
fn turn(turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ResponseCode> {
    Arc::clone(turns).try_acquire_owned().map_err(|_| ResponseCode::ServFail)
}

fn addresses_of(node: &Registration, host: Option<&Entry>) -> Vec<IpAddr> {
    match host {
        Some(host) => host.addresses.clone(),
        // Its daemon is not in the list yet.
        None => node.instance.addresses.iter().copied().filter(|address| is_reachable(*address)).collect(),
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}
