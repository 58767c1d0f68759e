//! The state of a daemon in a form that other versions of the program read.
//!
//! JSON, whose objects may get members that older versions do not know; [`FORMAT`] changes where that is not enough. After
//! it come the rests of long replies as bytes, or, where it is kept for the next run, a line of JSON for each node that has
//! registered or left since.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use repmd_backend_api::{
    AliveName, Creation, HostId, Instance, InstanceId, Lease, LeaseToken, Node, NodeType, Registration,
};
use rustix::net::sockopt::socket_cookie;
use serde::{Deserialize, Serialize};

use super::{now, sealed_file};
use crate::registry;
use crate::server::{
    AliveSocket, Carried, CarriedNode, Daemon, Departed, Progress, ServedNode, UnderWay, hang_up,
};
use crate::settings::Settings;

/// Which form this is.
const FORMAT: u32 = 1;

/// Names that are kept of each kind that left, the last ones.
const LEFT_MAX: usize = 65_536;

/// How far claims of the next run are from those that are known: the run before may have had more.
const CLAIMS_APART: u64 = 1 << 16;

/// The first bytes of the file, before the length of the JSON in 8 bytes, the least significant first.
const MAGIC: &[u8; 8] = b"repmd up";

/// A daemon between two programs.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    format: u32,
    /// Of the program that wrote it.
    pub version: String,
    /// Who the daemon is.
    pub identity: Identity,
    /// Whether a hang-up asks to read the settings again.
    #[serde(default)]
    pub(super) reloads: bool,
    /// When nobody was served any more, by the clock of [`now`].
    frozen_at: Duration,
    pub(super) sockets: Sockets,
    nodes: Vec<NodeRecord>,
    departed: Vec<DepartedRecord>,
    next_claim: u64,
    under_way: Vec<UnderWayRecord>,
    releasing: Vec<NodeRecord>,
    departures: Vec<(String, Duration)>,
    creations: Vec<(String, u32)>,
    highest_forgotten: Option<u32>,
    offline: Vec<(String, u64)>,
    /// What follows the JSON.
    #[serde(skip)]
    rests: Vec<u8>,
}

/// What happened after a state was kept: a line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Registered(NodeRecord),
    Left {
        claim: u64,
        /// By the clock of [`now`].
        at: Duration,
    },
}

/// Who a daemon is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Identity {
    id: String,
    name: String,
    host: String,
    port: u16,
    /// Where the host's nodes are reached, as far as that is known.
    pub addresses: Vec<IpAddr>,
    aliases: Vec<String>,
}

/// Numbers of descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sockets {
    pub(super) wire: Vec<RawFd>,
    pub(super) dns_udp: Vec<RawFd>,
    pub(super) dns_tcp: Vec<RawFd>,
    pub(super) admin: Option<RawFd>,
    pub(super) outcome: RawFd,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    claim: u64,
    /// -1 for one whose connection has ended, or is not carried.
    fd: RawFd,
    /// What the kernel calls the connection, in whichever process: for a state that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cookie: Option<u64>,
    name: String,
    port: u16,
    advertised_port: u16,
    node_type: u8,
    protocol: u8,
    versions: [u16; 2],
    extra: Box<[u8]>,
    creation: u32,
    registered_at: Duration,
    /// How long ago the store kept it, if it did.
    renewed: Option<Duration>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DepartedRecord {
    name: String,
    port: u16,
    fd: i32,
}

#[derive(Debug, Serialize, Deserialize)]
struct UnderWayRecord {
    fd: RawFd,
    port: u16,
    /// What it has sent, if it is told nothing yet.
    asked: Option<Vec<u8>>,
    /// Else how many of the bytes after the JSON it has yet to read, after those of the records before.
    unread: usize,
}

/// What a record of another program says that cannot be.
fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the state of the program before has {what}"))
}

fn name(text: &str) -> io::Result<AliveName> {
    AliveName::parse(text.as_bytes()).map_err(|error| wrong(&format!("a name that is none: {error}")))
}

fn creation(number: u32) -> io::Result<Creation> {
    Creation::new(number).ok_or_else(|| wrong(&format!("the creation {number}")))
}

impl Identity {
    fn of(instance: &Instance) -> Self {
        let Instance { id, name, host, aliases, addresses, port } = instance;
        Self {
            id: id.to_string(),
            name: name.clone(),
            host: host.to_string(),
            port: *port,
            addresses: addresses.clone(),
            aliases: aliases.iter().map(ToString::to_string).collect(),
        }
    }

    /// Tells this run from every other, in whichever program it goes on.
    ///
    /// # Errors
    /// When it is no number.
    pub fn id(&self) -> io::Result<InstanceId> {
        u128::from_str_radix(&self.id, 16).map(InstanceId).map_err(|_| wrong("an id that is none"))
    }

    /// Other names of the host.
    ///
    /// # Errors
    /// When one is none.
    pub fn aliases(&self) -> io::Result<Vec<HostId>> {
        let alias = |text: &String| HostId::parse(text).map_err(|_| wrong("an alias that is none"));
        self.aliases.iter().map(alias).collect()
    }
}

impl NodeRecord {
    pub(super) fn new(claim: u64, fd: RawFd, registration: &Registration, renewed: Option<Duration>) -> Self {
        let Registration { node, advertised_port, creation, instance: _, registered_at } = registration;
        Self {
            claim,
            fd,
            cookie: None,
            name: node.name.as_str().to_owned(),
            port: node.port,
            advertised_port: *advertised_port,
            node_type: node.node_type.0,
            protocol: node.protocol,
            versions: [node.highest_version, node.lowest_version],
            extra: node.extra.clone(),
            creation: creation.get(),
            registered_at: registered_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            renewed,
        }
    }

    pub(super) fn registration(&self, instance: &Arc<Instance>) -> io::Result<Arc<Registration>> {
        let [highest_version, lowest_version] = self.versions;
        Ok(Arc::new(Registration {
            node: Node {
                name: name(&self.name)?,
                port: self.port,
                node_type: NodeType(self.node_type),
                protocol: self.protocol,
                highest_version,
                lowest_version,
                extra: self.extra.clone(),
            },
            advertised_port: self.advertised_port,
            creation: creation(self.creation)?,
            instance: Arc::clone(instance),
            registered_at: SystemTime::UNIX_EPOCH
                .checked_add(self.registered_at)
                .ok_or_else(|| wrong("a time beyond all clocks"))?,
        }))
    }
}

impl DepartedRecord {
    fn read(&self) -> io::Result<Departed> {
        let Self { name: text, port, fd } = self;
        Ok(Departed { name: name(text)?, port: *port, fd: *fd })
    }
}

/// The line that says that a node has registered.
pub(super) fn registered(node: &ServedNode) -> io::Result<Vec<u8>> {
    let CarriedNode { claim, socket, registration } = node;
    let cookie = Some(socket_cookie(socket)?);
    let record = NodeRecord::new(*claim, socket.as_raw_fd(), registration, None);
    line(&Event::Registered(NodeRecord { cookie, ..record }))
}

/// The line that says that a node has left.
pub(super) fn left(claim: u64) -> io::Result<Vec<u8>> {
    line(&Event::Left { claim, at: now() })
}

fn line(event: &Event) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}

/// Leaves the last entry of each name, and no more than [`LEFT_MAX`]. Returns what had no room.
fn keep_last<T>(entries: &mut Vec<T>, name: impl Fn(&T) -> &String) -> Vec<T> {
    let mut names = HashSet::new();
    let mut kept: Vec<_> =
        entries.drain(..).rev().filter(|entry| names.insert(name(entry).clone())).collect();
    let forgotten = kept.split_off(kept.len().min(LEFT_MAX));
    kept.reverse();
    *entries = kept;
    forgotten
}

impl State {
    pub(super) fn new(
        daemon: &Daemon,
        carried: &Carried<Arc<AliveSocket>>,
        paused: Duration,
        reloads: bool,
        sockets: Sockets,
    ) -> Self {
        let registry::Carried { renewed, releasing, past } = daemon.registry().carried();
        let mut rests = Vec::new();
        let under_way = |UnderWay { socket, port, progress }: &UnderWay| {
            let (asked, unread) = match progress {
                Progress::Asked(received) => (Some(received.clone()), 0),
                Progress::Told(reply, written) => {
                    rests.extend_from_slice(&reply[*written..]);
                    (None, reply.len() - written)
                }
            };
            UnderWayRecord { fd: socket.as_raw_fd(), port: *port, asked, unread }
        };
        let under_way = carried.under_way.iter().map(under_way).collect();
        let node = |node: &CarriedNode<Arc<AliveSocket>>| {
            let renewed = renewed.get(&node.claim).copied();
            NodeRecord::new(node.claim, node.socket.as_raw_fd(), &node.registration, renewed)
        };
        let text = |name: &AliveName| name.as_str().to_owned();
        let departed = |departed: &Departed| {
            let Departed { name, port, fd } = departed;
            DepartedRecord { name: text(name), port: *port, fd: *fd }
        };
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: Identity::of(&daemon.registry().instance()),
            reloads,
            frozen_at: now().saturating_sub(paused),
            sockets,
            nodes: carried.nodes.iter().map(node).collect(),
            departed: carried.departed.iter().map(departed).collect(),
            next_claim: carried.next_claim,
            under_way,
            releasing: releasing
                .iter()
                .map(|lease| NodeRecord::new(lease.token.number, -1, &lease.registration, None))
                .collect(),
            departures: past.departures.iter().map(|(name, ago)| (text(name), *ago)).collect(),
            creations: past.creations.iter().map(|(name, creation)| (text(name), creation.get())).collect(),
            highest_forgotten: past.highest_forgotten.map(Creation::get),
            offline: past.offline.iter().map(|(name, second)| (text(name), *second)).collect(),
            rests,
        }
    }

    /// The state as another program reads it.
    pub(super) fn into_file(self) -> io::Result<File> {
        sealed_file(|file| self.write(file))
    }

    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let json = serde_json::to_vec(self)?;
        to.write_all(MAGIC)?;
        to.write_all(&(json.len() as u64).to_le_bytes())?;
        to.write_all(&json)?;
        to.write_all(&self.rests)
    }

    /// What the next run of the daemon is to know: its nodes, whose connections another process keeps.
    pub(super) fn to_keep(daemon: &Daemon, carried: &Carried<Arc<AliveSocket>>) -> Self {
        let sockets =
            Sockets { wire: Vec::new(), dns_udp: Vec::new(), dns_tcp: Vec::new(), admin: None, outcome: -1 };
        let mut state = Self::new(daemon, carried, Duration::ZERO, false, sockets);
        for (record, node) in state.nodes.iter_mut().zip(&carried.nodes) {
            record.cookie = socket_cookie(&node.socket).ok();
        }
        state
    }

    /// Reads a state that was kept, as it was when its daemon ended. What cannot be read of a single node is left out.
    pub(super) fn read_kept(from: &mut impl Read) -> io::Result<Self> {
        let mut state = Self::read(from)?;
        let paused = state.paused();
        state.departures.iter_mut().for_each(|(_, ago)| *ago += paused);
        state.follow_events();
        state.frozen_at = now();
        Ok(state)
    }

    /// Does to the state what the lines after it say.
    fn follow_events(&mut self) {
        let lines = std::mem::take(&mut self.rests);
        let mut nodes: BTreeMap<_, _> = self.nodes.drain(..).map(|node| (node.claim, node)).collect();
        let mut offline: HashMap<_, _> = self.offline.drain(..).collect();
        // What does not end is a line that the daemon had no time to write.
        for line in lines.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            match serde_json::from_slice(line) {
                Ok(Event::Registered(node)) => {
                    // No later life gets the creation of this one, if the clock made it: each has its second, and the
                    // daemon may have waited for the store for one.
                    let second = offline.entry(node.name.clone()).or_default();
                    *second = (*second + 1).max(node.registered_at.as_secs() + 2);
                    self.next_claim = self.next_claim.max(node.claim + 1);
                    nodes.insert(node.claim, node);
                }
                Ok(Event::Left { claim, at }) => {
                    let Some(node) = nodes.remove(&claim) else { continue };
                    let NodeRecord { name, port, fd, creation, .. } = node;
                    self.departed.push(DepartedRecord { name: name.clone(), port, fd });
                    self.departures.push((name.clone(), now().saturating_sub(at)));
                    self.creations.push((name, creation));
                }
                // Of a later version, or damaged: its node comes back by itself.
                Err(_) => {}
            }
        }
        self.nodes = nodes.into_values().collect();
        // For the others it is over.
        let second_of_now =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.offline = offline.into_iter().filter(|(_, second)| second_of_now <= *second).collect();
        keep_last(&mut self.departed, |departed| &departed.name);
        keep_last(&mut self.departures, |(name, _)| name);
        let forgotten = keep_last(&mut self.creations, |(name, _)| name).into_iter();
        let forgotten = forgotten.filter_map(|(_, number)| Creation::new(number));
        let counted = forgotten.filter(|creation| !creation.is_offline()).map(Creation::get);
        self.highest_forgotten = counted.chain(self.highest_forgotten).max();
    }

    /// Reads what a program of this or another version has written.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let (mut magic, mut length) = ([0; 8], [0; 8]);
        from.read_exact(&mut magic)?;
        from.read_exact(&mut length)?;
        if magic != *MAGIC {
            return Err(wrong("another form than every version knows"));
        }
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        if bytes.len() < length {
            return Err(wrong("no end"));
        }
        let rests = bytes.split_off(length);
        // Nothing else of another format can be relied on.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
            version: String,
        }
        let Format { format, version } = serde_json::from_slice(&bytes)?;
        if format != FORMAT {
            let what = format!("the format {format}, of repmd {version}; this one reads {FORMAT}");
            return Err(wrong(&what));
        }
        Ok(Self { rests, ..serde_json::from_slice(&bytes)? })
    }

    /// How many nodes this program could serve, with these settings: all of them.
    ///
    /// # Errors
    /// When something cannot be read, or the daemon would be another one.
    pub fn check(&self, settings: &Settings) -> Result<usize, String> {
        let Identity { name, host, port, .. } = &self.identity;
        for (what, before, now) in [
            ("host", host, &settings.host.to_string()),
            ("instance-name", name, &settings.instance_name),
            ("port", &port.to_string(), &settings.port.to_string()),
        ] {
            if before != now {
                return Err(format!("{what} was {before} and is {now}: only a restart changes that"));
            }
        }
        let id = self.identity.id().map_err(|error| error.to_string())?;
        let instance = Arc::new(Instance {
            id,
            name: name.clone(),
            host: settings.host.clone(),
            aliases: self.identity.aliases().map_err(|error| error.to_string())?,
            addresses: self.identity.addresses.clone(),
            port: *port,
        });
        self.registry(&instance).map_err(|error| error.to_string())?;
        let readable = |node: &&NodeRecord| node.registration(&instance).is_ok();
        Ok(self.nodes.iter().filter(readable).count())
    }

    /// What the registry goes on from, for a daemon that is `instance` now.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn registry(&self, instance: &Arc<Instance>) -> io::Result<registry::Carried> {
        let renewed = self.nodes.iter().filter_map(|node| Some((node.claim, node.renewed?)));
        let lease = |node: &NodeRecord| {
            let token = LeaseToken { instance: instance.id, number: node.claim };
            Ok(Lease { token, registration: node.registration(instance)? })
        };
        let departures = self.departures.iter().map(|(text, ago)| Ok((name(text)?, *ago)));
        let creations = self.creations.iter().map(|(text, number)| Ok((name(text)?, creation(*number)?)));
        let offline = self.offline.iter().map(|(text, second)| Ok((name(text)?, *second)));
        Ok(registry::Carried {
            renewed: renewed.collect::<HashMap<_, _>>(),
            releasing: self.releasing.iter().map(lease).collect::<io::Result<_>>()?,
            past: registry::CarriedPast {
                departures: departures.collect::<io::Result<_>>()?,
                creations: creations.collect::<io::Result<_>>()?,
                highest_forgotten: self.highest_forgotten.and_then(Creation::new),
                offline: offline.collect::<io::Result<_>>()?,
            },
        })
    }

    /// The nodes whose connections are among `sockets`. The other connections are shut down, so that their nodes come
    /// back by themselves.
    pub fn take_kept(&self, instance: &Arc<Instance>, sockets: Vec<OwnedFd>) -> Carried<OwnedFd> {
        let by_cookie = |socket: OwnedFd| Some((socket_cookie(&socket).ok()?, socket));
        let mut sockets: HashMap<_, _> = sockets.into_iter().filter_map(by_cookie).collect();
        let node = |node: &NodeRecord| {
            let registration = node.registration(instance).ok()?;
            let socket = sockets.remove(&node.cookie?)?;
            Some(CarriedNode { claim: node.claim, socket, registration })
        };
        let nodes = self.nodes.iter().filter_map(node).collect();
        sockets.values().for_each(hang_up);
        Carried {
            nodes,
            departed: self.departed.iter().filter_map(|departed| departed.read().ok()).collect(),
            next_claim: self.next_claim + CLAIMS_APART,
            under_way: Vec::new(),
        }
    }

    /// The nodes and connections, which this process takes over. To be called once.
    ///
    /// # Errors
    /// When something cannot be read, or was not left open.
    pub fn take_over(&self, instance: &Arc<Instance>) -> io::Result<Carried<OwnedFd>> {
        let node = |node: &NodeRecord| {
            let socket = repmd_sys::inherit(node.fd)?;
            Ok(CarriedNode { claim: node.claim, socket, registration: node.registration(instance)? })
        };
        let mut rests = self.rests.as_slice();
        let under_way = |record: &UnderWayRecord| {
            let UnderWayRecord { fd, port, asked, unread } = record;
            let progress = match asked {
                Some(received) => Progress::Asked(received.clone()),
                None => {
                    let (rest, others) = rests.split_at_checked(*unread).ok_or_else(|| wrong("no end"))?;
                    rests = others;
                    Progress::Told(Arc::new(rest.to_vec()), 0)
                }
            };
            Ok(UnderWay { socket: repmd_sys::inherit(*fd)?, port: *port, progress })
        };
        Ok(Carried {
            nodes: self.nodes.iter().map(node).collect::<io::Result<_>>()?,
            departed: self.departed.iter().map(DepartedRecord::read).collect::<io::Result<_>>()?,
            next_claim: self.next_claim,
            under_way: self.under_way.iter().map(under_way).collect::<io::Result<_>>()?,
        })
    }

    /// How long nobody has been served.
    #[must_use]
    pub fn paused(&self) -> Duration {
        now().saturating_sub(self.frozen_at)
    }
}

#[cfg(test)]
pub(super) mod tests;
