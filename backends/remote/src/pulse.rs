//! Whether a connection still answers. Calls have no deadline here. Whoever calls has one, and a call that is dropped
//! without an answer is what a stalled connection is known by.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// A call that was dropped sooner says nothing of its connection.
const SILENCE_MIN: Duration = Duration::from_millis(100);

/// Why a call has no answer.
pub trait Fault: Clone + Send + Sync + 'static {
    /// Nothing was said in time.
    fn silent() -> Self;

    /// Whether the connection is of no use any longer.
    fn ends_session(&self) -> bool;
}

/// A connection while it lasts.
#[derive(Debug)]
pub struct Pulse<F> {
    /// For how long it says nothing while calls wait for it until it counts as stalled.
    patience: Duration,
    heard: Mutex<Heard>,
    ended: CancellationToken,
    /// Why, if a call ended it.
    why: OnceLock<F>,
}

/// When something was last heard on a connection.
#[derive(Debug)]
struct Heard {
    last: Instant,
    /// Since when calls are dropped without an answer.
    silent_since: Option<Instant>,
}

impl<F: Fault> Pulse<F> {
    /// That of a connection that was made just now. It is over when `ended` says so, too.
    #[must_use]
    pub fn new(patience: Duration, ended: CancellationToken) -> Self {
        let heard = Mutex::new(Heard { last: Instant::now(), silent_since: None });
        Self { patience, heard, ended, why: OnceLock::new() }
    }

    /// The patience of those who call, see [`Pulse::new`].
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Waits for an answer to a call. One that ends the session ends it.
    ///
    /// # Errors
    /// As `answer`.
    pub async fn hear<T>(&self, answer: impl Future<Output = Result<T, F>>) -> Result<T, F> {
        let mut unanswered = Unanswered { pulse: self, started: Some(Instant::now()) };
        let answer = answer.await;
        unanswered.started = None;
        *self.heard() = Heard { last: Instant::now(), silent_since: None };
        if let Err(fault) = &answer
            && fault.ends_session()
        {
            self.end(fault.clone());
        }
        answer
    }

    /// The connection is over. The first reason is the one.
    pub fn end(&self, why: F) {
        let _ = self.why.set(why);
        self.ended.cancel();
    }

    /// Whether it is.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until it is.
    pub async fn over(&self) {
        self.ended.cancelled().await;
    }

    /// Why it is, if a call ended it.
    #[must_use]
    pub fn why(&self) -> Option<&F> {
        self.why.get()
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that waits for its answer. Dropped before, it counts as a silence.
struct Unanswered<'a, F: Fault> {
    pulse: &'a Pulse<F>,
    started: Option<Instant>,
}

impl<F: Fault> Drop for Unanswered<'_, F> {
    fn drop(&mut self) {
        let Some(started) = self.started.filter(|started| SILENCE_MIN < started.elapsed()) else { return };
        let mut heard = self.pulse.heard();
        let since = started.max(heard.last);
        let since = *heard.silent_since.get_or_insert(since);
        drop(heard);
        if self.pulse.patience < since.elapsed() {
            self.pulse.end(F::silent());
        }
    }
}
