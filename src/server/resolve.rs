//! Which node a name means: the rules of resolution, for the wire and for people who ask why.
//!
//! [`crate::registry::Question`] says how a name is read; the registry chooses among the nodes elsewhere.

use std::net::IpAddr;
use std::sync::Arc;

use repmd_backend_api::{HostId, Registration};

use super::daemon::Daemon;
use crate::registry::Question;

/// Where the answer for a name is to be had.
#[derive(Debug)]
pub(super) enum Resolution {
    /// A node of this daemon.
    Here(Arc<Registration>),
    /// A node of this daemon that was asked for by its full name.
    HereByFullName(Arc<Registration>),
    /// The registry must say, and where it is relayed if it is a node of the virtual host that is asked.
    Registry(Question, Option<VirtualHost>),
    /// No node can have the name, or none that this daemon could know of.
    Nobody,
}

/// Another host, and the address at which this daemon stands for it.
#[derive(Clone, Debug)]
pub(super) struct VirtualHost {
    pub(super) address: IpAddr,
    pub(super) host: HostId,
}

impl Daemon {
    /// Resolves `name` as it stands in a request. `asked_at`: the virtual host whose address was asked, if it
    /// was one; looked for only where it decides something.
    ///
    /// A name that is registered here literally comes first. Only what can be read as the full name of a node
    /// or daemon of another host is the registry's, or any local process could stand in for that node.
    pub(super) fn resolve<'a>(
        &self,
        name: &str,
        asked_at: impl FnOnce() -> Option<(IpAddr, &'a HostId)>,
    ) -> Resolution {
        let table = self.table();
        let literal = table.answer(name);
        let may_be_full = name.contains('@');
        if let Some(registration) = literal.filter(|_| !may_be_full || !self.registry.is_shared()) {
            return Resolution::Here(Arc::clone(registration));
        }
        if !may_be_full && !self.registry.is_shared() {
            return Resolution::Nobody;
        }
        let Some(question) = Question::parse(name) else { return Resolution::Nobody };
        let me = self.registry.instance();
        let is_own = match &question {
            Question::Bare(_) => true,
            Question::On(host, alive) if me.answers_to(host) => {
                if let Some(registration) = table.answer(alive.as_str()) {
                    return Resolution::HereByFullName(Arc::clone(registration));
                }
                true
            }
            Question::On(..) | Question::Daemon(_) => false,
        };
        if let Some(registration) = literal.filter(|_| is_own) {
            return Resolution::Here(Arc::clone(registration));
        }
        drop(table);
        let asked_at = asked_at();
        let question = match (question, asked_at) {
            (Question::Bare(alive), Some((_, host))) => Question::On(host.clone(), alive),
            (question, _) => question,
        };
        let relayed_at = asked_at
            .filter(|(_, asked)| matches!(&question, Question::On(host, _) if host == *asked))
            .map(|(address, host)| VirtualHost { address, host: host.clone() });
        Resolution::Registry(question, relayed_at)
    }
}
