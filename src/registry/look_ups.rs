//! Where a node or a daemon elsewhere listens: from memory, or from the store.
//!
//! [`question`](super::question) has the rules by which one of those that the store found is meant.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use repmd_backend_api::{AliveName, Found, HostId, Instance, Registration, Scope, Search};
use tokio::time::Instant;
use tracing::warn;

use super::daemons::KnownDaemons;
use super::holding::Holding;
use super::question::{Choice, Lookup, Question, choose};
use super::slot::{Known, Slot, slot_of};
use super::store::Store;
use crate::throttle::Throttle;

/// How long the answer that there is no such node counts as fresh, whatever the store says: just enough that a flood of
/// such look-ups is few requests, and a node that has started is found at once.
const FRESH_ABSENCE: Duration = Duration::from_millis(25);

/// Answers that are remembered at most.
const ANSWERS_MAX: usize = 16_384;

/// Registrations of one name that are enough: this host's own, and more than one elsewhere, some of which a log
/// line names.
const FOUND_MAX: usize = 4;

/// What is known of a name elsewhere.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This is where the node listens.
    Node(Arc<Registration>),
    /// This is where the host's daemon listens.
    Daemon(Arc<Instance>),
    /// No such node, or none that the question tells apart from others.
    Absent,
}

/// Where an answer is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From this daemon itself: nobody else had to be asked.
    Here,
    /// From the registry, which was asked just now.
    Registry,
    /// From what the registry said a moment ago.
    Cache,
    /// From what the registry last said, if it said anything: it is away.
    Stale,
}

/// An answer, and where it is known from.
#[derive(Clone, Debug)]
pub struct Told {
    /// What is known.
    pub answer: Answer,
    /// Where from.
    pub source: Source,
    /// When the registry was asked for it; `None` where it was not.
    pub asked: Option<Instant>,
}

impl Source {
    /// In one word, as the API and the log say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Registry => "registry",
            Self::Cache => "cache",
            Self::Stale => "stale",
        }
    }
}

/// The answers of the store to look-ups, as far as they are remembered.
#[derive(Debug)]
pub(super) struct LookUps {
    store: Arc<Store>,
    answers: Cache<Question, Arc<Slot<Remembered>>>,
    ambiguities: Throttle,
}

/// An answer, and how long the store vouches for it.
#[derive(Clone, Debug)]
struct Remembered {
    answer: Answer,
    left: Option<Duration>,
    fresh_for: Duration,
}

impl LookUps {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, answers: Cache::new(ANSWERS_MAX), ambiguities: Throttle::default() }
    }

    /// The answer to `question`, if it is known without waiting.
    pub(super) fn known(&self, question: &Question, daemons: &KnownDaemons) -> Option<Told> {
        let here = |answer| Some(Told { answer, source: Source::Here, asked: None });
        match question {
            Question::Daemon(host) if self.store.me.now().answers_to(host) => {
                return here(Answer::Daemon(self.store.me.now()));
            }
            _ if !self.store.is_shared() => return here(Answer::Absent),
            Question::Daemon(host) => return daemons.known_of(host),
            Question::Bare(_) | Question::On(..) => {}
        }
        let slot = self.answers.get(question);
        let fresh = slot.as_ref().and_then(|slot| slot.fresh(Remembered::is_fresh));
        match fresh {
            Some(Known { value, asked, .. }) => {
                self.store.stats.remembered.add();
                Some(Told { answer: value.answer, source: Source::Cache, asked: Some(asked) })
            }
            None if self.store.is_away() => Some(self.stale(slot.as_deref())),
            None => None,
        }
    }

    /// The answer to `question`, from memory or from the store. `asker`: for whom it is, if not for this daemon
    /// itself. Where too much is asked of the store, the answer is as if it were away.
    pub(super) async fn look_up(
        &self,
        question: &Question,
        asker: Option<IpAddr>,
        daemons: &KnownDaemons,
        holding: &Holding,
    ) -> Told {
        if let Some(told) = self.known(question, daemons) {
            return told;
        }
        let (scope, name) = match question {
            Question::Daemon(host) => return daemons.look_up(host).await,
            Question::Bare(name) => (self.scope_of(name, holding), name),
            Question::On(host, name) => (Scope::Host(host.clone()), name),
        };
        let slot = slot_of(&self.answers, question);
        match slot.fresh_or(Remembered::is_fresh, self.load(question, name, &scope, asker)).await {
            Some(Known { value, asked, .. }) => {
                self.store.stats.loaded.add();
                Told { answer: value.answer, source: Source::Registry, asked: Some(asked) }
            }
            None => self.stale(Some(&slot)),
        }
    }

    /// Whether the store knows that `host` has no such node. While it does not answer, or has an entry of that name
    /// that cannot be read, nobody knows.
    pub(super) async fn has_left(&self, host: &HostId, name: &AliveName) -> bool {
        let (question, scope) = (Question::On(host.clone(), name.clone()), Scope::Host(host.clone()));
        let slot = slot_of(&self.answers, &question);
        let known = slot.fresh_or(Remembered::is_fresh, self.load(&question, name, &scope, None)).await;
        known.is_some_and(|known| matches!(known.value.answer, Answer::Absent))
    }

    /// The last known answer, while it may serve.
    fn stale(&self, slot: Option<&Slot<Remembered>>) -> Told {
        self.store.stats.stale.add();
        let last = slot.and_then(Slot::last);
        let last = last.filter(|last| self.store.may_serve(last.asked, last.value.left));
        let asked = last.as_ref().map(|last| last.asked);
        let answer = last.map_or(Answer::Absent, |last| last.value.answer);
        Told { answer, source: Source::Stale, asked }
    }

    /// How far a bare name reaches. What this host has had of late is not answered from elsewhere.
    fn scope_of(&self, name: &AliveName, holding: &Holding) -> Scope {
        if self.store.options.lookup == Lookup::Cluster && !holding.had(name) {
            Scope::Cluster
        } else {
            Scope::Host(self.store.me.host().clone())
        }
    }

    /// Asks the store. `None`: it did not answer, what it has cannot be read, or too much is asked of it.
    async fn load(
        &self,
        question: &Question,
        name: &AliveName,
        scope: &Scope,
        asker: Option<IpAddr>,
    ) -> Option<Remembered> {
        if self.store.is_away() {
            return None;
        }
        let search = Search { name, scope, near: self.store.me.host(), most: FOUND_MAX };
        let seen = self.store.find(&search, asker).await?;
        self.store.unreadable.note_of(&seen);
        match choose(question, &seen, &self.store.me) {
            Choice::One(found) => {
                // Its nodes are about to come back here; until then this daemon answers for those that live.
                let is_gone = self.store.me.held_before(&found.registration)
                    && !self.listens(&found.registration).await;
                Some(if is_gone {
                    Remembered::absent(FRESH_ABSENCE)
                } else {
                    Remembered::node(found, self.store.fresh_for())
                })
            }
            Choice::None => Some(Remembered::absent(FRESH_ABSENCE)),
            Choice::Unknown => None,
            Choice::Several(candidates) => {
                self.store.stats.ambiguous.add();
                if let Some(left_out) = self.ambiguities.pass() {
                    let candidates =
                        candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    warn!(%name, candidates, left_out, "not found: more than one node is meant");
                }
                // As long as a node's: it is known who has the name, and changes there are heard of.
                Some(Remembered::absent(self.store.fresh_for()))
            }
        }
    }

    /// Whether something listens on this host where a node of it did.
    async fn listens(&self, registration: &Registration) -> bool {
        (self.store.options.probe)(registration.node.port, self.store.me.now().addresses.clone()).await
    }

    /// `host` has another node called `name`, or none any longer.
    pub(super) fn changed(&self, name: AliveName, host: HostId) {
        for question in [Question::Bare(name.clone()), Question::On(host, name.clone())] {
            let Some(slot) = self.answers.get(&question) else { continue };
            if let Some(Answer::Node(registration)) = slot.last().map(|known| known.value.answer) {
                for alias in &registration.instance.aliases {
                    let by_alias = self.answers.get(&Question::On(alias.clone(), name.clone()));
                    by_alias.inspect(|slot| slot.forget());
                }
            }
            slot.forget();
        }
    }

    /// Anything may have changed.
    pub(super) fn missed_changes(&self) {
        self.answers.iter().for_each(|(_, slot)| slot.out_of_date());
    }
}

impl Remembered {
    /// `fresh_for`: how long the store vouches for what it says.
    fn node(found: &Found, fresh_for: Duration) -> Self {
        let fresh_for = found.left.map_or(fresh_for, |left| left.min(fresh_for));
        Self { answer: Answer::Node(Arc::clone(&found.registration)), left: found.left, fresh_for }
    }

    /// `fresh_for`: how long that counts. Nothing that lives speaks for it longer.
    fn absent(fresh_for: Duration) -> Self {
        Self { answer: Answer::Absent, left: None, fresh_for }
    }

    fn is_fresh(known: &Known<Self>) -> bool {
        known.asked.elapsed() < known.value.fresh_for
    }
}
