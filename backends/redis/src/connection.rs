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

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::BoxStream;
use redis::{
    AsyncConnectionConfig, FromRedisValue, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisResult,
    ScriptInvocation, Value, cmd,
};
use repmd_backend_api::Change;
use repmd_backend_remote::kept::{self, State, keep};
use repmd_backend_remote::{Changes, Pulse};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::dial::{Entry, Line, dial};
use crate::error::{Failure, Fault};
use crate::keys::Keys;
use crate::primary::Finder;
use crate::settings::{Settings, Topology};
use crate::watch::change_of;

/// How long an attempt to find the primary and log in may take: a few round trips of a far store. Calls
/// do not wait that long.
const CONNECT: Duration = Duration::from_secs(2);

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
    changes: Changes,
    alone: bool,
}

/// One connection and the task that keeps it.
struct Kept {
    state: watch::Receiver<State<Session, Fault>>,
    _keeper: AbortOnDropHandle<()>,
}

struct Session {
    line: Line,
    pulse: Pulse<Fault>,
}

impl AsRef<Pulse<Fault>> for Session {
    fn as_ref(&self) -> &Pulse<Fault> {
        &self.pulse
    }
}

impl Connection {
    /// Starts connecting, and does not wait for it. Needs a tokio runtime.
    pub(crate) fn open(settings: Arc<Settings>, keys: &Keys) -> Self {
        let changes = Changes::new();
        let alone = matches!(settings.topology, Topology::Alone(_));
        let (moved, reached) = (watch::Sender::new(None), watch::Sender::new(()));
        let start = |lane| {
            let (sender, state) = watch::channel(State::Connecting);
            let keeper = Keeper {
                lane,
                finder: Finder::new(Arc::clone(&settings), keys.prefix().to_owned()),
                channel: keys.changes(),
                changes: changes.clone(),
                moved: moved.clone(),
                has_listened: false,
            };
            let keeping = keep(keeper, sender, reached.clone());
            Kept { state, _keeper: AbortOnDropHandle::new(tokio::spawn(keeping)) }
        };
        let (quick, bulk, listening) = (start(Lane::Quick), start(Lane::Bulk), start(Lane::Changes));
        Self { quick, bulk, _changes: listening, changes, alone }
    }

    /// Runs a script. When the connection turns out to be lost it runs the script once more: every script
    /// may be run again.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        lane: Lane,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, Failure> {
        self.call(lane, |session| async move { session.run(script).await }).await
    }

    /// Runs commands that may be run again, each by itself: what the store refuses of one costs that one alone.
    pub(crate) async fn run_each(
        &self,
        lane: Lane,
        commands: &Pipeline,
    ) -> Result<Vec<RedisResult<Value>>, Failure> {
        self.call(lane, |session| async move { session.run_each(commands).await }).await
    }

    async fn call<T, Answer: Future<Output = Result<T, Fault>>>(
        &self,
        lane: Lane,
        ask: impl Fn(Arc<Session>) -> Answer,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let kept = if lane == Lane::Bulk { &self.bulk } else { &self.quick };
        let answer = kept::call(&kept.state, ask).await;
        answer.map_err(|fault| Failure { fault, waited: started.elapsed(), alone: self.alone })
    }

    /// The changes from now on. As long as somebody watches, the connection is kept.
    pub(crate) fn changes(self: Arc<Self>) -> BoxStream<'static, Change> {
        self.changes.stream(Arc::clone(&self))
    }

    /// This machine's address on a connection that is open.
    pub(crate) fn local_address(&self) -> Option<IpAddr> {
        let of = |kept: &Kept| Some(kept.state.borrow().open()?.line.local_address);
        [&self.quick, &self.bulk].into_iter().find_map(of)
    }
}

impl Session {
    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, Fault> {
        let mut connection = self.line.connection.clone();
        let answer = script.invoke_async(&mut connection);
        self.pulse.hear(async { Ok(answer.await?) }).await
    }

    async fn run_each(&self, commands: &Pipeline) -> Result<Vec<RedisResult<Value>>, Fault> {
        let mut connection = self.line.connection.clone();
        let answers = commands.query_async(&mut connection);
        self.pulse.hear(async { Ok(answers.await?) }).await
    }
}

/// The task that keeps the connection of a lane.
struct Keeper {
    lane: Lane,
    finder: Finder,
    channel: String,
    changes: Changes,
    /// Whom to tell when another server is the primary.
    moved: watch::Sender<Option<Fault>>,
    /// What happened while nobody listened was missed.
    has_listened: bool,
}

impl kept::Keeper for Keeper {
    type Session = Session;
    type Fault = Fault;

    async fn connect(&mut self) -> Result<Session, Fault> {
        timeout(CONNECT, self.log_in()).await.unwrap_or(Err(Fault::Silent))
    }

    async fn attend(&mut self, session: &Session) {
        if self.lane == Lane::Changes && self.has_listened {
            // It is not told again.
            self.changes.tell(Change::Missed);
        }
        self.has_listened = true;
        let (pulse, mut moved) = (&session.pulse, self.moved.subscribe());
        tokio::select! {
            () = pulse.over() => {
                if let Some(fault) = pulse.why().filter(|fault| fault.has_moved()) {
                    self.moved.send_replace(Some(fault.clone()));
                }
            }
            () = check(session), if self.lane == Lane::Changes => pulse.end(Fault::Silent),
            // Another lane has met a server that is no primary.
            Ok(()) = moved.changed() => pulse.end(moved.borrow().clone().unwrap_or(Fault::Silent)),
        }
    }
}

impl Keeper {
    async fn log_in(&mut self) -> Result<Session, Fault> {
        let address = self.finder.find().await?;
        let Settings { access, database, .. } = self.finder.settings();
        let entry = Entry { access, database: *database, protocol: ProtocolVersion::RESP3 };
        let ended = CancellationToken::new();
        let (ends, changes) = (ended.clone(), self.changes.clone());
        let hear = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                ends.cancel();
            } else if let Some(change) = change_of(&push) {
                changes.tell(change);
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
        Ok(Session { line, pulse: Pulse::new(self.lane.patience(), ended) })
    }
}

/// Asks for a sign of life again and again, and returns when there is none. A refusal is one, too.
async fn check(session: &Session) {
    let mut connection = session.line.connection.clone();
    loop {
        sleep(CHECK).await;
        if timeout(session.pulse.patience(), cmd("TIME").exec_async(&mut connection)).await.is_err() {
            return;
        }
    }
}
