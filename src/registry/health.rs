//! Whether the store answers, what it refuses, and since when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use humantime::format_duration;
use repmd_backend_api::{BackendError, REASON_CHARS_MAX};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::events::{Events, What};
use crate::printable::in_words;

/// What is known of the store from the calls that were made to it. Each change is logged once, however
/// many calls meet it.
#[derive(Debug)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug)]
struct State {
    events: Arc<Events>,
    last_reached: Option<Instant>,
    away: Option<Away>,
    /// What the store refuses, by the verb that it refuses.
    refusals: BTreeMap<&'static str, Refusal>,
}

#[derive(Clone, Debug)]
struct Away {
    since: Instant,
    reason: String,
}

/// A store that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreAway {
    /// For how long.
    pub away_for: Duration,
    /// What it said, or what is said of it.
    pub reason: String,
}

#[derive(Clone, Debug)]
struct Refusal {
    /// When it was last met.
    met: Instant,
    reason: String,
}

impl Health {
    pub(super) fn new(events: Arc<Events>) -> Self {
        Self(Mutex::new(State { events, last_reached: None, away: None, refusals: BTreeMap::new() }))
    }

    /// The store has done what was asked.
    pub(super) fn done(&self) {
        self.lock().reached();
    }

    /// The store has answered, and the answer to `verb` is not ours to mend.
    pub(super) fn failed(&self, verb: &'static str, problem: &BackendError) {
        let mut state = self.lock();
        let reason = chain(problem);
        match problem {
            BackendError::Unavailable { .. } => {
                if state.away.is_none() {
                    warn!(verb, reason, "the registry is away; nodes of this host are served as before");
                    state.events.tell(What::StoreLost { reason: reason.clone() });
                    state.away = Some(Away { since: Instant::now(), reason });
                }
            }
            BackendError::Denied { .. } | BackendError::Corrupt { .. } => {
                state.reached();
                // The reason names the node, and so is another one each time.
                if !state.refusals.contains_key(verb) {
                    error!(verb, reason, "the registry refuses");
                }
                state.refusals.insert(verb, Refusal { met: Instant::now(), reason });
            }
            BackendError::NameTaken { .. } => state.reached(),
        }
    }

    pub(super) fn is_away(&self) -> bool {
        self.lock().away.is_some()
    }

    /// Since when and why the store does not answer, if it does not.
    pub(super) fn away(&self) -> Option<StoreAway> {
        let state = self.lock();
        let Away { since, reason } = state.away.as_ref()?;
        Some(StoreAway { away_for: since.elapsed(), reason: reason.clone() })
    }

    /// When the store last answered, if it ever did.
    pub(super) fn last_reached(&self) -> Option<Instant> {
        self.lock().last_reached
    }

    /// Why the registry is not whole, in words for an operator; empty when all is well.
    ///
    /// A refusal counts as over when it was not met for `quiet`. That the same verb was done since says
    /// nothing: it may be one name that is refused. And it may not be asked for again for days.
    pub(super) fn complaints(&self, quiet: Duration) -> Vec<String> {
        let mut state = self.lock();
        state.refusals.retain(|verb, refusal| {
            let is_over = quiet <= refusal.met.elapsed();
            if is_over {
                info!(verb, "the registry no longer refuses");
            }
            !is_over
        });
        let away = state.away.as_ref().map(|away| {
            // Whole minutes, so that the text does not change with each look at it.
            let minutes = Duration::from_secs(away.since.elapsed().as_secs() / 60 * 60);
            let since = if minutes.is_zero() {
                "less than a minute".to_owned()
            } else {
                format_duration(minutes).to_string()
            };
            format!("the registry is away for {since}: {}", away.reason)
        });
        let refusals = state.refusals.iter();
        away.into_iter()
            .chain(refusals.map(|(verb, refusal)| format!("{verb}: {}", refusal.reason)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn reached(&mut self) {
        self.last_reached = Some(Instant::now());
        if let Some(away) = self.away.take() {
            let away_for = away.since.elapsed();
            info!(?away_for, "the registry is back");
            self.events.tell(What::StoreBack { away_for });
        }
    }
}

/// An error with its causes, on one line that is not too long. Some say all that their cause says.
fn chain(problem: &BackendError) -> String {
    let mut text = in_words(problem);
    let mut cause = std::error::Error::source(problem);
    while let Some(error) = cause {
        let more = in_words(error);
        if !text.ends_with(&more) {
            text += &format!(": {more}");
        }
        cause = error.source();
    }
    if let Some((cut, _)) = text.char_indices().nth(REASON_CHARS_MAX) {
        text.truncate(cut);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_secs(15);

    fn denied(action: &str) -> BackendError {
        BackendError::Denied { action: action.to_owned(), source: "no".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_over_when_it_was_not_met_for_a_while_and_not_when_another_name_was_accepted() {
        let health = Health::new(Arc::new(Events::new(Arc::new(|| Duration::ZERO))));
        health.failed("register", &denied("register a@h"));
        health.done();
        tokio::time::advance(QUIET / 2).await;
        health.failed("register", &denied("register b@h"));
        tokio::time::advance(QUIET - Duration::from_secs(1)).await;
        assert_eq!(health.complaints(QUIET), ["register: the registry refuses to register b@h: no"]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(health.complaints(QUIET), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_the_store_is_away_is_said_in_whole_minutes() {
        let health = Health::new(Arc::new(Events::new(Arc::new(|| Duration::ZERO))));
        let gone = BackendError::Unavailable { waited: Duration::ZERO, source: "reset".into() };
        health.failed("renew", &gone);
        for (passes, said) in [(59, "less than a minute"), (1, "1m"), (119, "2m"), (1, "3m")] {
            tokio::time::advance(Duration::from_secs(passes)).await;
            let said = format!("the registry is away for {said}: no answer from the registry: reset");
            assert_eq!(health.complaints(QUIET), [said]);
        }
    }

    #[test]
    fn a_reason_is_cut_at_300_characters() {
        let error = BackendError::Denied { action: "a".to_owned(), source: "é".repeat(50_000_000).into() };
        assert_eq!(chain(&error).chars().count(), 300);
    }

    #[test]
    fn a_cause_that_says_the_same_again_is_left_out() {
        let source = BackendError::Denied { action: "b".to_owned(), source: "c".into() };
        let error = BackendError::Denied { action: "a".to_owned(), source: Box::new(source) };
        assert_eq!(chain(&error), "the registry refuses to a: the registry refuses to b: c");
        let io = std::io::Error::other("reset");
        let error = BackendError::Unavailable { waited: QUIET, source: Box::new(std::io::Error::other(io)) };
        assert_eq!(chain(&error), "no answer from the registry within 15s: reset");
    }
}
