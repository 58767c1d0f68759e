//! What has happened of late, for operators who watch.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use repmd_backend_api::NodeName;
use tokio::sync::watch;

use super::history::{History, LastHour};

/// Events that are kept for those who come back.
pub const EVENTS_MAX: usize = 1024;

/// How far back the echo of an event is looked for, in events and in time.
const ECHO_EVENTS: usize = 64;
const ECHO_TIME: Duration = Duration::from_secs(2);

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Grows with each event, also over restarts of the daemon.
    pub id: u64,
    /// When, since the Unix epoch.
    pub at: Duration,
    /// What.
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A node registered, here or with another daemon.
    Registered {
        /// Which.
        node: NodeName,
        /// Where it listens, if it registered here.
        port: Option<u16>,
    },
    /// A node's registration ended, here or with another daemon.
    Released {
        /// Which.
        node: NodeName,
    },
    /// The lease of a node of another daemon ran out: that daemon is gone, or cut off from the store.
    Expired {
        /// Which.
        node: NodeName,
    },
    /// A node was refused, because its name is taken.
    Refused {
        /// Which.
        node: NodeName,
        /// The daemon that holds the name.
        holder: String,
    },
    /// A name that this daemon holds is also held by another daemon of this host.
    Conflict {
        /// Which.
        node: NodeName,
        /// The other daemon.
        holder: String,
    },
    /// Two nodes that were linked are so no longer, while both are registered and seen.
    LinkLost {
        /// One of them.
        node: NodeName,
        /// The other.
        peer: NodeName,
    },
    /// They are linked again.
    LinkBack {
        /// One of them.
        node: NodeName,
        /// The other.
        peer: NodeName,
    },
    /// Two nodes have no link, while most others of their mesh are all linked with each other.
    MeshPartial {
        /// One of them.
        node: NodeName,
        /// The other.
        peer: NodeName,
    },
    /// The shared store does not answer any longer.
    StoreLost {
        /// What it says, or what is said of it.
        reason: String,
    },
    /// It answers again.
    StoreBack {
        /// How long it did not.
        away_for: Duration,
    },
    /// Events may have been missed: whatever was known may be out of date.
    Missed,
}

impl What {
    /// Its name, for those who ask by the API.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Registered { .. } => "registered",
            Self::Released { .. } => "released",
            Self::Expired { .. } => "expired",
            Self::Refused { .. } => "refused",
            Self::Conflict { .. } => "conflict",
            Self::LinkLost { .. } => "link_lost",
            Self::LinkBack { .. } => "link_back",
            Self::MeshPartial { .. } => "mesh_partial",
            Self::StoreLost { .. } => "store_lost",
            Self::StoreBack { .. } => "store_back",
            Self::Missed => "missed",
        }
    }

    /// Whether an operator may have to do something.
    fn is_trouble(&self) -> bool {
        match self {
            Self::Expired { .. }
            | Self::Refused { .. }
            | Self::Conflict { .. }
            | Self::LinkLost { .. }
            | Self::MeshPartial { .. }
            | Self::StoreLost { .. } => true,
            Self::Registered { .. }
            | Self::Released { .. }
            | Self::LinkBack { .. }
            | Self::StoreBack { .. }
            | Self::Missed => false,
        }
    }

    fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Registered { node, .. } | Self::Released { node } | Self::Expired { node } => Some(node),
            Self::Refused { .. }
            | Self::Conflict { .. }
            | Self::LinkLost { .. }
            | Self::LinkBack { .. }
            | Self::MeshPartial { .. }
            | Self::StoreLost { .. }
            | Self::StoreBack { .. }
            | Self::Missed => None,
        }
    }
}

/// The last events, and the number of the newest for those who wait for more.
pub struct Events {
    clock: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Since when they are noted.
    since: Duration,
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
}

struct Kept {
    events: VecDeque<Event>,
    history: History,
    next_id: u64,
    /// Kept for longer than the others: nodes that come and go would push it out.
    last_trouble: Option<Event>,
}

impl Events {
    pub(super) fn new(clock: Arc<dyn Fn() -> Duration + Send + Sync>) -> Self {
        // From the clock, so that who remembers an event of an earlier run is not told that nothing happened.
        let since = clock();
        let next_id = u64::try_from(since.as_micros()).unwrap_or(0) + 1;
        let kept = Kept { events: VecDeque::new(), history: History::default(), next_id, last_trouble: None };
        Self { clock, since, kept: Mutex::new(kept), newest: watch::Sender::new(next_id - 1) }
    }

    /// Takes note of an event, and wakes those who wait.
    pub fn tell(&self, what: What) {
        let at = (self.clock)();
        let mut kept = self.lock();
        if kept.has_echo(&what, at) {
            return;
        }
        let id = kept.next_id;
        kept.next_id += 1;
        if kept.events.len() == EVENTS_MAX {
            kept.events.pop_front();
        }
        let event = Event { id, at, what };
        if event.what.is_trouble() {
            kept.last_trouble = Some(event.clone());
        }
        kept.history.note(&event);
        kept.events.push_back(event);
        drop(kept);
        self.newest.send_replace(id);
    }

    /// The number of the newest event; changes with each.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// The events after number `last`, oldest first. If some of them are not kept any longer,
    /// [`What::Missed`] comes first.
    #[must_use]
    pub fn since(&self, last: u64) -> Vec<Event> {
        let kept = self.lock();
        let oldest = kept.next_id - kept.events.len() as u64;
        let has_all = (oldest - 1..kept.next_id).contains(&last);
        let missed = Event { id: oldest - 1, at: (self.clock)(), what: What::Missed };
        let missed = (!has_all).then_some(missed);
        let newer = kept.events.iter().filter(|event| !has_all || last < event.id).cloned();
        missed.into_iter().chain(newer).collect()
    }

    /// The last of the events that tell of trouble, however many came after it.
    #[must_use]
    pub fn last_trouble(&self) -> Option<Event> {
        self.lock().last_trouble.clone()
    }

    /// What happened in the last hour.
    #[must_use]
    pub fn last_hour(&self) -> LastHour {
        let now = (self.clock)();
        LastHour { now, since: self.since, minutes: self.lock().history.until(now) }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("newest", &*self.newest.borrow()).finish_non_exhaustive()
    }
}

impl Kept {
    /// Whether the last that happened to a node was just this: what this daemon does it also hears of from a
    /// shared store, before or after the store's answer. And whether it was told just now that it missed something:
    /// of a store that comes back empty each daemon hears that again and again.
    fn has_echo(&self, what: &What, at: Duration) -> bool {
        if *what == What::Missed {
            let newest = self.events.back();
            return newest.is_some_and(|newest| {
                newest.what == What::Missed && at.saturating_sub(newest.at) < ECHO_TIME
            });
        }
        let Some(node) = what.node() else { return false };
        let recent = self.events.iter().rev().take(ECHO_EVENTS);
        let mut recent = recent.take_while(|event| at.saturating_sub(event.at) < ECHO_TIME);
        let last = recent.find(|event| event.what.node() == Some(node));
        last.is_some_and(|last| std::mem::discriminant(&last.what) == std::mem::discriminant(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use repmd_backend_api::{AliveName, HostId};

    fn node(name: &str) -> NodeName {
        NodeName { alive: AliveName::parse(name.as_bytes()).unwrap(), host: HostId::parse("a").unwrap() }
    }

    fn registered(name: &str) -> What {
        What::Registered { node: node(name), port: Some(1) }
    }

    fn events() -> Events {
        Events::new(Arc::new(|| Duration::from_secs(1_800_000_000)))
    }

    fn told(events: &[Event]) -> Vec<What> {
        events.iter().map(|event| event.what.clone()).collect()
    }

    #[test]
    fn who_comes_back_gets_what_came_after_the_last_event_it_saw() {
        let events = events();
        let start = *events.newest().borrow();
        events.tell(registered("a"));
        events.tell(registered("b"));
        assert_eq!(told(&events.since(start)), [registered("a"), registered("b")]);
        assert_eq!(told(&events.since(start + 1)), [registered("b")]);
        assert_eq!(told(&events.since(start + 2)), []);
    }

    #[test]
    fn who_was_away_for_too_long_or_remembers_another_run_is_told_that_it_missed_something() {
        let events = events();
        let start = *events.newest().borrow();
        assert_eq!(told(&events.since(start - 1)), [What::Missed]);
        assert_eq!(told(&events.since(start + 1)), [What::Missed]);
        (0..=EVENTS_MAX).for_each(|number| events.tell(registered(&format!("n{number}"))));
        let since = events.since(start);
        assert_eq!((since.len(), &since[0].what), (1 + EVENTS_MAX, &What::Missed));
        assert_eq!(since[0].id + 1, since[1].id);
        assert_eq!(events.since(start + 1).len(), EVENTS_MAX);
    }

    #[test]
    fn that_something_was_missed_is_told_once_and_crowds_nothing_out() {
        let events = events();
        let start = *events.newest().borrow();
        events.tell(registered("a"));
        (0..=EVENTS_MAX).for_each(|_| events.tell(What::Missed));
        events.tell(registered("b"));
        events.tell(What::Missed);
        let told = told(&events.since(start));
        assert_eq!(told, [registered("a"), What::Missed, registered("b"), What::Missed]);
    }

    #[test]
    fn the_last_trouble_is_remembered_however_many_nodes_come_and_go_after_it() {
        let events = events();
        assert_eq!(events.last_trouble(), None);
        let refused = What::Refused { node: node("a"), holder: "b".to_owned() };
        events.tell(refused.clone());
        (0..=EVENTS_MAX).for_each(|number| events.tell(registered(&format!("n{number}"))));
        assert_eq!(events.last_trouble().map(|event| event.what), Some(refused));
    }

    #[test]
    fn what_a_store_repeats_is_told_once_and_what_happens_again_is_told_again() {
        let events = events();
        let start = *events.newest().borrow();
        let released = What::Released { node: node("a") };
        let echo = What::Registered { node: node("a"), port: None };
        for what in [registered("a"), registered("b"), echo.clone(), released.clone(), released.clone(), echo]
        {
            events.tell(what);
        }
        let echo = What::Registered { node: node("a"), port: None };
        assert_eq!(told(&events.since(start)), [registered("a"), registered("b"), released, echo]);
    }
}
