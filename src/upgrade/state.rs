//! The state of a daemon in a form that other versions of the program read.
//!
//! JSON, whose objects may get members that older versions do not know; [`FORMAT`] changes where that is not enough. The
//! rests of long replies follow it as bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use repmd_backend_api::{
    AliveName, Creation, HostId, Instance, InstanceId, Lease, LeaseToken, Node, NodeType, Registration,
};
use serde::{Deserialize, Serialize};

use super::{now, sealed_file};
use crate::registry;
use crate::server::{AliveSocket, Carried, CarriedNode, Daemon, Departed, Progress, UnderWay};
use crate::settings::Settings;

/// Which form this is.
const FORMAT: u32 = 1;

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
struct NodeRecord {
    claim: u64,
    /// -1 for one whose connection has ended.
    fd: RawFd,
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
    fn new(claim: u64, fd: RawFd, registration: &Registration, renewed: Option<Duration>) -> Self {
        let Registration { node, advertised_port, creation, instance: _, registered_at } = registration;
        Self {
            claim,
            fd,
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

    fn registration(&self, instance: &Arc<Instance>) -> io::Result<Arc<Registration>> {
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
        let json = serde_json::to_vec(&self)?;
        sealed_file(|file| {
            file.write_all(MAGIC)?;
            file.write_all(&(json.len() as u64).to_le_bytes())?;
            file.write_all(&json)?;
            file.write_all(&self.rests)
        })
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

    /// The nodes and connections, which this process takes over. To be called once.
    ///
    /// # Errors
    /// When something cannot be read, or was not left open.
    pub fn take_over(&self, instance: &Arc<Instance>) -> io::Result<Carried<OwnedFd>> {
        let node = |node: &NodeRecord| {
            let socket = repmd_sys::inherit(node.fd)?;
            Ok(CarriedNode { claim: node.claim, socket, registration: node.registration(instance)? })
        };
        let departed = |departed: &DepartedRecord| {
            let DepartedRecord { name: text, port, fd } = departed;
            Ok(Departed { name: name(text)?, port: *port, fd: *fd })
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
            departed: self.departed.iter().map(departed).collect::<io::Result<_>>()?,
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
mod tests {
    use super::*;
    use crate::settings::Values;

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

    fn settings(host: &str) -> Settings {
        let flags = [("host", host.to_owned()), ("instance-name", "i".to_owned())];
        let values = Values::merge(&flags, &|_| None, None).unwrap();
        Settings::check(&values, 1000, &|_| Ok(false)).unwrap()
    }

    #[test]
    fn the_first_version_of_the_format_is_read_and_says_all_of_it() {
        let state = read(FIRST, b"xy").unwrap();
        assert_eq!(state.check(&settings("a")), Ok(1));
        let instance = Arc::new(Instance {
            id: state.identity.id().unwrap(),
            name: "i".to_owned(),
            host: HostId::parse("a").unwrap(),
            aliases: state.identity.aliases().unwrap(),
            addresses: state.identity.addresses.clone(),
            port: 4369,
        });
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
}
