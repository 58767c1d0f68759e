//! The way to a member that has a leader, kept open: found, watched, and found anew when it is lost.
//!
//! Calls have no deadline here. Whoever calls has one, and a call that is dropped without an answer is what a stalled
//! connection is known by, and a member that can no longer reach the others.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::dial::dial;
use crate::error::Fault;
use crate::history::History;
use crate::keys::Keys;
use crate::line::Line;
use crate::proto::{RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse};
use crate::settings::{Address, Settings};

/// How long an attempt to reach a member and log in may take: a few round trips of a far store. Calls do not wait
/// that long.
const CONNECT: Duration = Duration::from_secs(2);

/// Waits between attempts at all members: they double from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// A session that ends sooner has not done any good: the next attempt waits.
const USEFUL: Duration = Duration::from_secs(1);

/// A call that was dropped sooner says nothing of its connection.
const SILENCE_MIN: Duration = Duration::from_millis(100);

/// For how long a connection says nothing while calls wait for it until it counts as stalled: two calls, in the
/// patience of those who make them.
const PATIENCE: Duration = Duration::from_millis(900);

/// The connection to the store. A task keeps it open until this is dropped.
pub(crate) struct Connection {
    state: watch::Receiver<State>,
    history: Arc<History>,
    _keeper: AbortOnDropHandle<()>,
}

#[derive(Clone)]
enum State {
    Connecting,
    Up(Arc<Session>),
    /// The last attempt failed. Calls fail at once instead of waiting for the next.
    Down(Fault),
}

/// A connection while it lasts.
pub(crate) struct Session {
    pub(crate) line: Line,
    /// The store's revision when it began.
    pub(crate) revision: i64,
    heard: Mutex<Heard>,
    ended: CancellationToken,
    /// Why, if a call ended it.
    why: OnceLock<Fault>,
}

/// When something was last heard on a connection.
struct Heard {
    last: Instant,
    /// Since when calls are dropped without an answer.
    silent_since: Option<Instant>,
}

impl Connection {
    /// Starts connecting, and does not wait for it. Needs a tokio runtime.
    pub(crate) fn open(settings: Arc<Settings>, keys: &Keys) -> Self {
        let (sender, state) = watch::channel(State::Connecting);
        let history = Arc::<History>::default();
        let keeper = Keeper {
            // Not all daemons at the same member.
            next: random() as usize % settings.endpoints.len(),
            settings,
            epoch: keys.epoch(),
            state: sender,
            history: Arc::clone(&history),
        };
        Self { state, history, _keeper: AbortOnDropHandle::new(tokio::spawn(keeper.run())) }
    }

    /// What the store's revisions tell.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Reads keys, as the store has them now.
    pub(crate) async fn range(&self, range: RangeRequest) -> Result<RangeResponse, Fault> {
        let before = self.history.before();
        let answer: RangeResponse = self.unary("/etcdserverpb.KV/Range", range).await?;
        self.history.after(before, answer.header.as_ref());
        Ok(answer)
    }

    /// One atomic step. Returns the revision with which it ended, too.
    pub(crate) async fn transact(&self, transaction: TxnRequest) -> Result<(TxnResponse, i64), Fault> {
        let before = self.history.before();
        let answer: TxnResponse = self.unary("/etcdserverpb.KV/Txn", transaction).await?;
        self.history.after(before, answer.header.as_ref());
        let revision = answer.header.as_ref().map_or(0, |header: &ResponseHeader| header.revision);
        Ok((answer, revision))
    }

    /// One question, one answer. Asked once more when the connection turns out to be lost: every question may be.
    pub(crate) async fn unary<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Fault>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let session = self.session().await?;
        match session.hear(session.line.unary(path, question.clone())).await {
            Err(fault) if fault.ends_session() => {
                let session = self.session().await?;
                session.hear(session.line.unary(path, question)).await
            }
            answer => answer,
        }
    }

    /// Lets leases begin anew, see [`Line::keep_alive`].
    pub(crate) async fn keep_alive(&self, leases: &[i64]) -> Result<Vec<i64>, Fault> {
        let session = self.session().await?;
        match session.hear(session.line.keep_alive(leases)).await {
            Err(fault) if fault.ends_session() => {
                let session = self.session().await?;
                session.hear(session.line.keep_alive(leases)).await
            }
            answer => answer,
        }
    }

    /// This machine's address on the connection, while it is open.
    pub(crate) fn local_address(&self) -> Option<IpAddr> {
        match &*self.state.borrow() {
            State::Up(session) if !session.ended.is_cancelled() => Some(session.line.local_address),
            State::Connecting | State::Up(_) | State::Down(_) => None,
        }
    }

    async fn session(&self) -> Result<Arc<Session>, Fault> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| match state {
            State::Connecting => false,
            State::Up(session) => !session.ended.is_cancelled(),
            State::Down(_) => true,
        });
        match settled.await.as_deref() {
            Ok(State::Up(session)) => Ok(Arc::clone(session)),
            Ok(State::Down(fault)) => Err(fault.clone()),
            // The keeper ends only with this connection, or with the whole runtime.
            Ok(State::Connecting) | Err(_) => Err(Fault::Silent),
        }
    }

    /// The next session that there is, for whoever has time.
    pub(crate) fn sessions(&self) -> Sessions {
        Sessions(self.state.clone())
    }
}

/// Waits for connections without keeping them.
pub(crate) struct Sessions(watch::Receiver<State>);

impl Sessions {
    /// The one that there is, or will be. `None` once there will be none.
    pub(crate) async fn next(&mut self) -> Option<Arc<Session>> {
        let is_up = |state: &State| matches!(state, State::Up(session) if !session.ended.is_cancelled());
        match self.0.wait_for(is_up).await.as_deref() {
            Ok(State::Up(session)) => Some(Arc::clone(session)),
            Ok(State::Connecting | State::Down(_)) | Err(_) => None,
        }
    }
}

impl Session {
    /// Waits for an answer.
    pub(crate) async fn hear<T>(&self, answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let mut unanswered = Unanswered { session: self, started: Some(Instant::now()) };
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

    /// Fires when the connection is over.
    pub(crate) async fn over(&self) {
        self.ended.cancelled().await;
    }

    fn end(&self, fault: Fault) {
        // The first reason is the one.
        let _ = self.why.set(fault);
        self.ended.cancel();
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that waits for its answer. Dropped before, it counts as a silence.
struct Unanswered<'a> {
    session: &'a Session,
    started: Option<Instant>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let Some(started) = self.started.filter(|started| SILENCE_MIN < started.elapsed()) else { return };
        let mut heard = self.session.heard();
        let since = started.max(heard.last);
        let since = *heard.silent_since.get_or_insert(since);
        drop(heard);
        if PATIENCE < since.elapsed() {
            self.session.end(Fault::Silent);
        }
    }
}

/// The task that keeps the connection.
struct Keeper {
    settings: Arc<Settings>,
    /// Which of the endpoints is tried next.
    next: usize,
    /// A key that may be asked for.
    epoch: String,
    state: watch::Sender<State>,
    history: Arc<History>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = BACKOFF.0;
        let mut logged_in_again = false;
        loop {
            match self.connect_to_any().await {
                Ok(session) => {
                    let since = Instant::now();
                    let session = Arc::new(session);
                    self.state.send_replace(State::Up(Arc::clone(&session)));
                    tokio::select! {
                        () = session.ended.cancelled() => {}
                        () = session.line.ended.cancelled() => session.ended.cancel(),
                    }
                    if USEFUL < since.elapsed() {
                        self.state.send_replace(State::Connecting);
                        backoff = BACKOFF.0;
                        logged_in_again = false;
                        continue;
                    }
                    // Such as a member that has lost the others: the next session may fare as badly.
                    let why = session.why.get().cloned();
                    if !logged_in_again && why.as_ref().is_some_and(Fault::is_old_login) {
                        // The store's users were changed just now; whoever asks waits for another login.
                        logged_in_again = true;
                        self.state.send_replace(State::Connecting);
                        continue;
                    }
                    let closed =
                        || Fault::Connection { reason: "the store closes each connection".to_owned() };
                    self.state.send_replace(State::Down(why.unwrap_or_else(closed)));
                }
                Err(fault) => {
                    self.state.send_replace(State::Down(fault));
                }
            }
            // Not all daemons at once.
            sleep(backoff.mul_f64(0.5 + 0.5 * random() as f64 / u64::MAX as f64)).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// The first member that has a leader. Otherwise the fault that tells most.
    async fn connect_to_any(&mut self) -> Result<Session, Fault> {
        let endpoints = self.settings.endpoints.len();
        let mut faults = Vec::new();
        for _ in 0..endpoints {
            let at = self.next % endpoints;
            // If this one is lost soon, it is the next one's turn.
            self.next = at + 1;
            match timeout(CONNECT, self.connect(&self.settings.endpoints[at]))
                .await
                .unwrap_or(Err(Fault::Silent))
            {
                Ok(session) => return Ok(session),
                Err(fault) => faults.push(fault),
            }
        }
        Err(faults.into_iter().max_by_key(Fault::tells).unwrap_or(Fault::Silent))
    }

    async fn connect(&self, address: &Address) -> Result<Session, Fault> {
        let line = dial(address, &self.settings).await?;
        let before = self.history.before();
        // Only a member that has a leader, and reaches it, can say what the store has now.
        let asked: Result<RangeResponse, _> =
            line.unary("/etcdserverpb.KV/Range", RangeRequest::key(&self.epoch)).await;
        let revision = match asked {
            Ok(answer) => {
                self.history.after(before, answer.header.as_ref());
                answer.header.map_or(0, |header| header.revision)
            }
            // What is refused to this user is said to each call.
            Err(fault @ Fault::Store { .. }) if fault.stays() && !fault.ends_session() => 0,
            Err(fault) => return Err(fault),
        };
        Ok(Session {
            line,
            revision,
            heard: Mutex::new(Heard { last: Instant::now(), silent_since: None }),
            ended: CancellationToken::new(),
            why: OnceLock::new(),
        })
    }
}

pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
