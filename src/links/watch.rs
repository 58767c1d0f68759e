//! What changes between looks: links that are lost, and meshes that are partial.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use repmd_backend_api::NodeName;
use tokio::time::Instant;

use super::mesh::{LifeId, Mesh};
use crate::registry::What;

/// How long a link must be away. What is asked for is two looks of both daemons; this keeps apart those that follow
/// each other at once.
const AWAY_TIME: Duration = Duration::from_millis(1900);

/// Events of one kind that one look makes, at most: a network that falls apart is one thing, not a thousand.
const EVENTS_MAX: usize = 16;

/// Two lives of nodes, the first of the mesh's order first.
type Pair = (LifeId, LifeId);

/// What was seen before.
#[derive(Debug, Default)]
pub(super) struct Watch {
    linked: HashSet<Pair>,
    absent: HashMap<Pair, Absence>,
}

/// A pair without a link, which had one or should have one.
#[derive(Debug)]
struct Absence {
    since: Instant,
    /// The looks of both daemons that showed it first.
    samples: (u64, u64),
    had_a_link: bool,
    is_confirmed: bool,
    told: Told,
}

#[derive(Debug, Default)]
struct Told {
    lost: bool,
    partial: bool,
}

impl Watch {
    /// Compares with the looks before, and says what has happened. The second: nodes of which it matters whether they
    /// are hidden, and nobody has told.
    pub(super) fn look(&mut self, mesh: &Mesh, now: Instant) -> (Vec<What>, HashSet<usize>) {
        let mut to_ask = mesh.to_ask.clone();
        let lives: Vec<_> = mesh.nodes.iter().map(super::mesh::MeshNode::life).collect();
        let numbers: HashMap<_, _> = lives.iter().enumerate().map(|(number, life)| (*life, number)).collect();
        let pair = |(one, other): (usize, usize)| (lives[one], lives[other]);
        let linked: HashSet<_> = mesh.pairs().map(pair).collect();
        let missing: HashSet<_> = mesh.missing.iter().copied().map(pair).collect();
        let find = |(one, other): Pair| Some((*numbers.get(&one)?, *numbers.get(&other)?));
        let names = |(one, other): (usize, usize)| -> [NodeName; 2] {
            [one, other].map(|node| mesh.nodes[node].registration.node_name())
        };
        let counts = |pair: &Pair| {
            find(*pair).filter(|(one, other)| mesh.nodes[*one].counts() && mesh.nodes[*other].counts())
        };
        // Links that one of several may have dialled are neither there nor away.
        let unsure: HashSet<_> = mesh
            .links
            .iter()
            .filter(|link| link.from.len() != 1)
            .flat_map(|link| link.from.iter().map(|from| pair((*from.min(&link.to), *from.max(&link.to)))))
            .collect();
        let were_linked = self.linked.iter().filter(|pair| counts(pair).is_some() && !unsure.contains(*pair));
        let absent: HashSet<_> =
            were_linked.chain(&missing).filter(|pair| !linked.contains(*pair)).copied().collect();

        let mut events = Vec::new();
        for (pair, absence) in self.absent.extract_if(|pair, _| !absent.contains(pair)) {
            if absence.told.lost
                && linked.contains(&pair)
                && let Some(numbers) = find(pair)
            {
                let [node, peer] = names(numbers);
                events.push(What::LinkBack { node, peer });
            }
        }
        events.truncate(EVENTS_MAX);
        let (mut lost, mut partial) = (0, 0);
        for pair in &absent {
            let Some(numbers) = counts(pair) else { continue };
            let is_unknown = |node: &usize| mesh.nodes[*node].is_published.is_none();
            to_ask.extend([numbers.0, numbers.1].into_iter().filter(is_unknown));
            let is_known = ![numbers.0, numbers.1].iter().any(is_unknown);
            let samples = (mesh.nodes[numbers.0].sample, mesh.nodes[numbers.1].sample);
            let absence = self.absent.entry(*pair).or_insert_with(|| Absence {
                since: now,
                samples,
                had_a_link: self.linked.contains(pair),
                is_confirmed: false,
                told: Told::default(),
            });
            let (one, other) = absence.samples;
            let is_seen_again = one < samples.0 && other < samples.1;
            absence.is_confirmed |= is_seen_again && AWAY_TIME <= now.duration_since(absence.since);
            if !absence.is_confirmed || !is_known {
                continue;
            }
            let [node, peer] = names(numbers);
            if absence.had_a_link && !absence.told.lost && lost < EVENTS_MAX {
                (absence.told.lost, lost) = (true, lost + 1);
                events.push(What::LinkLost { node: node.clone(), peer: peer.clone() });
            }
            if missing.contains(pair) && !absence.told.partial && partial < EVENTS_MAX {
                (absence.told.partial, partial) = (true, partial + 1);
                events.push(What::MeshPartial { node, peer });
            }
        }
        let were_linked = std::mem::take(&mut self.linked);
        self.linked = linked;
        self.linked.extend(were_linked.into_iter().filter(|pair| self.absent.contains_key(pair)));
        (events, to_ask)
    }

    /// Whether the pair was missing in two looks in a row of both daemons.
    pub(super) fn is_confirmed(&self, pair: Pair) -> bool {
        self.absent.get(&pair).is_some_and(|absence| absence.is_confirmed)
    }

    /// Whether something waits for another look.
    pub(super) fn is_unsettled(&self) -> bool {
        self.absent.values().any(|absence| !absence.is_confirmed)
    }
}
