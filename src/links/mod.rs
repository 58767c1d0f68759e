//! The links of the mesh: which node is connected to which, as the kernels of their machines have it.
//!
//! Each daemon lists the connections of its own network namespace, on a thread of its own, and leaves what it sees of
//! its nodes as a note in the shared registry. All of these together are the mesh. No node has to do anything for it.
//!
//! | module | noun |
//! |---|---|
//! | `sockets` | the connections of this network namespace |
//! | `processes` | which process has a socket |
//! | `sampler` | one look at the connections of this daemon's nodes |
//! | `report` | what one daemon sees, and its note |
//! | `mesh` | what all reports say together, as a pure function |
//! | `watch` | what changes from one look to the next |

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod mesh;
mod processes;
mod report;
mod sampler;
mod sockets;
mod watch;

pub use mesh::Mesh;
pub(crate) use mesh::{Link, MeshNode, Sight};

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use repmd_backend_api::{AliveName, Creation, InstanceId, Registration, liveness};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::handshake::{Met, meet};
use crate::metrics::Counter;
use crate::registry::What;
use crate::server::Daemon;
use report::{Ends, Report, Source};
use sampler::{Own, Sampler};
use watch::Watch;

/// How often to look, unless looks take long.
const INTERVAL: Duration = Duration::from_secs(5);

/// How soon to look again when something has changed.
const AGAIN: Duration = Duration::from_secs(2);

/// The longest pause between two looks.
const INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Looks may take one of so many parts of the time: 0.1 % of a core.
const LOOK_SHARE: u32 = 1000;

/// Processor time that looks may take at once: that of a minute. Whatever is more is waited for.
const LOOKS_AT_ONCE: Duration = Duration::from_millis(60);

/// Putting together what others say may take one of so many parts of the processor's time: 1 % of a core. What the
/// store has to do for it is in proportion, and for each daemon again.
const READ_SHARE: u32 = 100;

/// How many daemons may take that of one store. Where there are more, each reads less often.
const READERS: usize = 5;

/// The longest pause between two times that what others say is read.
const READ_INTERVAL_MAX: Duration = Duration::from_secs(15 * 60);

/// How long a node may take to say whether it is hidden, and how often it is asked, as long as it does not.
const NODE_TIME: Duration = Duration::from_millis(500);
const QUESTIONS_MAX: u8 = 3;

/// How many nodes are asked after one look: the next one waits for them.
const NODES_A_LOOK: usize = 4;

/// How long what was put together serves those who ask.
const FRESH: Duration = Duration::from_secs(1);

/// What this daemon knows of the links.
#[derive(Debug)]
pub struct Links {
    daemon: Arc<Daemon>,
    state: Mutex<State>,
    /// Microseconds of processor time that looking has taken.
    cpu: Counter,
}

#[derive(Debug, Default)]
struct State {
    own: Option<Report>,
    last: Option<(Instant, Arc<Mesh>)>,
    watch: Watch,
    interval: Duration,
    /// How many daemons leave notes, and so read those of all.
    readers: usize,
}

/// The mesh as it is known now.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) mesh: Arc<Mesh>,
    /// How long ago it was put together.
    pub(crate) age: Duration,
    /// Which of the missing links were so in two looks in a row.
    pub(crate) confirmed: Vec<bool>,
    /// How often this daemon looks.
    pub(crate) interval: Duration,
    /// Who tells this daemon of connections; `Err`: why nobody does.
    pub(crate) source: Result<&'static str, String>,
}

/// Starts to look at the links of the daemon's nodes, until it stops. For a daemon that operators may ask.
///
/// # Errors
/// When there can be no thread or no event loop.
pub fn start(daemon: Arc<Daemon>) -> io::Result<(Arc<Links>, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let state = Mutex::new(State { interval: INTERVAL, ..State::default() });
    let links = Arc::new(Links { daemon, state, cpu: Counter::default() });
    let keeper = Arc::clone(&links);
    let thread = std::thread::Builder::new().name("links".to_owned()).spawn(move || {
        runtime.block_on(async {
            keeper.daemon.stop().clone().run_until_cancelled(keeper.keep()).await;
        });
        // Nobody waits for a node that does not answer.
        runtime.shutdown_background();
    })?;
    Ok((links, thread))
}

impl Links {
    async fn keep(&self) {
        let mut sampler = Sampler::default();
        // A note that is not left again for twice as long runs out.
        let longest = self.daemon.registry().lease_ttl().map_or(INTERVAL, |ttl| liveness(ttl) / 2);
        let usual = INTERVAL.min(longest).max(AGAIN / 4);
        let mut elsewhere = Vec::new();
        let mut asked = Asked::default();
        let mut spent = Duration::ZERO;
        let mut read_next = Instant::now();
        loop {
            let (started, cpu_before) = (Instant::now(), thread_cpu());
            let own = self.own(&mut asked);
            let may_read = read_next <= started;
            if may_read {
                elsewhere = self.elsewhere().await;
            }
            let cpu = thread_cpu();
            let report = sampler.look(&own, &elsewhere);
            let looked = thread_cpu().saturating_sub(cpu);
            self.cpu.add_many(u64::try_from(looked.as_micros()).unwrap_or(u64::MAX));
            // That has a bound of its own, and comes with new links alone.
            let taken = looked.saturating_sub(sampler.in_processes);
            let has_changed = self.keep_report(&report);
            self.leave_note(&report).await;
            if may_read {
                let to_ask = self.watch(&elsewhere).await;
                if asked.ask(&own, &to_ask, &report).await {
                    // What the nodes said is part of what all are told.
                    spent += taken;
                    continue;
                }
                let read = thread_cpu().saturating_sub(cpu_before).saturating_sub(looked);
                read_next = started + self.pause_between_reads(read);
            }
            let is_unsettled = has_changed || self.lock().watch.is_unsettled();
            let pause = if is_unsettled { AGAIN.min(usual) } else { usual };
            spent += taken;
            let too_much = spent.saturating_sub(LOOKS_AT_ONCE);
            let pause = pause.max(too_much.saturating_mul(LOOK_SHARE).min(INTERVAL_MAX));
            self.lock().interval = pause.max(usual);
            let next = started + pause;
            // Looks may be further apart than a note lasts, and a daemon without one counts as one that does not tell.
            let mut left_at = Instant::now();
            while left_at + longest < next {
                sleep_until(left_at + longest).await;
                left_at = Instant::now();
                self.leave_note(&report).await;
            }
            sleep_until(next).await;
            spent = spent.saturating_sub(started.elapsed() / LOOK_SHARE);
        }
    }

    /// How long to wait between two times that what others say is read, of which one took so much of the processor.
    fn pause_between_reads(&self, taken: Duration) -> Duration {
        let readers = self.lock().readers.max(1);
        let share = u32::try_from(readers.div_ceil(READERS)).unwrap_or(u32::MAX).saturating_mul(READ_SHARE);
        taken.saturating_mul(share).min(READ_INTERVAL_MAX)
    }

    fn own(&self, asked: &mut Asked) -> Vec<Own> {
        let own = self.daemon.registered_with_ends().into_iter();
        own.map(|(registration, ends)| Own {
            is_published: asked.of(&registration),
            registration,
            alive: ends.map(|[local, remote]| Ends::new(local, remote)),
        })
        .collect()
    }

    /// The nodes of other daemons.
    async fn elsewhere(&self) -> Vec<Arc<Registration>> {
        let nodes = self.daemon.registry().cluster_at_leisure().await;
        nodes.iter().map(|found| Arc::clone(&found.registration)).collect()
    }

    /// Whether the links are others than before.
    fn keep_report(&self, report: &Report) -> bool {
        let links = |report: &Report| {
            let mut links: Vec<_> = report.incoming.iter().map(|link| link.ends).collect();
            links.extend(report.outgoing.iter().map(|link| link.ends));
            links.sort_unstable();
            links
        };
        let mut state = self.lock();
        let has_changed = state.own.as_ref().is_some_and(|before| links(before) != links(report));
        state.own = Some(report.clone());
        has_changed
    }

    async fn leave_note(&self, report: &Report) {
        if self.daemon.registry().is_shared()
            && let Err(error) = self.daemon.registry().leave_note(&report.encode()).await
        {
            debug!(%error, "the links are not told to others");
        }
    }

    /// Compares with what was seen before, and tells what has happened. Returns the nodes of which it matters whether
    /// they are hidden.
    async fn watch(&self, elsewhere: &[Arc<Registration>]) -> Vec<Arc<Registration>> {
        let mesh = self.put_together(elsewhere).await;
        let now = Instant::now();
        let (events, to_ask) = {
            let mut state = self.lock();
            state.last = Some((now, Arc::clone(&mesh)));
            state.watch.look(&mesh, now)
        };
        let here = &self.daemon.registry().instance().host.clone();
        for event in events {
            match &event {
                What::LinkLost { node, peer } if node.host == *here || peer.host == *here => {
                    warn!(%node, %peer, "link lost");
                }
                What::MeshPartial { node, peer } if node.host == *here || peer.host == *here => {
                    warn!(%node, %peer, "the mesh is partial: this link is missing");
                }
                _ => {}
            }
            self.daemon.registry().events().tell(event);
        }
        to_ask.into_iter().map(|node| Arc::clone(&mesh.nodes[node].registration)).collect()
    }

    async fn put_together(&self, elsewhere: &[Arc<Registration>]) -> Arc<Mesh> {
        let registry = self.daemon.registry();
        let me = registry.instance().id;
        let mut reports = HashMap::<InstanceId, Report>::new();
        let notes = registry.notes().await;
        self.lock().readers = notes.len();
        for note in notes.iter() {
            match Report::decode(&note.text) {
                Ok(report) => drop(reports.insert(note.instance, report)),
                Err(error) => debug!(daemon = %note.instance, %error, "a note of links cannot be read"),
            }
        }
        if let Some(own) = self.lock().own.clone() {
            reports.insert(me, own);
        }
        let own = self.daemon.registered();
        Arc::new(Mesh::new(own.into_iter().chain(elsewhere.iter().cloned()).collect(), &reports))
    }

    /// The mesh as it is known now: as of a second ago, or of the last look while the store is away.
    pub(crate) async fn view(&self) -> View {
        let fresh = self.lock().last.clone().filter(|(at, _)| at.elapsed() < FRESH);
        let (at, mesh) = match fresh {
            Some(fresh) => fresh,
            None => {
                let fresh = (Instant::now(), self.put_together(&self.elsewhere().await).await);
                self.lock().last = Some(fresh.clone());
                fresh
            }
        };
        let state = self.lock();
        let life = |node: usize| mesh.nodes[node].life();
        let is_confirmed =
            |(one, other): &(usize, usize)| state.watch.is_confirmed((life(*one), life(*other)));
        View {
            age: at.elapsed(),
            confirmed: mesh.missing.iter().map(is_confirmed).collect(),
            interval: state.interval,
            source: match state.own.as_ref().map(|own| &own.source) {
                Some(Ok(Source::Netlink)) => Ok("netlink"),
                Some(Ok(Source::Proc)) => Ok("proc"),
                Some(Err(reason)) => Err(reason.clone()),
                None => Err("it has not looked yet".to_owned()),
            },
            mesh: Arc::clone(&mesh),
        }
    }

    /// What this daemon's host has with each other host, itself too: links, missing ones, and the longest round trip.
    pub(crate) fn by_host(&self) -> Vec<WithHost> {
        let state = self.lock();
        let Some((_, mesh)) = &state.last else { return Vec::new() };
        let here = &self.daemon.registry().instance().host.clone();
        let mut hosts = HashMap::<&str, WithHost>::new();
        let mut at = |one: usize, other: usize, change: &dyn Fn(&mut WithHost)| {
            let of = [one, other].map(|node| mesh.nodes[node].host());
            let other = match of {
                [one, other] if one == here => other,
                [one, other] if other == here => one,
                _ => return,
            };
            let name = || WithHost { host: other.as_str().to_owned(), ..WithHost::default() };
            change(hosts.entry(other.as_str()).or_insert_with(name));
        };
        for link in &mesh.links {
            let Some(from) = link.from.first() else { continue };
            let rtt = link.ends.iter().flatten().flatten().map(|quality| quality.rtt).max();
            at(*from, link.to, &|with| {
                with.links += 1;
                with.rtt = with.rtt.max(rtt);
            });
        }
        for (one, other) in &mesh.missing {
            if state.watch.is_confirmed((mesh.nodes[*one].life(), mesh.nodes[*other].life())) {
                at(*one, *other, &|with| with.missing += 1);
            }
        }
        let mut hosts: Vec<_> = hosts.into_values().collect();
        hosts.sort_unstable_by(|one, other| {
            (std::cmp::Reverse(one.missing), std::cmp::Reverse(one.links), &one.host).cmp(&(
                std::cmp::Reverse(other.missing),
                std::cmp::Reverse(other.links),
                &other.host,
            ))
        });
        hosts
    }

    /// Processor time that looking has taken.
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_micros(self.cpu.get())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of the daemon's nodes are hidden, as they say themselves when they are asked. Most are registered as others
/// are, so a node is asked when a link of it seems to be missing, and once in its life.
#[derive(Debug, Default)]
struct Asked {
    of: HashMap<Life, (Option<bool>, u8)>,
}

/// A node's name and creation.
type Life = (AliveName, Creation);

fn life(registration: &Registration) -> Life {
    (registration.node.name.clone(), registration.creation)
}

impl Asked {
    fn of(&self, registration: &Registration) -> Option<bool> {
        self.of.get(&life(registration))?.0
    }

    /// Asks those of `own` that are among `to_ask`. Whether one of them has said something.
    async fn ask(&mut self, own: &[Own], to_ask: &[Arc<Registration>], report: &Report) -> bool {
        self.of.retain(|known, _| own.iter().any(|node| life(&node.registration) == *known));
        let mut questions = Vec::new();
        for (place, node) in own.iter().enumerate().filter(|(place, _)| report.nodes[*place].is_seen) {
            let is_wanted = |other: &Arc<Registration>| {
                other.instance.id == node.registration.instance.id && life(other) == life(&node.registration)
            };
            if questions.len() == NODES_A_LOOK || !to_ask.iter().any(is_wanted) {
                continue;
            }
            let (answer, times) = self.of.entry(life(&node.registration)).or_insert((None, 0));
            if answer.is_some() || QUESTIONS_MAX <= *times {
                continue;
            }
            *times += 1;
            // Where somebody reaches it already, or else where most listen.
            let port = node.registration.node.port;
            let reached =
                report.incoming.iter().filter(|link| link.node == place).map(|link| link.ends.local);
            let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
            let addresses = reached.take(1).chain(loopback.map(|address| SocketAddr::new(address, port)));
            questions.push((life(&node.registration), addresses.collect::<Vec<_>>()));
        }
        if questions.is_empty() {
            return false;
        }
        let answers = tokio::task::spawn_blocking(move || {
            questions
                .into_iter()
                .filter_map(|(life, at)| Some((whether_published(&life.0, &at)?, life)))
                .collect()
        });
        let answers: Vec<(bool, Life)> = answers.await.unwrap_or_default();
        for (is_published, life) in &answers {
            self.of.insert(life.clone(), (Some(*is_published), 0));
        }
        !answers.is_empty()
    }
}

/// Whether the node of this name, at one of these addresses, is no hidden node. `None`: it does not say.
fn whether_published(name: &AliveName, addresses: &[SocketAddr]) -> Option<bool> {
    for address in addresses {
        let Ok(stream) = TcpStream::connect_timeout(address, NODE_TIME) else { continue };
        return match meet(stream, NODE_TIME) {
            Met::Node { name: met, is_published } if met.split('@').next() == Some(name.as_str()) => {
                Some(is_published)
            }
            Met::Node { .. } | Met::Unwilling(_) | Met::Tls | Met::Nothing(_) | Met::Other(_) => None,
        };
    }
    None
}

/// What one host has with another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WithHost {
    pub(crate) host: String,
    pub(crate) links: usize,
    pub(crate) missing: usize,
    pub(crate) rtt: Option<Duration>,
}

/// Processor time of this thread.
fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(any(test, feature = "fuzzing"))]
mod testing {
    use std::sync::Arc;
    use std::time::SystemTime;

    use repmd_backend_api::{
        AliveName, Creation, HostId, Instance, InstanceId, Node, NodeType, Registration,
    };

    /// A node of the daemon of `host`: that of `a` is at 10.0.0.1, that of `b` at 10.0.0.2, and so on.
    pub(super) fn registration(host: &str, name: &str, port: u16) -> Arc<Registration> {
        of_type(host, name, port, NodeType::NORMAL)
    }

    #[cfg(test)]
    pub(super) fn hidden(host: &str, name: &str, port: u16) -> Arc<Registration> {
        of_type(host, name, port, NodeType::HIDDEN)
    }

    fn of_type(host: &str, name: &str, port: u16, node_type: NodeType) -> Arc<Registration> {
        let number = host.as_bytes()[0] - b'a' + 1;
        Arc::new(Registration {
            node: Node {
                name: AliveName::parse(name.as_bytes()).expect("it is a name"),
                port,
                node_type,
                protocol: 0,
                highest_version: 6,
                lowest_version: 5,
                extra: Box::new([]),
            },
            advertised_port: port,
            creation: Creation::FIRST,
            instance: Arc::new(Instance {
                id: InstanceId(number.into()),
                name: format!("{host}:4369"),
                host: HostId::parse(host).expect("it is a host"),
                aliases: Vec::new(),
                addresses: vec![[10, 0, 0, number].into()],
                port: 4369,
            }),
            registered_at: SystemTime::UNIX_EPOCH,
        })
    }
}
