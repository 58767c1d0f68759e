//! What one daemon sees of the links of its nodes, and how it writes that down for others.
//!
//! A note is JSON: a later version may add members, which are skipped here. Addresses and nodes are in lists, and are
//! meant by their places there: a link takes some forty bytes.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use repmd_backend_api::NOTE_BYTES_MAX;
use serde::{Deserialize, Serialize};

/// The two ends of a connection, seen from one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl Ends {
    /// IPv4 is IPv4, however a socket writes it.
    pub(super) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { local: plain(local), remote: plain(remote) }
    }

    /// The same, seen from the other end.
    pub(super) fn reversed(self) -> Self {
        Self { local: self.remote, remote: self.local }
    }

    pub(super) fn has_port_of(&self, ports: &HashSet<u16>) -> bool {
        ports.contains(&self.local.port()) || ports.contains(&self.remote.port())
    }

    /// Whether it does not leave the machine, so that another machine may have the same.
    pub(super) fn is_at_loopback(&self) -> bool {
        self.local.ip().is_loopback() || self.remote.ip().is_loopback()
    }
}

/// Whose a socket is, as far as the kernel says it to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) uid: u32,
    /// Each container and each unit of systemd has one of its own. `/proc` does not say it.
    pub(super) cgroup: Option<u64>,
}

/// How well a connection works, by the kernel's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quality {
    /// The smoothed time to the other end and back.
    pub(crate) rtt: Duration,
    /// Segments that were sent again since the connection was made.
    pub(crate) retransmits: u32,
    /// How often in a row the oldest segment was sent again, and nothing came back.
    pub(crate) unanswered: u8,
}

/// Who says which connections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// `NETLINK_SOCK_DIAG`.
    Netlink,
    /// `/proc/net/tcp`, which knows neither the round-trip time nor control groups.
    Proc,
}

/// What a daemon sees of its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Which look of this run of the daemon.
    pub(super) sample: u64,
    /// `Err`: why no connection can be seen.
    pub(super) source: Result<Source, String>,
    pub(super) nodes: Vec<Sighted>,
    /// Connections to the ports of its nodes.
    pub(super) incoming: Vec<Incoming>,
    /// Connections from its nodes, or from nobody who is registered, to the ports of nodes.
    pub(super) outgoing: Vec<Outgoing>,
}

/// A node of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sighted {
    pub(super) name: String,
    pub(super) creation: u32,
    /// Whether its connections can be seen: it is in the daemon's network namespace.
    pub(super) is_seen: bool,
    /// Whether it is no hidden node, where that was asked.
    pub(super) is_published: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    /// The place of the node among the nodes.
    pub(super) node: usize,
    pub(super) ends: Ends,
    pub(super) quality: Option<Quality>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// The places of the nodes that may have dialled; empty: nobody who is registered here.
    pub(super) nodes: Vec<usize>,
    pub(super) ends: Ends,
    pub(super) quality: Option<Quality>,
}

/// Why a note cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoteError {
    #[error("{0} bytes, where a note has {NOTE_BYTES_MAX} at most")]
    TooLong(usize),
    #[error("not written by a version of repmd that this one knows")]
    Version,
    #[error("it speaks of what it does not have")]
    Place,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

const VERSION: u32 = 1;

/// Where the local end is, and the remote one, by the places of their addresses; the round-trip time in microseconds,
/// segments sent again, and how often the last one was.
type Row = (usize, u16, usize, u16, Option<(u32, u32, u8)>);

#[derive(Serialize, Deserialize)]
struct Body {
    version: u32,
    sample: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    nodes: Vec<(String, u32, bool, Option<bool>)>,
    addresses: Vec<IpAddr>,
    incoming: Vec<(usize, Row)>,
    outgoing: Vec<(Vec<usize>, Row)>,
}

impl Report {
    /// The note. Where it would be too long, the nodes with the most links are not seen any longer, until it fits.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut report = self.clone();
        loop {
            let text =
                serde_json::to_vec(&Body::of(&report)).expect("lists of numbers and texts have a JSON form");
            if text.len() <= NOTE_BYTES_MAX || !report.leave_one_out() {
                return text;
            }
        }
    }

    /// Takes the links of half of the nodes that are seen out of the report. `false`: there is nothing left.
    fn leave_one_out(&mut self) -> bool {
        let seen: Vec<_> = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_seen).collect();
        if seen.is_empty() {
            let had_some = !(self.incoming.is_empty() && self.outgoing.is_empty() && self.nodes.is_empty());
            (self.incoming, self.outgoing, self.nodes) = Default::default();
            return had_some;
        }
        let out: HashSet<_> = seen[seen.len() / 2..].iter().copied().collect();
        out.iter().for_each(|node| self.nodes[*node].is_seen = false);
        self.incoming.retain(|link| !out.contains(&link.node));
        self.outgoing.retain(|link| !link.nodes.iter().any(|node| out.contains(node)));
        true
    }

    /// Reads a note, which anybody may have written who can write to the store.
    pub(super) fn decode(text: &[u8]) -> Result<Self, NoteError> {
        if NOTE_BYTES_MAX < text.len() {
            return Err(NoteError::TooLong(text.len()));
        }
        let body: Body = serde_json::from_slice(text)?;
        if body.version != VERSION {
            return Err(NoteError::Version);
        }
        let address = |place: usize| body.addresses.get(place).copied().ok_or(NoteError::Place);
        let read = |(local, local_port, remote, remote_port, quality): Row| {
            let ends = Ends::new(
                SocketAddr::new(address(local)?, local_port),
                SocketAddr::new(address(remote)?, remote_port),
            );
            let quality = quality.map(|(rtt, retransmits, unanswered)| Quality {
                rtt: Duration::from_micros(rtt.into()),
                retransmits,
                unanswered,
            });
            Ok::<_, NoteError>((ends, quality))
        };
        let is_node = |node: usize| if node < body.nodes.len() { Ok(node) } else { Err(NoteError::Place) };
        let incoming = body.incoming.iter().map(|(node, row)| {
            let (ends, quality) = read(*row)?;
            Ok(Incoming { node: is_node(*node)?, ends, quality })
        });
        let outgoing = body.outgoing.iter().map(|(nodes, row)| {
            let (ends, quality) = read(*row)?;
            let nodes = nodes.iter().map(|node| is_node(*node)).collect::<Result<_, _>>()?;
            Ok(Outgoing { nodes, ends, quality })
        });
        Ok(Self {
            sample: body.sample,
            incoming: incoming.collect::<Result<_, NoteError>>()?,
            outgoing: outgoing.collect::<Result<_, NoteError>>()?,
            source: match (body.source, body.trouble) {
                (Some(source), None) => Ok(source),
                (_, trouble) => Err(trouble.unwrap_or_default().chars().take(300).collect()),
            },
            nodes: body
                .nodes
                .into_iter()
                .map(|(name, creation, is_seen, is_published)| Sighted {
                    name,
                    creation,
                    is_seen,
                    is_published,
                })
                .collect(),
        })
    }
}

impl Body {
    fn of(report: &Report) -> Self {
        let mut addresses = Addresses::default();
        let mut row = |ends: &Ends, quality: Option<Quality>| {
            let quality = quality.map(|quality| {
                let rtt = u32::try_from(quality.rtt.as_micros()).unwrap_or(u32::MAX);
                (rtt, quality.retransmits, quality.unanswered)
            });
            let (local, remote) = (addresses.place(ends.local.ip()), addresses.place(ends.remote.ip()));
            (local, ends.local.port(), remote, ends.remote.port(), quality)
        };
        let incoming =
            report.incoming.iter().map(|link| (link.node, row(&link.ends, link.quality))).collect();
        let outgoing =
            report.outgoing.iter().map(|link| (link.nodes.clone(), row(&link.ends, link.quality))).collect();
        Self {
            version: VERSION,
            sample: report.sample,
            source: report.source.as_ref().ok().copied(),
            trouble: report.source.as_ref().err().cloned(),
            nodes: report
                .nodes
                .iter()
                .map(|node| (node.name.clone(), node.creation, node.is_seen, node.is_published))
                .collect(),
            addresses: addresses.list,
            incoming,
            outgoing,
        }
    }
}

#[derive(Default)]
struct Addresses {
    list: Vec<IpAddr>,
    places: HashMap<IpAddr, usize>,
}

impl Addresses {
    fn place(&mut self, address: IpAddr) -> usize {
        *self.places.entry(address).or_insert_with(|| {
            self.list.push(address);
            self.list.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(local: &str, remote: &str) -> Ends {
        Ends::new(local.parse().unwrap(), remote.parse().unwrap())
    }

    fn report(nodes: usize, links: usize) -> Report {
        let quality = Quality { rtt: Duration::from_micros(312), retransmits: 2, unanswered: 1 };
        let sighted = |node| Sighted {
            name: format!("n{node} \"é\""),
            creation: u32::MAX,
            is_seen: true,
            is_published: [None, Some(node % 2 == 0)][node % 3 % 2],
        };
        let row = |link: usize| {
            ends(&format!("10.0.0.1:{}", link % 60_000), &format!("[fd00::{:x}]:9100", link / 60_000 + 1))
        };
        Report {
            sample: 7,
            source: Ok(Source::Netlink),
            nodes: (0..nodes).map(sighted).collect(),
            incoming: (0..links)
                .map(|link| Incoming { node: link % nodes, ends: row(link), quality: Some(quality) })
                .collect(),
            outgoing: vec![Outgoing {
                nodes: (0..nodes.min(2)).collect(),
                ends: ends("[::ffff:10.0.0.1]:4000", "10.0.0.2:9100"),
                quality: None,
            }],
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let report = report(3, 100);
        assert_eq!(Report::decode(&report.encode()).unwrap(), report);
        let blind = Report { source: Err("no".to_owned()), ..report };
        assert_eq!(Report::decode(&blind.encode()).unwrap(), blind);
    }

    #[test]
    fn a_note_that_would_be_too_long_leaves_nodes_out_and_says_so() {
        let long = report(50, 20_000);
        let text = long.encode();
        assert!(text.len() <= NOTE_BYTES_MAX);
        let read = Report::decode(&text).unwrap();
        let seen = read.nodes.iter().filter(|node| node.is_seen).count();
        assert!((1..50).contains(&seen), "{seen}");
        assert_eq!(read.nodes.len(), 50);
        assert!(read.incoming.iter().all(|link| read.nodes[link.node].is_seen));
        let names = Report { incoming: Vec::new(), ..report(30_000, 0) };
        assert!(names.encode().len() <= NOTE_BYTES_MAX);
    }

    #[test]
    fn whatever_a_store_holds_is_refused_or_read_and_never_a_panic() {
        let text = report(2, 3).encode();
        for at in 0..text.len() {
            let _ = Report::decode(&text[..at]);
            for byte in [0, b'9', b'"', b'[', 0xff] {
                let mut other = text.clone();
                other[at] = byte;
                if let Ok(read) = Report::decode(&other) {
                    assert!(read.incoming.iter().all(|link| link.node < read.nodes.len()));
                }
            }
        }
        let of = |version: &str| {
            format!(
                r#"{{"version":{version},"sample":1,"nodes":[],"addresses":[],"incoming":[],"outgoing":[],"new":1}}"#
            )
        };
        assert!(Report::decode(of("1").as_bytes()).is_ok());
        assert!(matches!(Report::decode(of("2").as_bytes()), Err(NoteError::Version)));
        let far = br#"{"version":1,"sample":1,"nodes":[],"addresses":[],"incoming":[[0,[0,1,0,1,null]]],"outgoing":[]}"#;
        assert!(matches!(Report::decode(far), Err(NoteError::Place)));
        assert!(matches!(Report::decode(&vec![b' '; NOTE_BYTES_MAX + 1]), Err(NoteError::TooLong(_))));
    }
}
