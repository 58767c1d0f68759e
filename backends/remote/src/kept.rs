//! The connection that there is, while another is looked for.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::pulse::{Fault, Pulse};

/// A session that ends sooner has not done any good: the next attempt waits.
pub const USEFUL: Duration = Duration::from_secs(1);

/// Waits between attempts: they double from the first to the last.
pub const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// How a connection is.
#[derive(Debug)]
pub enum State<S, F> {
    /// There will be one, or not, in a moment. Calls wait for that.
    Connecting,
    /// This one is there, unless it is over.
    Up(Arc<S>),
    /// The last attempt failed. Calls fail at once instead of waiting for the next.
    Down(F),
}

impl<S: AsRef<Pulse<F>>, F: Fault> State<S, F> {
    /// The connection that is open now.
    pub fn open(&self) -> Option<&Arc<S>> {
        match self {
            Self::Up(session) if !session.as_ref().as_ref().is_over() => Some(session),
            Self::Connecting | Self::Up(_) | Self::Down(_) => None,
        }
    }
}

/// The connection that there is, or will be in a moment.
///
/// # Errors
/// When the last attempt at one failed: why.
pub async fn session<S: AsRef<Pulse<F>>, F: Fault>(
    state: &watch::Receiver<State<S, F>>,
) -> Result<Arc<S>, F> {
    let mut state = state.clone();
    let settled = state.wait_for(|state| state.open().is_some() || matches!(state, State::Down(_)));
    match settled.await.as_deref() {
        Ok(State::Up(session)) => Ok(Arc::clone(session)),
        Ok(State::Down(fault)) => Err(fault.clone()),
        // Whoever keeps it ends only with the connection, or with the whole runtime.
        Ok(State::Connecting) | Err(_) => Err(F::silent()),
    }
}

/// Calls by the connection that there is. Once more when it turns out to be lost: what is called must bear that.
///
/// # Errors
/// As [`session`] and `ask`.
pub async fn call<S: AsRef<Pulse<F>>, F: Fault, T, Answer: Future<Output = Result<T, F>>>(
    state: &watch::Receiver<State<S, F>>,
    ask: impl Fn(Arc<S>) -> Answer,
) -> Result<T, F> {
    match ask(session(state).await?).await {
        Err(fault) if fault.ends_session() => ask(session(state).await?).await,
        answer => answer,
    }
}

/// How a connection is made, and what happens on it beside calls.
pub trait Keeper: Send {
    /// The connection.
    type Session: AsRef<Pulse<Self::Fault>> + Send + Sync;
    /// Why there is none.
    type Fault: Fault;

    /// Makes one, or fails within a few seconds.
    fn connect(&mut self) -> impl Future<Output = Result<Self::Session, Self::Fault>> + Send;

    /// Returns when it is over.
    fn attend(&mut self, session: &Self::Session) -> impl Future<Output = ()> + Send;

    /// How it is after a session that has done no good: the next one may fare as badly. `None`: as if nothing had
    /// happened, and another attempt is made at once.
    fn after(&mut self, why: Option<Self::Fault>) -> Option<State<Self::Session, Self::Fault>> {
        Some(why.map_or(State::Connecting, State::Down))
    }
}

/// Keeps a connection open, for ever. `reached` changes when another connection has reached the same store.
pub async fn keep<K: Keeper>(
    mut keeper: K,
    state: watch::Sender<State<K::Session, K::Fault>>,
    reached: watch::Sender<()>,
) {
    let mut backoff = Backoff::new(WAITS);
    let mut is_reached = reached.subscribe();
    loop {
        is_reached.borrow_and_update();
        match keeper.connect().await {
            Ok(session) => {
                let (since, session) = (Instant::now(), Arc::new(session));
                state.send_replace(State::Up(Arc::clone(&session)));
                reached.send_replace(());
                keeper.attend(&session).await;
                if USEFUL < since.elapsed() {
                    state.send_replace(State::Connecting);
                    backoff = Backoff::new(WAITS);
                    continue;
                }
                is_reached.borrow_and_update();
                match keeper.after((*session).as_ref().why().cloned()) {
                    Some(after) => state.send_replace(after),
                    None => {
                        state.send_replace(State::Connecting);
                        continue;
                    }
                };
            }
            Err(fault) => {
                state.send_replace(State::Down(fault));
            }
        }
        tokio::select! {
            () = sleep(backoff.next()) => {}
            // The store is back, and nobody shall hear from one connection that it is and from another that it is not.
            Ok(()) = is_reached.changed() => {
                state.send_replace(State::Connecting);
            }
        }
    }
}

/// Waits that double, and are not the same for all daemons.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next: Duration,
    last: Duration,
}

impl Backoff {
    /// From the first wait to the last.
    #[must_use]
    pub fn new((next, last): (Duration, Duration)) -> Self {
        Self { next, last }
    }

    /// How long to wait now.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> Duration {
        let wait = self.next.mul_f64(0.5 + 0.5 * random() as f64 / u64::MAX as f64);
        self.next = (self.next * 2).min(self.last);
        wait
    }
}

/// A number that nobody else has.
#[must_use]
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
