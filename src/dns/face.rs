//! A question -> an answer.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, HINFO, NS, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use repmd_backend_api::{AliveName, Found, Instance, Registration, is_reachable};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::forward::Forwarder;
use super::index::{Entry, Index};
use super::rate::{Rate, Verdict};
use super::reply::Reply;
use super::request::Request;
use super::stats::Stats;
use super::zone::{Meaning, host_name, meaning};
use super::{Options, Rules};
use crate::registry::{Daemons, NobodyKnows};
use crate::server::Daemon;

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
    Wait(Waiting),
    /// There is none.
    Silence,
}

/// A question whose answer takes a while.
#[derive(Debug)]
pub(super) struct Waiting {
    request: Request,
    asker: Asker,
    is_foreign: bool,
    _permit: OwnedSemaphorePermit,
}

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
    rate: Mutex<Rate>,
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
            rate: Mutex::new(Rate::new(options.rate)),
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
        let may_ask = self.rules.policy.may_look_up(asker.peer, || asker.local);
        let readable = readable.and(if may_ask { Ok(()) } else { Err(ResponseCode::Refused) });
        let query = match (&request.query, readable) {
            (Some(query), Ok(())) => query,
            (_, readable) => {
                let code = readable.err().unwrap_or(ResponseCode::FormErr);
                return Step::Reply(self.write(Reply::code(code), &request, asker));
            }
        };
        let meaning = meaning(&self.options.zones, &query.name);
        let known = self.known(query, &meaning);
        let (is_foreign, turns) = match known {
            Known::Reply(reply) => return Step::Reply(self.write(reply, &request, asker)),
            Known::Foreign if self.recurses_for(asker) => (true, &self.forwarding),
            Known::Foreign => {
                return Step::Reply(self.write(Reply::code(ResponseCode::Refused), &request, asker));
            }
            Known::NotYet => (false, &self.asking),
        };
        match Arc::clone(turns).try_acquire_owned() {
            Ok(permit) => Step::Wait(Waiting { request, asker, is_foreign, _permit: permit }),
            Err(_) => Step::Reply(self.write(Reply::code(ResponseCode::ServFail), &request, asker)),
        }
    }

    /// Answers a question for which somebody has to be asked.
    pub(super) async fn finish(&self, waiting: Waiting) -> Vec<u8> {
        let Waiting { request, asker, is_foreign, _permit: permit } = waiting;
        let reply = match (&request.query, &self.forwarder) {
            (Some(query), Some(forwarder)) if is_foreign => {
                self.stats.forwarded.add();
                forwarder.answer(query).await
            }
            (Some(query), _) => self.ask(query, asker).await,
            (None, _) => Reply::code(ResponseCode::FormErr),
        };
        drop(permit);
        self.write(reply, &request, asker)
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
        self.forwarder.is_some() && self.rules.policy.may_recurse(asker.peer, || asker.local)
    }

    /// The answer, if nobody has to be asked.
    fn known(&self, query: &Query, meaning: &Meaning<'_>) -> Known {
        if let Some(reply) = self.always(query, meaning) {
            return reply;
        }
        let registry = self.daemon.registry();
        let Some(daemons) = registry.known_daemons() else { return Known::NotYet };
        match meaning {
            Meaning::Below { node: Some(node), .. } => match registry.known_holders(node) {
                Some(holders) => self.reply(query, meaning, daemons, Some(holders)),
                None => Known::NotYet,
            },
            _ => self.reply(query, meaning, daemons, None),
        }
    }

    /// The answer, from the registry where it has to be asked.
    async fn ask(&self, query: &Query, asker: Asker) -> Reply {
        let registry = self.daemon.registry();
        let meaning = meaning(&self.options.zones, &query.name);
        let daemons = registry.current_daemons().await;
        let holders = match &meaning {
            Meaning::Below { node: Some(node), .. } => Some(registry.holders(node, asker.peer).await),
            _ => None,
        };
        match self.reply(query, &meaning, daemons, holders) {
            Known::Reply(reply) => reply,
            Known::Foreign => match &self.forwarder {
                Some(forwarder) if self.recurses_for(asker) => {
                    self.stats.forwarded.add();
                    forwarder.answer(query).await
                }
                _ => Reply::code(ResponseCode::Refused),
            },
            Known::NotYet => Reply::code(ResponseCode::ServFail),
        }
    }

    /// What is answered whatever the registry holds.
    fn always(&self, query: &Query, meaning: &Meaning<'_>) -> Option<Known> {
        let records = match meaning {
            Meaning::Apex(zone) => match query.query_type {
                RecordType::SOA => vec![self.soa(zone)],
                RecordType::NS => self.ns(zone).into_iter().collect(),
                _ => vec![],
            },
            Meaning::Nothing(zone) => return Some(Known::Reply(self.absent(zone, ResponseCode::NXDomain))),
            Meaning::Foreign => return Some(Known::Foreign),
            Meaning::Below { .. } | Meaning::Reverse(_) => return None,
        };
        let Meaning::Apex(zone) = meaning else { return None };
        Some(Known::Reply(self.present(query, zone, records)))
    }

    fn reply(
        &self,
        query: &Query,
        meaning: &Meaning<'_>,
        daemons: Result<Arc<Daemons>, NobodyKnows>,
        holders: Option<Result<Arc<Vec<Found>>, NobodyKnows>>,
    ) -> Known {
        let is_whole = daemons.is_ok();
        let index = self.index(daemons.unwrap_or_else(|_| Arc::clone(&self.nobody)));
        let away = || Known::Reply(Reply::code(ResponseCode::ServFail));
        match meaning {
            Meaning::Below { zone, full, prefix, node, is_nodes } => {
                if let Some(host) = index.named(full).or_else(|| index.named(prefix)) {
                    let records = self.addresses(query, &host.addresses);
                    return Known::Reply(self.present(query, zone, records));
                }
                let between = *is_nodes || index.is_between(full) || index.is_between(prefix);
                match (node, holders) {
                    (Some(node), Some(Ok(holders))) => {
                        let reply = self.node(query, zone, node, &holders, &index);
                        return Known::Reply(match reply {
                            Some(reply) => reply,
                            None if between => self.present(query, zone, vec![]),
                            None => self.absent(zone, ResponseCode::NXDomain),
                        });
                    }
                    (Some(_), _) => return away(),
                    (None, _) => {}
                }
                if between {
                    Known::Reply(self.present(query, zone, vec![]))
                } else if is_whole {
                    Known::Reply(self.absent(zone, ResponseCode::NXDomain))
                } else {
                    away()
                }
            }
            Meaning::Reverse(network) => {
                let zone = &self.options.zones[0];
                // Of the zones above we have nothing but these names.
                let empty = || Known::Reply(self.absent(&query.name, ResponseCode::NoError));
                if network.prefix_len() < network.max_prefix_len() {
                    return if index.has_any_in(network) { empty() } else { Known::Foreign };
                }
                let names: Vec<_> = index.at(network.addr()).collect();
                if names.is_empty() {
                    return if is_whole { Known::Foreign } else { away() };
                }
                let name = |host| host_name(&self.options.zones, zone, host);
                if query.query_type != RecordType::PTR {
                    return empty();
                }
                let records = names.into_iter().filter_map(name);
                let records = records.map(|name| self.record(query, RData::PTR(PTR(name)))).collect();
                Known::Reply(self.present(query, &query.name, records))
            }
            Meaning::Apex(_) | Meaning::Nothing(_) | Meaning::Foreign => Known::Foreign,
        }
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

    fn index(&self, daemons: Arc<Daemons>) -> Arc<Index> {
        let daemons = if daemons.all().is_empty() { Arc::clone(&self.nobody) } else { daemons };
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
        self.peer.is_loopback() || self.local == Some(self.peer)
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
