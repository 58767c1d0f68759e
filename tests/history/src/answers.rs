//! What those who looked were told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::{Answer, Broken, Daemon, History, Moment, NodeName, Outcome, Promise, Span, Tenure, Told};

type ByNode<'a> = BTreeMap<&'a NodeName, Vec<&'a Tenure>>;

impl History {
    pub(crate) fn check_answers(&self, by_node: &ByNode<'_>, broken: &mut Vec<Broken>) {
        for Answer { asker, asked, told } in &self.answers {
            let tenures = |node| by_node.get(node).map_or(&[][..], |tenures| tenures);
            let mut found = Vec::new();
            match told {
                Told::Port(node, Some(port)) => {
                    found.push(self.check_port(*asker, *asked, (node, *port), tenures(node), Duration::ZERO));
                }
                Told::Port(node, None) => found.push(self.check_absence(*asker, *asked, node, tenures(node))),
                // What a list says of a lease that is about to end counts as long as the rest of it.
                Told::Ports(ports) => found.extend(ports.iter().map(|(node, port)| match port {
                    Some(port) => {
                        let at = (node, *port);
                        self.check_port(*asker, *asked, at, tenures(node), self.bounds.fresh)
                    }
                    None => self.check_absence(*asker, *asked, node, tenures(node)),
                })),
                Told::Names(names) => {
                    for (node, port) in names {
                        let (at, tenures) = ((node, *port), tenures(node));
                        found.push(self.check_port(*asker, *asked, at, tenures, self.bounds.fresh));
                        found.push(self.check_ghost(*asker, *asked, at, tenures));
                    }
                }
            }
            let found = found.into_iter().flatten();
            broken.extend(found.map(|(promise, how)| Broken { promise, at: asked.returned, how }));
        }
    }

    fn check_port(
        &self,
        asker: Daemon,
        asked: Span,
        (node, port): (&NodeName, u16),
        tenures: &[&Tenure],
        freshness: Duration,
    ) -> Option<(Promise, String)> {
        let is_its = |tenure: &&&Tenure| {
            tenure.port == port && tenure.outcome != Outcome::Refused && tenure.asked.called <= asked.returned
        };
        let Some(tenure) = tenures.iter().rfind(is_its) else {
            let how = format!("daemon {asker} answers {port} for {node}, and none of its nodes has that");
            return Some((Promise::RightPort, how));
        };
        let died = *self.died.get(&port)?;
        let most = self.most_after(died, tenure.daemon, asker, asked) + freshness;
        (died + most + self.bounds.slack < asked.called).then(|| {
            let age = asked.called - died;
            let how = format!("daemon {asker} answers {port} for {node}, dead for {age:?}, not {most:?}");
            (Promise::NoOlder, how)
        })
    }

    /// How long after a node's death it may be answered.
    fn most_after(&self, died: Moment, holder: Daemon, asker: Daemon, asked: Span) -> Duration {
        let bounds = &self.bounds;
        let knows = asked.called.saturating_sub(bounds.fresh + bounds.settle);
        let asker_is_quiet = self.is_quiet(asker, knows, asked.returned);
        if asker == holder && bounds.has_tables {
            let ran = self.is_quiet(asker, died.saturating_sub(bounds.settle), asked.returned);
            if ran {
                return Duration::ZERO;
            }
        }
        let from = died.saturating_sub(bounds.interval + bounds.settle);
        let is_released = self.is_quiet(holder, from, died + bounds.deadline + bounds.settle);
        let told = bounds.deadline + bounds.fresh;
        let lease = if is_released { told } else { bounds.ttl + bounds.renewing };
        let late = if is_released { Duration::ZERO } else { self.late_after(died) };
        if asker_is_quiet { lease + late } else { bounds.ttl + bounds.renewing + late + bounds.stale_for }
    }

    /// How much later than `moment` the store may yet do what it was asked by then.
    pub(crate) fn late_after(&self, moment: Moment) -> Duration {
        let reach = self.bounds.ttl + self.bounds.settle;
        let late = self.troubles.iter().filter(|trouble| {
            trouble.is_late
                && trouble.from <= moment + self.bounds.settle
                && trouble.until.is_none_or(|until| moment <= until + reach)
        });
        late.map(|trouble| trouble.until.unwrap_or(Moment::MAX).saturating_sub(moment))
            .max()
            .unwrap_or_default()
    }

    fn check_absence(
        &self,
        asker: Daemon,
        asked: Span,
        node: &NodeName,
        tenures: &[&Tenure],
    ) -> Option<(Promise, String)> {
        let bounds = &self.bounds;
        let there = tenures.iter().find(|tenure| {
            if tenure.daemon == asker {
                // Who is asked for others alone leaves its own out.
                return bounds.has_tables && tenure.covers(asked);
            }
            let Outcome::Granted(creation) = tenure.outcome else { return false };
            let within = if creation.is_offline() { bounds.interval + bounds.settle } else { bounds.fresh };
            let known = Span { called: asked.called.saturating_sub(within + bounds.slack), ..asked };
            if !tenure.covers(known) {
                return false;
            }
            let before = asked.called.saturating_sub(bounds.interval + bounds.settle + bounds.slack);
            let is_well =
                [tenure.daemon, asker].iter().all(|daemon| self.is_quiet(*daemon, before, asked.returned));
            // Where another one was in the way, or left in the meantime, its place may be empty for a moment.
            let of_late = Span { called: before.saturating_sub(bounds.ttl), ..asked };
            let is_alone =
                tenures.iter().all(|other| other.daemon == tenure.daemon || !other.may_meet(of_late));
            is_well && is_alone
        })?;
        let how = format!("daemon {asker} does not find {node}, which is on port {}", there.port);
        Some((Promise::FoundOnceThere, how))
    }

    /// Nobody is listed who registered with this daemon and is not registered with it now.
    fn check_ghost(
        &self,
        asker: Daemon,
        asked: Span,
        (node, port): (&NodeName, u16),
        tenures: &[&Tenure],
    ) -> Option<(Promise, String)> {
        let asked_later =
            Span { called: asked.called.saturating_sub(self.bounds.slack), returned: asked.returned };
        let mut of_it = tenures.iter().filter(|tenure| tenure.port == port).peekable();
        let is_all_its = of_it.peek().is_some() && of_it.clone().all(|tenure| tenure.daemon == asker);
        (is_all_its && !of_it.any(|tenure| tenure.may_meet(asked_later))).then(|| {
            let how = format!("daemon {asker} lists {node} on port {port}, which is not registered with it");
            (Promise::NoGhosts, how)
        })
    }

    /// Once leases of what there was before are over, all whom a node is not registered with say the same of it.
    pub(crate) fn check_agreement(&self, by_node: &ByNode<'_>, broken: &mut Vec<Broken>) {
        let Some(calm) = self.calm_since else { return };
        let from = calm + self.bounds.ttl + self.bounds.interval + self.bounds.settle;
        let of_then = |tenure: &&&Tenure| tenure.is_granted() && tenure.asked.returned < from;
        let ends = by_node.values().flatten().filter(of_then).filter_map(|tenure| tenure.ended);
        // The calm is over when the first node ends.
        let end = ends.map(|ended| ended.called).filter(|ended| from <= *ended).min().unwrap_or(Moment::MAX);
        let mut said: BTreeMap<&NodeName, BTreeMap<Daemon, BTreeSet<Option<u16>>>> = BTreeMap::new();
        for Answer { asker, asked, told } in &self.answers {
            if asked.called < from || end <= asked.returned {
                continue;
            }
            let Told::Port(node, port) = told else { continue };
            let tenures = by_node.get(node).map_or(&[][..], |tenures| tenures);
            let is_its_own = tenures.iter().any(|t| t.daemon == *asker && t.may_meet(*asked));
            if !is_its_own {
                said.entry(node).or_default().entry(*asker).or_default().insert(*port);
            }
        }
        for (node, said) in said {
            let all: BTreeSet<_> = said.values().flatten().copied().collect();
            let living: BTreeSet<_> = by_node
                .get(node)
                .into_iter()
                .flatten()
                .filter(|tenure| of_then(tenure) && tenure.ended.is_none_or(|ended| end <= ended.called))
                .map(|tenure| Some(tenure.port))
                .collect();
            let is_true = if living.is_empty() { all == [None].into() } else { all.is_subset(&living) };
            if 1 < all.len() || !is_true {
                let how = format!("of {node}, on {living:?}, the daemons say {said:?}");
                broken.push(Broken { promise: Promise::AllAgree, at: from, how });
            }
        }
    }
}
