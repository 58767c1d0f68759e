//! The way to the primary, kept open: found, watched, and found anew when it is lost.
//!
//! One server, Sentinel and Redis Cluster differ in how the primary is found and in nothing else: all keys
//! of a cluster have one hash tag and so one primary. The client library's own managers are not used. They
//! keep a connection that stalls, make every call wait for one that is refused, and leave Sentinel's
//! fail-overs to the caller.
//!
//! Each lane has a connection and a task that keeps it: one that stalls is replaced while the others go on.
//! Calls have no deadline here. Whoever calls has one, and a call that is dropped without an answer is what
//! a stalled connection is known by.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use redis::{
    AsyncConnectionConfig, FromRedisValue, ProtocolVersion, PushInfo, PushKind, ScriptInvocation, cmd,
};
use repmd_backend_api::Change;
use tokio::sync::{broadcast, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::dial::{Entry, Line, dial};
use crate::error::{Failure, Fault};
use crate::keys::Keys;
use crate::primary::Finder;
use crate::settings::{Settings, Topology};
use crate::watch::{CHANGES_MAX, change_of};

/// How long an attempt to find the primary and log in may take: a few round trips of a far store. Calls
/// do not wait that long.
const CONNECT: Duration = Duration::from_secs(2);

/// Waits between attempts: they double from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// A session that ends sooner has not done any good: the next attempt waits.
const USEFUL: Duration = Duration::from_secs(1);

/// A call that was dropped sooner says nothing of its connection.
const SILENCE_MIN: Duration = Duration::from_millis(100);

/// How often the connection that is listened on is asked for a sign of life.
const CHECK: Duration = Duration::from_secs(5);

/// Which of the connections a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// For what somebody waits for.
    Quick,
    /// For batches and long answers, so that nothing quick queues behind them.
    Bulk,
    /// For what the scripts publish. Redis ends a connection that is subscribed when its answers pile up,
    /// sooner than others.
    Changes,
}

impl Lane {
    /// For how long a connection says nothing while calls wait for it until it counts as stalled: two calls,
    /// in the patience of those who make them. TCP alone would keep it for ever.
    fn patience(self) -> Duration {
        match self {
            Self::Quick => Duration::from_millis(900),
            Self::Bulk | Self::Changes => Duration::from_millis(3900),
        }
    }
}

/// The connections to the primary. Tasks keep them open until this is dropped.
pub(crate) struct Connection {
    quick: Kept,
    bulk: Kept,
    /// Kept for what comes over it.
    _changes: Kept,
    changes: broadcast::Sender<Change>,
    alone: bool,
}

/// One connection and the task that keeps it.
struct Kept {
    state: watch::Receiver<State>,
    _keeper: AbortOnDropHandle<()>,
}

#[derive(Clone)]
enum State {
    Connecting,
    Up(Arc<Session>),
    /// The last attempt failed. Calls fail at once instead of waiting for the next.
    Down(Fault),
}

struct Session {
    line: Line,
    patience: Duration,
    heard: Mutex<Heard>,
    ended: CancellationToken,
    /// Why, if a call ended it.
    why: OnceLock<Fault>,
    /// Whom to tell when another server is the primary.
    moved: watch::Sender<Option<Fault>>,
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
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let alone = matches!(settings.topology, Topology::Alone(_));
        let (moved, reached) = (watch::Sender::new(None), watch::Sender::new(()));
        let keep = |lane| {
            let (sender, state) = watch::channel(State::Connecting);
            let keeper = Keeper {
                lane,
                finder: Finder::new(Arc::clone(&settings), keys.prefix().to_owned()),
                channel: keys.changes(),
                state: sender,
                changes: changes.clone(),
                moved: moved.clone(),
                reached: reached.clone(),
            };
            Kept { state, _keeper: AbortOnDropHandle::new(tokio::spawn(keeper.run())) }
        };
        let (quick, bulk, listening) = (keep(Lane::Quick), keep(Lane::Bulk), keep(Lane::Changes));
        Self { quick, bulk, _changes: listening, changes, alone }
    }

    /// Runs a script. When the connection turns out to be lost it runs the script once more: every script
    /// may be run again.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        lane: Lane,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let kept = if lane == Lane::Bulk { &self.bulk } else { &self.quick };
        let mut is_retry = false;
        loop {
            let fault = match kept.session().await {
                Err(fault) => fault,
                Ok(session) => match session.run(script).await {
                    Ok(answer) => return Ok(answer),
                    Err(fault) if fault.ends_session() && !is_retry => {
                        is_retry = true;
                        continue;
                    }
                    Err(fault) => fault,
                },
            };
            return Err(Failure { fault, waited: started.elapsed(), alone: self.alone });
        }
    }

    /// The changes from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// This machine's address on a connection that is open.
    pub(crate) fn local_address(&self) -> Option<IpAddr> {
        [&self.quick, &self.bulk].into_iter().find_map(|kept| match &*kept.state.borrow() {
            State::Up(session) if !session.ended.is_cancelled() => Some(session.line.local_address),
            State::Connecting | State::Up(_) | State::Down(_) => None,
        })
    }
}

impl Kept {
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
}

impl Session {
    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, Fault> {
        let mut unanswered = Unanswered { session: self, started: Some(Instant::now()) };
        let result = script.invoke_async(&mut self.line.connection.clone()).await;
        unanswered.started = None;
        *self.heard() = Heard { last: Instant::now(), silent_since: None };
        result.map_err(|error| {
            let fault = Fault::Store(error);
            if fault.ends_session() {
                self.end(fault.clone());
            }
            fault
        })
    }

    fn end(&self, fault: Fault) {
        // The first reason is the one.
        if self.why.set(fault.clone()).is_ok() && fault.has_moved() {
            self.moved.send_replace(Some(fault));
        }
        self.ended.cancel();
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
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
        if self.session.patience < since.elapsed() {
            self.session.end(Fault::Silent);
        }
    }
}

/// The task that keeps the connection of a lane.
struct Keeper {
    lane: Lane,
    finder: Finder,
    channel: String,
    state: watch::Sender<State>,
    changes: broadcast::Sender<Change>,
    moved: watch::Sender<Option<Fault>>,
    /// Changes when a lane has reached the store.
    reached: watch::Sender<()>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = BACKOFF.0;
        let mut is_first = true;
        let mut reached = self.reached.subscribe();
        loop {
            reached.borrow_and_update();
            match timeout(CONNECT, self.connect()).await.unwrap_or(Err(Fault::Silent)) {
                Ok(session) => {
                    let since = Instant::now();
                    let session = Arc::new(session);
                    self.state.send_replace(State::Up(Arc::clone(&session)));
                    self.reached.send_replace(());
                    if self.lane == Lane::Changes && !is_first {
                        // What happened while nobody listened is not told again. It fails when nobody watches.
                        let _ = self.changes.send(Change::Missed);
                    }
                    is_first = false;
                    self.wait_for_the_end(&session).await;
                    if USEFUL < since.elapsed() {
                        self.state.send_replace(State::Connecting);
                        backoff = BACKOFF.0;
                        continue;
                    }
                    reached.borrow_and_update();
                    // Such as a replica where a primary was expected: the next session may fare as badly.
                    let why = session.why.get().cloned();
                    self.state.send_replace(why.map_or(State::Connecting, State::Down));
                }
                Err(fault) => {
                    self.state.send_replace(State::Down(fault));
                }
            }
            // Not all daemons at once.
            let random = RandomState::new().build_hasher().finish();
            let pause = sleep(backoff.mul_f64(0.5 + 0.5 * random as f64 / u64::MAX as f64));
            tokio::select! {
                () = pause => {}
                // The store is back, and nobody shall hear from one lane that it is and from another that it is not.
                Ok(()) = reached.changed() => {
                    self.state.send_replace(State::Connecting);
                }
            }
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn wait_for_the_end(&self, session: &Session) {
        let mut moved = self.moved.subscribe();
        tokio::select! {
            () = session.ended.cancelled() => {}
            () = check(session), if self.lane == Lane::Changes => session.end(Fault::Silent),
            Ok(()) = moved.changed() => {
                // Another lane has met a server that is no primary.
                let fault = moved.borrow().clone().unwrap_or(Fault::Silent);
                let _ = session.why.set(fault);
                session.ended.cancel();
            }
        }
    }

    async fn connect(&mut self) -> Result<Session, Fault> {
        let address = self.finder.find().await?;
        let Settings { login, tls, database, reading, .. } = self.finder.settings();
        let (tls, database, protocol) = (tls.as_ref(), *database, ProtocolVersion::RESP3);
        let entry = Entry { login, tls, database, protocol, reading };
        let ended = CancellationToken::new();
        let (ends, changes) = (ended.clone(), self.changes.clone());
        let hear = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                ends.cancel();
            } else if let Some(change) = change_of(&push) {
                // It fails when nobody watches.
                let _ = changes.send(change);
            }
            Ok::<(), ()>(())
        };
        let mut line = dial(&address, &entry, AsyncConnectionConfig::new().set_push_sender(hear)).await?;
        if self.lane == Lane::Changes {
            match line.connection.subscribe(&self.channel).await.map_err(Fault::Store) {
                // A user without the right to the channel goes without the speed-up.
                Err(fault) if !fault.stays() => return Err(fault),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(Session {
            line,
            patience: self.lane.patience(),
            heard: Mutex::new(Heard { last: Instant::now(), silent_since: None }),
            ended,
            why: OnceLock::new(),
            moved: self.moved.clone(),
        })
    }
}

/// Asks for a sign of life again and again, and returns when there is none. A refusal is one, too.
async fn check(session: &Session) {
    let mut connection = session.line.connection.clone();
    loop {
        sleep(CHECK).await;
        if timeout(session.patience, cmd("TIME").exec_async(&mut connection)).await.is_err() {
            return;
        }
    }
}
