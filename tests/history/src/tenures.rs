//! Who held a name, and who was refused.

use std::collections::BTreeMap;

use repmd_backend_api::Creation;

use crate::{Broken, History, Moment, Outcome, Promise, Span, Tenure};

impl History {
    /// Those of one name, in the order of their requests.
    pub(crate) fn check_tenures(&self, tenures: &[&Tenure], broken: &mut Vec<Broken>) {
        let mut told = BTreeMap::<Creation, &Tenure>::new();
        for (number, tenure) in tenures.iter().enumerate() {
            match tenure.outcome {
                Outcome::Granted(creation) => {
                    if let Some(other) = told.insert(creation, tenure) {
                        let (node, ports) = (&tenure.node, [other.port, tenure.port]);
                        let how = format!("{node} got creation {creation} twice, on the ports {ports:?}");
                        let at = tenure.asked.returned;
                        broken.push(Broken { promise: Promise::CreationsDiffer, at, how });
                    }
                    for other in &tenures[..number] {
                        self.check_pair(other, tenure, creation, tenures, broken);
                    }
                }
                Outcome::Refused => self.check_refusal(tenure, tenures, broken),
                Outcome::Unanswered => {}
            }
        }
    }

    /// A tenure, and one of the same name that was asked for later.
    fn check_pair(
        &self,
        first: &Tenure,
        second: &Tenure,
        creation: Creation,
        all: &[&Tenure],
        broken: &mut Vec<Broken>,
    ) {
        let Self { bounds, .. } = self;
        // From when both were told until one of them ended.
        let both = second.asked.returned.max(first.asked.returned);
        let ends = [first, second].map(|tenure| tenure.ended.map_or(Moment::MAX, |ended| ended.called));
        let ended = ends[0].min(ends[1]);
        if !first.is_granted() || ended <= both {
            return;
        }
        let how = |promise| {
            let node = &second.node;
            let ports = [first.port, second.port];
            Broken { promise, at: both, how: format!("{node} is held on the ports {ports:?}") }
        };
        if first.daemon == second.daemon {
            broken.push(how(Promise::OneHolderADaemon));
            return;
        }
        // The store must have had the first for a lease by then, and no third before it.
        let since = second.asked.called.saturating_sub(bounds.ttl);
        let before = since.saturating_sub(bounds.ttl + bounds.interval + bounds.settle);
        let of_late = Span { called: before, returned: second.asked.returned };
        let is_rival = |third: &Tenure| {
            !std::ptr::eq(third, first)
                && !std::ptr::eq(third, second)
                && third.daemon != first.daemon
                && third.may_meet(of_late)
        };
        let is_alone = !all.iter().any(|third| is_rival(third));
        let is_known = first.asked.returned <= before
            && is_alone
            && self.is_quiet(first.daemon, before, second.asked.returned)
            && !self.hidden.iter().any(|(node, at)| *node == second.node && since <= *at && *at <= both);
        if is_known && !creation.is_offline() {
            broken.push(how(Promise::OneHolderAHost));
        }
    }

    fn check_refusal(&self, tenure: &Tenure, all: &[&Tenure], broken: &mut Vec<Broken>) {
        // A holder counts as alive, or its lease lasts, for so long.
        let lasting = self.bounds.ttl + self.bounds.settle;
        let late = self.late_after(tenure.asked.called);
        let of_late = Span {
            called: tenure.asked.called.saturating_sub(lasting).saturating_sub(late),
            returned: tenure.asked.returned,
        };
        // Its own daemon has at most one connection of a name, and refuses the others itself.
        let reason = |other: &&&Tenure| other.port != tenure.port && other.may_meet(of_late);
        if !all.iter().any(|other| reason(&other)) {
            let how = format!("port {} is refused, and nobody has {}", tenure.port, tenure.node);
            broken.push(Broken { promise: Promise::RefusedForAReason, at: tenure.asked.returned, how });
        }
    }
}
