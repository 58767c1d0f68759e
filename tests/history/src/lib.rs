//! What nodes asked of daemons, and daemons of their store, when, and what they were told; and whether all of that can
//! be true.
//!
//! Whoever makes a history only writes down what it sees from outside: a call has a beginning and an end, and what was
//! done for it was done at some moment in between. [`History::check`] says which promise no choice of such moments
//! keeps. What happens at one moment may have happened in any order. Names are checked one by one, so that a history of an hour takes a second.
//!
//! The same checks judge the simulation, which knows each moment, and real daemons on a real store.

mod answers;
mod store;
mod tenures;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use repmd_backend_api::{Creation, LeaseToken};

/// A moment, counted from the beginning of the history.
pub type Moment = Duration;

/// A node, as `alive@host`.
pub type NodeName = String;

/// A daemon, by a number that it keeps over its runs.
pub type Daemon = usize;

/// From before something was asked until after it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Before.
    pub called: Moment,
    /// After.
    pub returned: Moment,
}

impl Span {
    /// One that takes no time.
    #[must_use]
    pub fn at(moment: Moment) -> Self {
        Self { called: moment, returned: moment }
    }
}

/// The times that are promised.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long a lease lasts.
    pub ttl: Duration,
    /// How often it is renewed.
    pub interval: Duration,
    /// How long an answer of the store counts as fresh.
    pub fresh: Duration,
    /// How long names are answered from memory while the store is away.
    pub stale_for: Duration,
    /// The longest that a node or an asker waits for the store.
    pub deadline: Duration,
    /// The longest that a renewal may be under way: it may come after the end of what it renews.
    pub renewing: Duration,
    /// How long after a fault a daemon may take to find its store well.
    pub settle: Duration,
    /// What a busy machine may add to each.
    pub slack: Duration,
    /// Whether a daemon that is asked looks at its own nodes first.
    pub has_tables: bool,
}

impl Bounds {
    /// As the code and the pages promise them, with nothing for a machine that is busy.
    #[must_use]
    pub const fn promised(ttl: Duration, interval: Duration) -> Self {
        Self {
            ttl,
            interval,
            fresh: Duration::from_secs(1),
            stale_for: ttl,
            deadline: Duration::from_millis(500),
            renewing: Duration::from_secs(2),
            settle: Duration::ZERO,
            slack: Duration::ZERO,
            has_tables: true,
        }
    }
}

/// How a registration came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node was told that it is registered.
    Granted(Creation),
    /// It was told that its name is taken.
    Refused,
    /// The connection ended without an answer: nobody knows.
    Unanswered,
}

/// One registration, from its request to the end of its connection.
#[derive(Clone, Debug)]
pub struct Tenure {
    /// Which node.
    pub node: NodeName,
    /// With which daemon.
    pub daemon: Daemon,
    /// Its distribution port, which no other node of the history has. Once it comes back after its daemon ended, it
    /// has another tenure on the same port.
    pub port: u16,
    /// The request and its answer.
    pub asked: Span,
    /// What the answer was.
    pub outcome: Outcome,
    /// When the connection ended: from when one end may have closed it until both knew.
    pub ended: Option<Span>,
}

impl Tenure {
    fn is_granted(&self) -> bool {
        matches!(self.outcome, Outcome::Granted(_))
    }

    /// Whether it certainly lasted for all of `span`.
    fn covers(&self, span: Span) -> bool {
        let ended_later = self.ended.is_none_or(|ended| span.returned < ended.called);
        self.is_granted() && self.asked.returned < span.called && ended_later
    }

    /// Whether it may have been there at some moment of `span`.
    fn may_meet(&self, span: Span) -> bool {
        let ended_earlier = self.ended.is_some_and(|ended| ended.returned < span.called);
        self.outcome != Outcome::Refused && self.asked.called <= span.returned && !ended_earlier
    }
}

/// What somebody who looked was told.
#[derive(Clone, Debug)]
pub enum Told {
    /// Where one node listens.
    Port(NodeName, Option<u16>),
    /// The nodes of one name, on all hosts that were asked for: which ports.
    Ports(Vec<(NodeName, Option<u16>)>),
    /// The names of the daemon's host, with their ports.
    Names(Vec<(NodeName, u16)>),
}

/// A look-up and its answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Who was asked.
    pub asker: Daemon,
    /// When.
    pub asked: Span,
    /// What it said.
    pub told: Told,
}

/// What the store was asked to do for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// To register or to renew it.
    Hold,
    /// To end it.
    Release,
}

/// Something that a daemon asked of the store.
#[derive(Clone, Debug)]
pub struct Call {
    /// What.
    pub verb: Verb,
    /// Of which lease.
    pub node: NodeName,
    /// Its proof.
    pub token: LeaseToken,
    /// Who asked.
    pub daemon: Daemon,
    /// The request and its answer.
    pub asked: Span,
    /// What was answered: that it is so, or that another has the name. `None`: nobody knows; it may be done until
    /// `asked` ends, which may be never.
    pub is_done: Option<bool>,
}

/// What somebody saw in the store itself.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Of which node.
    pub node: NodeName,
    /// When.
    pub asked: Span,
    /// Which lease holds its name.
    pub holder: Option<u16>,
}

/// A mirror that was made from the store's changes, and a list of the store, after a time without changes.
#[derive(Clone, Debug)]
pub struct Mirrored {
    /// When.
    pub at: Moment,
    /// What followed from the changes.
    pub mirror: BTreeMap<NodeName, u16>,
    /// What the store says.
    pub list: BTreeMap<NodeName, u16>,
}

/// Something wrong between a daemon and the store, and how long it was.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    /// With which daemon; `None`: with the store, so with all.
    pub daemon: Option<Daemon>,
    /// When. Open while it lasts.
    pub from: Moment,
    /// Until when.
    pub until: Option<Moment>,
    /// What was asked meanwhile is done once it is over: who asked may no longer know.
    pub is_late: bool,
}

/// Everything that was seen.
#[derive(Clone, Debug)]
pub struct History {
    /// What is promised.
    pub bounds: Bounds,
    /// Registrations, in the order of their requests.
    pub tenures: Vec<Tenure>,
    /// When the process of the node on a port was over.
    pub died: BTreeMap<u16, Moment>,
    /// Look-ups.
    pub answers: Vec<Answer>,
    /// Calls of the store, in the order in which they began.
    pub calls: Vec<Call>,
    /// What is in the store.
    pub sights: Vec<Sight>,
    /// Mirrors.
    pub mirrored: Vec<Mirrored>,
    /// Faults.
    pub troubles: Vec<Trouble>,
    /// When something that not everybody can read was, or had been of late, in the place of a node that registered.
    pub hidden: Vec<(NodeName, Moment)>,
    /// When the store lost what it had.
    pub losses: Vec<Moment>,
    /// From when on nothing is wrong any more, and nothing changes.
    pub calm_since: Option<Moment>,
}

/// A promise that is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// When.
    pub at: Moment,
    /// How it shows.
    pub how: String,
}

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Promise {
    /// No creation of a name comes back.
    CreationsDiffer,
    /// One daemon has one node of a name.
    OneHolderADaemon,
    /// No daemon is given what another one of its host holds.
    OneHolderAHost,
    /// A refusal means that the name is taken.
    RefusedForAReason,
    /// The port that is answered is that of a node of this name.
    RightPort,
    /// No answer is older than it may be.
    NoOlder,
    /// What is registered is found.
    FoundOnceThere,
    /// NAMES shows nobody who is not back.
    NoGhosts,
    /// The store gives a name to one living daemon at a time.
    OneLease,
    /// Nobody is in conflict with what it left behind itself.
    NoConflictWithItself,
    /// A lease that was held is there until it ends.
    LeasesStay,
    /// Whoever follows the changes knows what is there.
    ChangesAreEnough,
    /// After the last fault all say the same.
    AllAgree,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { promise, at, how } = self;
        write!(f, "{:.3} {promise:?}: {how}", at.as_secs_f64())
    }
}

impl History {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            tenures: Vec::new(),
            died: BTreeMap::new(),
            answers: Vec::new(),
            calls: Vec::new(),
            sights: Vec::new(),
            mirrored: Vec::new(),
            troubles: Vec::new(),
            hidden: Vec::new(),
            losses: Vec::new(),
            calm_since: None,
        }
    }

    /// All promises that are broken, in the order in which that was seen.
    #[must_use]
    pub fn check(&self) -> Vec<Broken> {
        let mut by_node: BTreeMap<&NodeName, Vec<&Tenure>> = BTreeMap::new();
        for tenure in &self.tenures {
            by_node.entry(&tenure.node).or_default().push(tenure);
        }
        let mut broken = Vec::new();
        for tenures in by_node.values() {
            self.check_tenures(tenures, &mut broken);
        }
        self.check_answers(&by_node, &mut broken);
        self.check_agreement(&by_node, &mut broken);
        self.check_store(&mut broken);
        for Mirrored { at, mirror, list } in &self.mirrored {
            if mirror != list {
                let how = format!("the changes say {mirror:?}, and the store {list:?}");
                broken.push(Broken { promise: Promise::ChangesAreEnough, at: *at, how });
            }
        }
        broken.sort_by_key(|broken| broken.at);
        broken
    }

    /// Whether nothing was wrong between this daemon and the store at any moment from `from` to `to`.
    fn is_quiet(&self, daemon: Daemon, from: Moment, to: Moment) -> bool {
        let meets = |trouble: &&Trouble| {
            trouble.daemon.is_none_or(|of| of == daemon)
                && trouble.from <= to
                && trouble.until.is_none_or(|until| from <= until)
        };
        !self.troubles.iter().any(|trouble| meets(&trouble)) && !self.has_lost(from, to)
    }

    /// When the last node began or ended, or the last fault was over.
    #[must_use]
    pub fn last_change(&self) -> Moment {
        let granted = self.tenures.iter().filter(|tenure| tenure.is_granted());
        let tenures = granted.flat_map(|tenure| [Some(tenure.asked), tenure.ended]).flatten();
        let ends = self.troubles.iter().filter_map(|trouble| trouble.until);
        let moments = tenures.map(|span| span.returned).chain(ends).chain(self.losses.iter().copied());
        moments.filter(|moment| *moment < Moment::MAX).max().unwrap_or_default()
    }

    /// Whether nothing has been wrong with anybody for so long before `at`.
    #[must_use]
    pub fn is_calm_before(&self, at: Moment, duration: Duration) -> bool {
        let from = at.saturating_sub(duration);
        let is_over = |trouble: &Trouble| trouble.until.is_some_and(|until| until < from);
        self.troubles.iter().all(is_over) && !self.has_lost(from, at)
    }

    fn has_lost(&self, from: Moment, to: Moment) -> bool {
        self.losses.iter().any(|lost| (from..=to).contains(lost))
    }
}
