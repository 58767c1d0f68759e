//! What a look-up asks for beyond this daemon's own nodes, and which of the registered nodes it means.
//!
//! Pure functions: the rules of resolution are here, the waiting is not.

use std::fmt;

use repmd_backend_api::{AliveName, Found, HostId, NodeName, Seen};

use super::me::Me;

/// How far a bare name reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// To the nodes of this host, whichever of its daemons they registered with.
    Host,
    /// And to the one host elsewhere that has it.
    Cluster,
}

/// What a look-up asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// `alive`: the node of this host, or, as [`Lookup`] says, of the one host that has it.
    Bare(AliveName),
    /// `alive@host`, or `alive` at the address of a virtual host: the node of that host alone.
    On(HostId, AliveName),
    /// `@host`: where that host's daemon listens.
    Daemon(HostId),
}

impl Question {
    /// Reads a name as it stands in a request. `None`: no node can have it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let bare = || AliveName::parse(name.as_bytes()).ok().map(Self::Bare);
        let Some((alive, host)) = name.rsplit_once('@') else { return bare() };
        let Ok(host) = HostId::parse(host) else { return bare() };
        if alive.is_empty() {
            return Some(Self::Daemon(host));
        }
        AliveName::parse(alive.as_bytes()).ok().map(|alive| Self::On(host, alive))
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bare(alive) => write!(f, "{alive}"),
            Self::On(host, alive) => write!(f, "{alive}@{host}"),
            Self::Daemon(host) => write!(f, "@{host}"),
        }
    }
}

/// Which of the nodes that a registry found is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice<'a> {
    One(&'a Found),
    None,
    /// More than one, of which these can be read, and the question does not say which.
    Several(Vec<NodeName>),
    /// There is one, and it cannot be read.
    Unknown,
}

/// Chooses among the nodes that a registry found for `question` within its scope. Those that `me` holds
/// are no candidates: this daemon's own table has been asked for them, and it knows better. One that cannot be
/// read is a candidate like others, though nobody can be sent there.
pub(super) fn choose<'a>(question: &Question, seen: &'a Seen<Found>, me: &Me) -> Choice<'a> {
    let elsewhere = || seen.items.iter().filter(|found| !me.holds(&found.registration));
    let on = |host: &HostId| elsewhere().find(|found| found.registration.instance.host == *host);
    let exact = match question {
        Question::Bare(_) => on(me.host()),
        Question::On(host, _) => on(host),
        Question::Daemon(_) => None,
    };
    if let Some(found) = exact {
        return Choice::One(found);
    }
    let mut candidates = elsewhere();
    match (candidates.next(), candidates.next()) {
        (None, _) if 0 < seen.unreadable => Choice::Unknown,
        (None, _) => Choice::None,
        (Some(found), None) if seen.unreadable == 0 => Choice::One(found),
        _ => Choice::Several(elsewhere().map(|found| found.registration.node_name()).collect()),
    }
}
