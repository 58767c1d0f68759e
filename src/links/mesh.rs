//! Who is linked with whom, as the reports of all daemons have it together.
//!
//! Nothing here is guessed: a link whose dialler is one of several stays one of several, and a pair of nodes is missing
//! only if both are seen and nothing that is seen could be their link.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use repmd_backend_api::{HostId, InstanceId, NodeType, Registration};

use super::report::{Ends, Quality, Report};

/// Pairs that are told apart as missing; more are counted.
const MISSING_MAX: usize = 10_000;

/// The links of the cluster.
#[derive(Debug, Default)]
pub struct Mesh {
    /// By host and name.
    pub(crate) nodes: Vec<MeshNode>,
    pub(crate) links: Vec<Link>,
    /// Pairs of nodes that should have a link, and have none. The first is before the second.
    pub(crate) missing: Vec<(usize, usize)>,
    /// Nodes of which it matters whether they are hidden, and nobody has told.
    pub(super) to_ask: HashSet<usize>,
    /// How many such pairs there are.
    pub(crate) missing_count: usize,
}

/// A node, and how it is seen.
#[derive(Debug)]
pub(crate) struct MeshNode {
    pub(crate) registration: Arc<Registration>,
    pub(crate) sight: Sight,
    /// Whether it is no hidden node, where that is known: most hidden nodes are registered as others are.
    pub(crate) is_published: Option<bool>,
    /// The number of the look that shows it.
    pub(super) sample: u64,
    /// It is one of these who are linked with each other.
    pub(crate) group: Option<usize>,
}

/// Whether the links of a node can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    Seen,
    /// Its daemon does not tell, or not yet.
    Untold,
    /// Its daemon does not see it: it is in another network namespace, or has more links than can be told.
    Hidden,
    /// Its daemon sees no connection at all.
    Blind(String),
}

/// A connection between nodes.
#[derive(Debug)]
pub(crate) struct Link {
    /// Who dialled: one, or one of several. Empty: nobody who is registered, as far as anybody sees.
    pub(crate) from: Vec<usize>,
    pub(crate) from_address: SocketAddr,
    pub(crate) to: usize,
    /// What its ends say, if they see it.
    pub(crate) ends: [Option<Option<Quality>>; 2],
    /// One end does not see it, and should.
    pub(crate) is_one_ended: bool,
}

impl Link {
    /// Its two nodes, the first in order first, if it is known who dialled.
    pub(crate) fn pair(&self) -> Option<(usize, usize)> {
        match self.from[..] {
            [from] if from != self.to => Some((from.min(self.to), from.max(self.to))),
            _ => None,
        }
    }
}

/// What tells a node's life from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LifeId(u64);

impl MeshNode {
    pub(super) fn life(&self) -> LifeId {
        let Registration { node, creation, instance, .. } = &*self.registration;
        let mut hasher = DefaultHasher::new();
        (instance.id.0, node.name.as_str(), creation.get()).hash(&mut hasher);
        LifeId(hasher.finish())
    }

    /// Whether it is no hidden node, as far as is known.
    pub(crate) fn is_ordinary(&self) -> bool {
        self.registration.node.node_type == NodeType::NORMAL && self.is_published != Some(false)
    }

    /// Whether it may be one that others link with by themselves, and its links are seen.
    pub(super) fn counts(&self) -> bool {
        self.is_ordinary() && self.sight == Sight::Seen
    }

    pub(crate) fn host(&self) -> &HostId {
        &self.registration.instance.host
    }
}

/// What is known of connections that may be those of a pair.
#[derive(Debug, Default)]
struct Doubts {
    pairs: HashSet<(usize, usize)>,
    /// Somebody of the hosts at this address, or with `None` anybody, has dialled the node.
    callers: HashMap<usize, HashSet<Option<IpAddr>>>,
    /// The node has dialled somebody at this port.
    called: HashSet<(usize, u16)>,
}

/// A connection, told apart from the same one of another machine.
type Place = (Option<HostId>, Ends);

fn place(of: &HostId, ends: Ends) -> Place {
    (ends.is_at_loopback().then(|| of.clone()), ends)
}

impl Mesh {
    /// The links of these nodes, as the daemons' reports have them.
    pub(super) fn new(mut all: Vec<Arc<Registration>>, reports: &HashMap<InstanceId, Report>) -> Self {
        let key =
            |node: &Registration| (node.instance.host.clone(), node.node.name.clone(), node.instance.id);
        all.sort_by_cached_key(|node| key(node));
        all.dedup_by(|one, other| key(one) == key(other));
        let mut places = HashMap::new();
        for (number, node) in all.iter().enumerate() {
            places.insert((node.instance.id, node.node.name.as_str().to_owned()), number);
        }
        // The place of each node of each report, as long as it is the same life of it.
        let of_report = |instance: InstanceId, report: &Report| -> Vec<Option<usize>> {
            let find = |node: &super::report::Sighted| {
                let place = *places.get(&(instance, node.name.clone()))?;
                (all[place].creation.get() == node.creation).then_some(place)
            };
            report.nodes.iter().map(find).collect()
        };
        let told: Vec<_> = reports
            .iter()
            .filter_map(|(instance, report)| {
                let nodes = of_report(*instance, report);
                // A daemon without nodes sees no links.
                let host = all[*nodes.iter().flatten().next()?].instance.host.clone();
                Some((host, report, nodes))
            })
            .collect();
        let mut nodes: Vec<_> = all
            .iter()
            .map(|registration| MeshNode {
                registration: Arc::clone(registration),
                sight: Sight::Untold,
                is_published: None,
                sample: 0,
                group: None,
            })
            .collect();
        for (_, report, numbers) in &told {
            for (sighted, number) in report.nodes.iter().zip(numbers) {
                let Some(number) = *number else { continue };
                nodes[number].sample = report.sample;
                nodes[number].is_published = sighted.is_published;
                nodes[number].sight = match &report.source {
                    Err(reason) => Sight::Blind(reason.clone()),
                    Ok(_) if sighted.is_seen => Sight::Seen,
                    Ok(_) => Sight::Hidden,
                };
            }
        }
        let mut mesh = Self { nodes, ..Self::default() };
        let doubts = mesh.link(&told);
        mesh.find_missing(&doubts);
        mesh
    }

    /// Puts the two ends of each connection together.
    fn link(&mut self, told: &[(HostId, &Report, Vec<Option<usize>>)]) -> Doubts {
        let mut doubts = Doubts::default();
        let mut heard = HashMap::<Place, (usize, Option<Quality>)>::new();
        for (host, report, numbers) in told {
            for link in &report.incoming {
                let Some(node) = numbers[link.node] else { continue };
                heard.insert(place(host, link.ends.reversed()), (node, link.quality));
            }
        }
        let listeners = Listeners::new(&self.nodes);
        for (host, report, numbers) in told {
            for link in &report.outgoing {
                let mut from: Vec<_> = link.nodes.iter().filter_map(|node| numbers[*node]).collect();
                // One of them has gone since, and may have been the one.
                let is_sure = from.len() == link.nodes.len();
                let (to, heard_by) = match heard.remove(&place(host, link.ends)) {
                    Some((to, quality)) => (Some(to), Some(quality)),
                    None => (listeners.at(host, link.ends.remote), None),
                };
                let Some(to) = to else {
                    doubts.called.extend(from.iter().map(|from| (*from, link.ends.remote.port())));
                    continue;
                };
                from.retain(|from| *from != to);
                if !is_sure || 1 < from.len() {
                    doubts.pairs.extend(from.iter().map(|from| (*from.min(&to), *from.max(&to))));
                }
                if !is_sure && from.len() == 1 {
                    from.clear();
                }
                self.links.push(Link {
                    from,
                    from_address: link.ends.local,
                    to,
                    ends: [Some(link.quality), heard_by],
                    is_one_ended: heard_by.is_none() && self.nodes[to].sight == Sight::Seen,
                });
            }
        }
        for ((_, ends), (to, quality)) in heard {
            let address = ends.local.ip();
            let is_known = listeners.addresses.contains(&address);
            doubts.callers.entry(to).or_default().insert(is_known.then_some(address));
            let is_one_ended = self.nodes.iter().any(|node| {
                node.sight == Sight::Seen && node.registration.instance.addresses.contains(&address)
            });
            self.links.push(Link {
                from: Vec::new(),
                from_address: ends.local,
                to,
                ends: [None, Some(quality)],
                is_one_ended,
            });
        }
        self.links.sort_unstable_by(|one, other| {
            let key =
                |link: &Link| (link.from.first().copied().unwrap_or(usize::MAX), link.to, link.from_address);
            key(one).cmp(&key(other))
        });
        doubts
    }

    /// Which pairs have no link, in groups where nearly all have one.
    fn find_missing(&mut self, doubts: &Doubts) {
        let count = self.nodes.len();
        let mut neighbours = vec![HashSet::new(); count];
        let mut roots: Vec<usize> = (0..count).collect();
        for (one, other) in self.links.iter().filter_map(Link::pair) {
            if self.nodes[one].counts() && self.nodes[other].counts() {
                neighbours[one].insert(other);
                neighbours[other].insert(one);
                let (one, other) = (root(&mut roots, one), root(&mut roots, other));
                roots[one.max(other)] = one.min(other);
            }
        }
        let mut groups = HashMap::<usize, Vec<usize>>::new();
        for node in (0..count).filter(|node| !neighbours[*node].is_empty()) {
            groups.entry(root(&mut roots, node)).or_default().push(node);
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_unstable();
        for (number, members) in groups.iter().enumerate() {
            members.iter().for_each(|node| self.nodes[*node].group = Some(number));
            let links: usize = members.iter().map(|node| neighbours[*node].len()).sum();
            let (links, pairs) = (links / 2, members.len() * (members.len() - 1) / 2);
            // Where fewer than half of the pairs are linked, nobody meant to be linked with all.
            if pairs == links || links * 2 <= pairs {
                continue;
            }
            for (place, one) in members.iter().enumerate() {
                if neighbours[*one].len() + 1 == members.len() {
                    continue;
                }
                for other in &members[place + 1..] {
                    if neighbours[*one].contains(other) || doubts.may_be(&self.nodes, *one, *other) {
                        continue;
                    }
                    let unknown =
                        [*one, *other].into_iter().filter(|node| self.nodes[*node].is_published.is_none());
                    let unknown: Vec<_> = unknown.collect();
                    if !unknown.is_empty() {
                        self.to_ask.extend(unknown);
                        continue;
                    }
                    self.missing_count += 1;
                    if self.missing.len() < MISSING_MAX {
                        self.missing.push((*one, *other));
                    }
                }
            }
        }
    }

    /// The pairs that have a link, of nodes that count.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let counts = |(one, other): &(usize, usize)| self.nodes[*one].counts() && self.nodes[*other].counts();
        self.links.iter().filter_map(Link::pair).filter(counts)
    }
}

fn root(roots: &mut [usize], mut node: usize) -> usize {
    while roots[node] != node {
        roots[node] = roots[roots[node]];
        node = roots[node];
    }
    node
}

impl Doubts {
    /// Whether a connection that is seen may be that of these two.
    fn may_be(&self, nodes: &[MeshNode], one: usize, other: usize) -> bool {
        let called = |from: usize, to: usize| {
            let Registration { node, advertised_port, .. } = &*nodes[to].registration;
            [node.port, *advertised_port].iter().any(|port| self.called.contains(&(from, *port)))
        };
        let calls = |from: usize, to: usize| {
            let addresses = &nodes[from].registration.instance.addresses;
            self.callers.get(&to).is_some_and(|callers| {
                callers.iter().any(|caller| caller.is_none_or(|address| addresses.contains(&address)))
            })
        };
        self.pairs.contains(&(one, other))
            || called(one, other)
            || called(other, one)
            || calls(one, other)
            || calls(other, one)
    }
}

/// Who listens where, as the daemons tell it.
struct Listeners {
    at: HashMap<SocketAddr, Vec<usize>>,
    on_host: HashMap<(HostId, u16), Vec<usize>>,
    addresses: HashSet<IpAddr>,
}

impl Listeners {
    fn new(nodes: &[MeshNode]) -> Self {
        let mut listeners = Self { at: HashMap::new(), on_host: HashMap::new(), addresses: HashSet::new() };
        for (number, MeshNode { registration, .. }) in nodes.iter().enumerate() {
            let Registration { node, advertised_port, instance, .. } = &**registration;
            let ports: HashSet<u16> = [node.port, *advertised_port].into();
            for address in &instance.addresses {
                listeners.addresses.insert(*address);
                for port in &ports {
                    listeners.at.entry(SocketAddr::new(*address, *port)).or_default().push(number);
                }
            }
            listeners.on_host.entry((instance.host.clone(), node.port)).or_default().push(number);
        }
        listeners
    }

    /// The one node that listens there, seen from `host`.
    fn at(&self, host: &HostId, address: SocketAddr) -> Option<usize> {
        let found = if address.ip().is_loopback() {
            self.on_host.get(&(host.clone(), address.port()))
        } else {
            self.at.get(&address)
        };
        match found?[..] {
            [one] => Some(one),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Incoming, Outgoing, Sighted, Source};
    use super::super::testing::{hidden, registration};
    use super::*;

    /// Hosts `a`, `b` and so on, at 10.0.0.1 and so on, with nodes at the ports from 9100 on.
    struct Hosts {
        nodes: Vec<Arc<Registration>>,
        reports: HashMap<InstanceId, Report>,
        next_port: u16,
    }

    impl Hosts {
        fn new(nodes: &[Arc<Registration>]) -> Self {
            let mut reports = HashMap::<InstanceId, Report>::new();
            for node in nodes {
                let report = reports.entry(node.instance.id).or_insert_with(|| Report {
                    sample: 1,
                    source: Ok(Source::Netlink),
                    nodes: Vec::new(),
                    incoming: Vec::new(),
                    outgoing: Vec::new(),
                });
                let (name, creation) = (node.node.name.as_str().to_owned(), node.creation.get());
                report.nodes.push(Sighted { name, creation, is_seen: true, is_published: Some(true) });
            }
            Self { nodes: nodes.to_vec(), reports, next_port: 40_000 }
        }

        fn report(&mut self, node: usize) -> (&mut Report, usize) {
            let node = &self.nodes[node];
            let report = self.reports.get_mut(&node.instance.id).unwrap();
            let at = report.nodes.iter().position(|sighted| sighted.name == node.node.name.as_str()).unwrap();
            (report, at)
        }

        fn ends(&mut self, from: usize, to: usize) -> Ends {
            self.next_port += 1;
            let address = |node: &Registration| node.instance.addresses[0];
            let (from, to) = (&self.nodes[from], &self.nodes[to]);
            Ends::new((address(from), self.next_port).into(), (address(to), to.node.port).into())
        }

        /// One of `from` dials `to`, and both ends see it.
        fn link(&mut self, from: &[usize], to: usize) {
            let ends = self.ends(from[0], to);
            let nodes = from.iter().map(|from| self.report(*from).1).collect();
            self.report(from[0]).0.outgoing.push(Outgoing { nodes, ends, quality: None });
            self.hear(to, ends);
        }

        fn hear(&mut self, to: usize, ends: Ends) {
            let (report, node) = self.report(to);
            report.incoming.push(Incoming { node, ends: ends.reversed(), quality: None });
        }

        fn mesh(&self) -> Mesh {
            Mesh::new(self.nodes.clone(), &self.reports)
        }
    }

    /// A node on each of as many hosts.
    fn hosts(count: usize) -> Hosts {
        let nodes: Vec<_> =
            (0..count).map(|host| registration(["a", "b", "c", "d"][host], "n", 9100)).collect();
        Hosts::new(&nodes)
    }

    #[test]
    fn a_full_mesh_misses_nothing_and_a_cut_one_misses_the_pair() {
        let mut hosts = hosts(3);
        hosts.link(&[0], 1);
        hosts.link(&[2], 1);
        let mesh = hosts.mesh();
        assert_eq!(mesh.missing, [(0, 2)]);
        assert_eq!(mesh.pairs().collect::<Vec<_>>(), [(0, 1), (1, 2)]);
        assert!(mesh.links.iter().all(|link| !link.is_one_ended));
        hosts.link(&[2], 0);
        assert_eq!(hosts.mesh().missing, []);
    }

    #[test]
    fn nothing_is_missing_where_a_node_is_not_seen_or_hidden() {
        let mut unseen = hosts(3);
        unseen.link(&[0], 1);
        unseen.link(&[2], 1);
        unseen.report(2).0.nodes[0].is_seen = false;
        let mesh = unseen.mesh();
        assert_eq!((mesh.missing.len(), &mesh.nodes[2].sight), (0, &Sight::Hidden));
        let gone = unseen.nodes[2].instance.id;
        unseen.reports.remove(&gone);
        let mesh = unseen.mesh();
        assert_eq!((mesh.missing.len(), &mesh.nodes[2].sight), (0, &Sight::Untold));
        // The other end has told of it all the same, though nobody says who dialled.
        assert_eq!(mesh.links.len(), 2);
        let nodes = [registration("a", "n", 9100), registration("b", "n", 9100), hidden("c", "n", 9100)];
        let mut hidden = Hosts::new(&nodes);
        hidden.link(&[0], 1);
        hidden.link(&[2], 1);
        assert_eq!(hidden.mesh().missing, []);
    }

    #[test]
    fn a_node_is_missed_only_once_it_has_said_that_it_is_no_hidden_one() {
        let mut hosts = hosts(3);
        hosts.link(&[0], 1);
        hosts.link(&[2], 1);
        for (is_published, missing, to_ask) in [(Some(true), 1, 0), (None, 0, 1), (Some(false), 0, 0)] {
            hosts.report(2).0.nodes[0].is_published = is_published;
            let mesh = hosts.mesh();
            assert_eq!((mesh.missing.len(), mesh.to_ask.len()), (missing, to_ask), "{is_published:?}");
        }
    }

    #[test]
    fn a_hub_is_no_mesh() {
        let mut hosts = hosts(4);
        (1..4).for_each(|spoke| hosts.link(&[spoke], 0));
        let mesh = hosts.mesh();
        assert_eq!((mesh.missing.len(), mesh.links.len()), (0, 3));
    }

    #[test]
    fn what_may_be_the_link_of_a_pair_keeps_it_from_being_missing() {
        let two_on_a =
            [registration("a", "m", 9101), registration("a", "n", 9100), registration("b", "n", 9100)];
        let mut hosts = Hosts::new(&two_on_a);
        hosts.link(&[0], 1);
        hosts.link(&[0], 2);
        assert_eq!(hosts.mesh().missing, [(1, 2)]);
        hosts.link(&[0, 1], 2);
        let mesh = hosts.mesh();
        assert_eq!(mesh.missing, []);
        assert_eq!(mesh.links.iter().filter(|link| link.from.len() == 2).count(), 1);
        // Somebody who dials through a translation of addresses.
        for (caller, missing) in [("192.0.2.1:1", 0), ("10.0.0.1:1", 0), ("10.0.0.2:1", 1)] {
            let mut hosts = Hosts::new(&two_on_a);
            hosts.link(&[0], 1);
            hosts.link(&[0], 2);
            let ends = Ends::new(caller.parse().unwrap(), "10.0.0.2:9100".parse().unwrap());
            hosts.hear(2, ends);
            assert_eq!(hosts.mesh().missing.len(), missing, "{caller}");
        }
    }

    #[test]
    fn a_link_that_one_end_does_not_see_is_marked() {
        let mut hosts = hosts(2);
        hosts.link(&[0], 1);
        hosts.report(1).0.incoming.clear();
        let mesh = hosts.mesh();
        assert!(mesh.links[0].is_one_ended && mesh.links[0].pair() == Some((0, 1)));
        hosts.report(1).0.nodes[0].is_seen = false;
        assert!(!hosts.mesh().links[0].is_one_ended, "it cannot be seen there");
    }

    #[test]
    fn a_link_within_a_host_is_not_that_of_another_host() {
        let nodes = [
            registration("a", "m", 9101),
            registration("a", "n", 9100),
            registration("b", "m", 9101),
            registration("b", "n", 9100),
        ];
        let mut hosts = Hosts::new(&nodes);
        let ends = Ends::new("127.0.0.1:40000".parse().unwrap(), "127.0.0.1:9100".parse().unwrap());
        for host in [0, 2] {
            let (report, node) = hosts.report(host);
            report.outgoing.push(Outgoing { nodes: vec![node], ends, quality: None });
            hosts.hear(host + 1, ends);
        }
        assert_eq!(hosts.mesh().pairs().collect::<Vec<_>>(), [(0, 1), (2, 3)]);
    }

    #[test]
    fn reports_of_lives_that_are_over_say_nothing() {
        let mut hosts = hosts(2);
        hosts.link(&[0], 1);
        hosts.reports.values_mut().for_each(|report| report.nodes[0].creation += 1);
        let mesh = hosts.mesh();
        assert_eq!(mesh.links.len(), 0);
        assert!(mesh.nodes.iter().all(|node| node.sight == Sight::Untold));
    }
}
