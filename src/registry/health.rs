//! Whether the store answers, what it refuses, and since when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use repmd_backend_api::BackendError;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::events::{Events, What};

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
    refusals: BTreeMap<&'static str, String>,
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

impl Health {
    pub(super) fn new(events: Arc<Events>) -> Self {
        Self(Mutex::new(State { events, last_reached: None, away: None, refusals: BTreeMap::new() }))
    }

    /// The store has done what `verb` asked.
    pub(super) fn done(&self, verb: &'static str) {
        let mut state = self.lock();
        state.reached();
        if state.refusals.remove(verb).is_some() {
            info!(verb, "the registry accepts this again");
        }
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
                if state.refusals.get(verb) != Some(&reason) {
                    error!(verb, reason, "the registry refuses");
                    state.refusals.insert(verb, reason);
                }
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
    pub(super) fn complaints(&self) -> Vec<String> {
        let state = self.lock();
        let away = state.away.as_ref().map(|away| {
            // Whole minutes, so that the text does not change with each look at it.
            let minutes = Duration::from_secs(away.since.elapsed().as_secs() / 60 * 60);
            let since =
                if minutes.is_zero() { "less than a minute".to_owned() } else { format!("{minutes:?}") };
            format!("the registry is away for {since}: {}", away.reason)
        });
        let refusals = state.refusals.iter();
        away.into_iter().chain(refusals.map(|(verb, reason)| format!("{verb}: {reason}"))).collect()
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

/// An error with its causes, on one line.
fn chain(problem: &BackendError) -> String {
    let mut text = problem.to_string();
    let mut cause = std::error::Error::source(problem);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
