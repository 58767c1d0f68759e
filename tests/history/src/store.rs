//! What the store said to daemons: each name as a register that one of them holds for a while.

use std::collections::BTreeMap;

use repmd_backend_api::liveness;

use crate::{Broken, Call, History, NodeName, Promise, Sight, Span, Verb};

impl History {
    pub(crate) fn check_store(&self, broken: &mut Vec<Broken>) {
        let mut by_node: BTreeMap<&NodeName, Vec<&Call>> = BTreeMap::new();
        for call in &self.calls {
            by_node.entry(&call.node).or_default().push(call);
        }
        for calls in by_node.values() {
            for (number, call) in calls.iter().enumerate() {
                match (call.verb, call.is_done) {
                    (Verb::Hold, Some(true)) => self.check_hold(number, calls, broken),
                    (Verb::Hold, Some(false)) => self.check_conflict(call, calls, broken),
                    (Verb::Hold, None) | (Verb::Release, _) => {}
                }
            }
        }
        for sight in self.sights.iter().filter(|sight| sight.holder.is_none()) {
            if let Some(calls) = by_node.get(&sight.node) {
                self.check_sight(sight, calls, broken);
            }
        }
    }

    /// Nobody else may have been told that it holds the name, and count as alive, when the one of this `number` was.
    fn check_hold(&self, number: usize, calls: &[&Call], broken: &mut Vec<Broken>) {
        let (held, alive) = (calls[number], liveness(self.bounds.ttl));
        let earlier = calls[..number]
            .iter()
            .rev()
            .take_while(|call| held.asked.called < call.asked.called + alive)
            .filter(|call| call.asked.returned < held.asked.called && call.daemon != held.daemon);
        for other in earlier {
            let is_held = other.verb == Verb::Hold && other.is_done == Some(true);
            let between = Span { called: other.asked.called, returned: held.asked.returned };
            if !is_held || other.asked.called + alive <= held.asked.returned {
                continue;
            }
            // It, or what its daemon put in its place, may have been released since.
            let may_be_released = calls.iter().any(|call| {
                call.verb == Verb::Release && call.daemon == other.daemon && meets(call, between)
            });
            if !may_be_released && !self.has_lost(between.called, between.returned) {
                let (one, two, node) = (other.token, held.token, &held.node);
                let how = format!("{node} is held by {one}, and then by {two}");
                broken.push(Broken { promise: Promise::OneLease, at: held.asked.returned, how });
                return;
            }
        }
    }

    /// Another run, or a later claim of the same one, must have had the name when `refused` was told so.
    fn check_conflict(&self, refused: &Call, calls: &[&Call], broken: &mut Vec<Broken>) {
        let called = refused.asked.called.saturating_sub(self.bounds.ttl);
        let of_late = Span { called, returned: refused.asked.returned };
        let is_reason = |call: &&&Call| {
            let is_another = call.token.instance != refused.token.instance;
            let may_hold = call.verb == Verb::Hold && call.is_done != Some(false) && meets(call, of_late);
            may_hold && (is_another || refused.token.number < call.token.number)
        };
        if !calls.iter().any(|call| is_reason(&call)) {
            let how = format!("{} is told that another has {}, and none has", refused.token, refused.node);
            broken.push(Broken { promise: Promise::NoConflictWithItself, at: refused.asked.returned, how });
        }
    }

    /// Nobody has the name; so nobody may have been told that it holds it and rely on that.
    fn check_sight(&self, sight: &Sight, calls: &[&Call], broken: &mut Vec<Broken>) {
        let Self { bounds, .. } = self;
        let begun = calls.iter().take_while(|call| call.asked.called <= sight.asked.returned);
        let is_held = |call: &&&Call| {
            call.verb == Verb::Hold && call.is_done == Some(true) && call.asked.returned < sight.asked.called
        };
        let Some(last) = begun.clone().filter(is_held).max_by_key(|call| call.asked.returned) else { return };
        if last.asked.called + bounds.ttl <= sight.asked.returned {
            return;
        }
        let since = Span { called: last.asked.called, returned: sight.asked.returned };
        let may_have_ended = begun.clone().any(|call| match call.verb {
            Verb::Release => call.token == last.token && call.asked.called <= sight.asked.returned,
            // What became of it, and of the name after it, is not known.
            Verb::Hold => call.token != last.token && meets(call, since),
        });
        if !may_have_ended && !self.has_lost(since.called, since.returned) {
            let how = format!("{} holds {}, and nobody has it", last.token, last.node);
            broken.push(Broken { promise: Promise::LeasesStay, at: sight.asked.returned, how });
        }
    }
}

/// Whether it may have been done at some moment of `span`.
fn meets(call: &Call, span: Span) -> bool {
    span.called <= call.asked.returned && call.asked.called <= span.returned
}
