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
pub(super) mod tests {
    use super::*;
    use crate::settings::Values;
    use std::os::unix::net::UnixStream;

    /// As the first version of the format wrote it. Later versions must read it for as long as the format is 1.
    const FIRST: &str = r#"{"format":1,"version":"0.1.0","identity":{"id":"00000000000000000000000000000007","name":"i",
        "host":"a","port":4369,"addresses":["10.0.0.1"],"aliases":["a.example"]},"frozen_at":{"secs":1,"nanos":2},
        "sockets":{"wire":[3],"dns_udp":[],"dns_tcp":[],"admin":null,"outcome":4},
        "nodes":[{"claim":5,"fd":9,"name":"n","port":5000,"advertised_port":5001,"node_type":77,"protocol":0,
        "versions":[6,5],"extra":[1,2],"creation":77,"registered_at":{"secs":1800000000,"nanos":0},
        "renewed":{"secs":3,"nanos":0}}],"departed":[{"name":"d","port":1,"fd":8}],"next_claim":6,
        "under_way":[{"fd":10,"port":4369,"asked":[0],"unread":0},{"fd":11,"port":4369,"asked":null,"unread":2}],
        "releasing":[],"departures":[["d",{"secs":4,"nanos":0}]],"creations":[["d",70]],"highest_forgotten":60,
        "offline":[["o",1800000000]]}"#;

    fn read(json: &str, rests: &[u8]) -> io::Result<State> {
        let length = (json.len() as u64).to_le_bytes();
        State::read(&mut [MAGIC, length.as_slice(), json.as_bytes(), rests].concat().as_slice())
    }

    /// A state with one node, of claim 5.
    pub(in super::super) fn first() -> State {
        read(FIRST, b"").unwrap()
    }

    pub(in super::super) fn settings(host: &str) -> Settings {
        let flags = [("host", host.to_owned()), ("instance-name", "i".to_owned())];
        let values = Values::merge(&flags, &|_| None, None).unwrap();
        Settings::check(&values, 1000, &|_| Ok(false)).unwrap()
    }

    fn instance(state: &State) -> Arc<Instance> {
        Arc::new(Instance {
            id: state.identity.id().unwrap(),
            name: "i".to_owned(),
            host: HostId::parse("a").unwrap(),
            aliases: state.identity.aliases().unwrap(),
            addresses: state.identity.addresses.clone(),
            port: 4369,
        })
    }

    #[test]
    fn the_first_version_of_the_format_is_read_and_says_all_of_it() {
        let state = read(FIRST, b"xy").unwrap();
        assert_eq!(state.check(&settings("a")), Ok(1));
        let instance = instance(&state);
        let registry = state.registry(&instance).unwrap();
        assert_eq!(instance.id, InstanceId(7));
        assert_eq!(registry.renewed, HashMap::from([(5, Duration::from_secs(3))]));
        assert_eq!(registry.past.highest_forgotten.map(Creation::get), Some(60));
        assert_eq!(registry.past.creations, [(name("d").unwrap(), Creation::new(70).unwrap())]);
        let node = state.nodes[0].registration(&instance).unwrap();
        assert_eq!((node.node.port, node.advertised_port, node.creation.get()), (5000, 5001, 77));
        assert_eq!(*node.node.extra, [1, 2]);
    }

    #[test]
    fn members_that_this_version_does_not_know_are_ignored_and_other_formats_refused() {
        let newer = FIRST.replacen("\"next_claim\"", "\"later\":[{}],\"next_claim\"", 1);
        assert!(read(&newer, b"xy").is_ok());
        let other = FIRST.replacen("\"format\":1", "\"format\":2", 1).replace("identity", "who");
        let error = read(&other, b"").unwrap_err().to_string();
        assert!(error.contains("the format 2, of repmd 0.1.0; this one reads 1"), "{error}");
    }

    #[test]
    fn another_host_is_another_daemon() {
        let error = read(FIRST, b"xy").unwrap().check(&settings("b")).unwrap_err();
        assert_eq!(error, "host was a and is b: only a restart changes that");
    }

    #[test]
    fn what_is_cut_short_or_impossible_is_an_error_that_says_so() {
        let whole = [MAGIC, (FIRST.len() as u64).to_le_bytes().as_slice(), FIRST.as_bytes()].concat();
        for length in [0, 7, 12, 16, 100, whole.len() - 1] {
            assert!(State::read(&mut &whole[..length]).is_err(), "{length} bytes");
        }
        for (right, wrong) in [("\"name\":\"n\"", "\"name\":\"\""), ("\"creation\":77", "\"creation\":3")] {
            let state = read(&FIRST.replacen(right, wrong, 1), b"xy").unwrap();
            assert_eq!(state.check(&settings("a")), Ok(0), "{wrong}");
        }
        let beyond = FIRST.replacen("1800000000,\"nanos\"", "18446744073709551615,\"nanos\"", 1);
        assert_eq!(read(&beyond, b"xy").unwrap().check(&settings("a")), Ok(0));
    }

    /// What is kept of [`FIRST`], and happened after it.
    fn kept(lines: &str) -> State {
        let state = FIRST.replacen("\"fd\":9", "\"fd\":9,\"cookie\":90", 1);
        let length = (state.len() as u64).to_le_bytes();
        let file = [MAGIC, length.as_slice(), state.as_bytes(), lines.as_bytes()].concat();
        State::read_kept(&mut file.as_slice()).unwrap()
    }

    fn node_line(claim: u64, name: &str, creation: u32) -> String {
        format!(
            r#"{{"registered":{{"claim":{claim},"fd":12,"cookie":{},"name":"{name}","port":5002,"advertised_port":5002,
            "node_type":77,"protocol":0,"versions":[6,5],"extra":[],"creation":{creation},
            "registered_at":{{"secs":9000000000,"nanos":0}},"renewed":null}}}}"#,
            claim * 10
        )
        .replace("\n", "")
            + "\n"
    }

    #[test]
    fn lines_after_a_state_say_who_came_and_who_left() {
        let left = "{\"left\":{\"claim\":5,\"at\":{\"secs\":0,\"nanos\":0}}}\n";
        let lines = node_line(7, "m", 80) + left + &node_line(9, "n", 81) + "{\"left\":{\"claim\":44,";
        let state = kept(&lines);
        let nodes: Vec<_> = state.nodes.iter().map(|node| (node.claim, &*node.name, node.cookie)).collect();
        assert_eq!(nodes, [(7, "m", Some(70)), (9, "n", Some(90))]);
        assert_eq!(state.next_claim, 10);
        let departed: Vec<_> = state.departed.iter().map(|gone| (&*gone.name, gone.port, gone.fd)).collect();
        assert_eq!(departed, [("d", 1, 8), ("n", 5000, 9)]);
        assert_eq!(state.creations, [("d".to_owned(), 70), ("n".to_owned(), 77)]);
        let names: Vec<_> = state.departures.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["d", "n"]);
        // The clock's creation of that second is no other life's.
        let offline: HashMap<_, _> = state.offline.iter().cloned().collect();
        assert_eq!(offline["m"], 9_000_000_002);
    }

    #[test]
    fn a_line_that_cannot_be_read_costs_its_node_alone() {
        let good = node_line(7, "m", 80);
        for bad in ["\n", "{}\n", "{\"later\":{}}\n", "\u{0}\u{0}\n", "{\"registered\":{\"claim\":8}}\n"] {
            let state = kept(&format!("{bad}{good}"));
            assert_eq!(state.nodes.iter().map(|node| node.claim).collect::<Vec<_>>(), [5, 7], "{bad:?}");
        }
    }

    #[test]
    fn nodes_come_back_by_their_connections_and_other_connections_end() {
        let [(ours, mut node), (nobodys, mut other)] = [(); 2].map(|()| UnixStream::pair().unwrap());
        let mut state = kept(&node_line(7, "m", 80));
        state.nodes[0].cookie = Some(socket_cookie(&ours).unwrap());
        // Its connection ended meanwhile.
        state.nodes[1].cookie = Some(u64::MAX);
        let taken = state.take_kept(&instance(&state), vec![nobodys.into(), ours.into()]);
        assert_eq!(taken.nodes.iter().map(|node| node.claim).collect::<Vec<_>>(), [5]);
        assert!(8 < taken.next_claim, "those that were not written down are not given out again");
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
        node.set_nonblocking(true).unwrap();
        assert_eq!(node.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_was_kept_can_be_written_and_read_again_and_stays_as_large() {
        let lines: String = (0..1000)
            .map(|life| {
                node_line(100 + life, "m", 80)
                    + &format!(
                        "{{\"left\":{{\"claim\":{},\"at\":{{\"secs\":0,\"nanos\":0}}}}}}\n",
                        100 + life
                    )
            })
            .collect();
        let write = |state: &State| {
            let mut bytes = Vec::new();
            state.write(&mut bytes).unwrap();
            bytes
        };
        let once = write(&kept(&lines));
        assert!(once.len() < 2000, "{} bytes", once.len());
        let again = State::read_kept(&mut once.as_slice()).unwrap();
        assert_eq!((again.nodes.len(), again.next_claim), (1, 1100));
        assert_eq!(again.creations, [("d".to_owned(), 70), ("m".to_owned(), 80)]);
        // Each life has a second of its own, and none of them comes again.
        assert!(again.offline.contains(&("m".to_owned(), 9_000_001_001)), "{:?}", again.offline);
    }

    #[test]
    fn names_that_left_are_kept_within_bounds_and_the_highest_creation_of_the_others() {
        let mut names: Vec<_> = (0..=LEFT_MAX).map(|number| (number.to_string(), number)).collect();
        names.push(("0".to_owned(), 7));
        let forgotten = keep_last(&mut names, |(name, _)| name);
        assert_eq!(forgotten, [("1".to_owned(), 1)]);
        assert_eq!((names.len(), &names[0].1, names.last().map(|(_, last)| *last)), (LEFT_MAX, &2, Some(7)));
    }
}
