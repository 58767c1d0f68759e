//! The way to a member that has a leader, kept open: found, watched, and found anew when it is lost.
//!
//! Calls have no deadline here. Whoever calls has one, and a call that is dropped without an answer is what a stalled
//! connection is known by, and a member that can no longer reach the others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use repmd_backend_remote::kept::{self, State, USEFUL, keep, random};
use repmd_backend_remote::{Address, Fault as _, Pulse};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::dial::dial;
use crate::error::Fault;
use crate::history::History;
use crate::keys::Keys;
use crate::line::Line;
use crate::proto::{RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse};
use crate::settings::Settings;

/// How long an attempt to reach a member and log in may take: a few round trips of a far store. Calls do not wait
/// that long.
const CONNECT: Duration = Duration::from_secs(2);

/// For how long a connection says nothing while calls wait for it until it counts as stalled: two calls, in the
/// patience of those who make them.
const PATIENCE: Duration = Duration::from_millis(900);

/// The connection to the store. A task keeps it open until this is dropped.
pub(crate) struct Connection {
    state: watch::Receiver<State<Session, Fault>>,
    history: Arc<History>,
    _keeper: AbortOnDropHandle<()>,
}

/// A connection while it lasts.
pub(crate) struct Session {
    pub(crate) line: Line,
    /// The store's revision when it began.
    pub(crate) revision: i64,
    pub(crate) pulse: Pulse<Fault>,
}

impl AsRef<Pulse<Fault>> for Session {
    fn as_ref(&self) -> &Pulse<Fault> {
        &self.pulse
    }
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
            history: Arc::clone(&history),
            logged_in_again: false,
        };
        let keeping = keep(keeper, sender, watch::Sender::new(()));
        Self { state, history, _keeper: AbortOnDropHandle::new(tokio::spawn(keeping)) }
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
        let ask = |session: Arc<Session>| {
            let question = question.clone();
            async move { session.pulse.hear(session.line.unary(path, question)).await }
        };
        kept::call(&self.state, ask).await
    }

    /// Lets leases begin anew, see [`Line::keep_alive`].
    pub(crate) async fn keep_alive(&self, leases: &[i64]) -> Result<Vec<i64>, Fault> {
        let ask =
            |session: Arc<Session>| async move { session.pulse.hear(session.line.keep_alive(leases)).await };
        kept::call(&self.state, ask).await
    }

    /// This machine's address on the connection, while it is open.
    pub(crate) fn local_address(&self) -> Option<IpAddr> {
        Some(self.state.borrow().open()?.line.local_address)
    }

    /// The next session that there is, for whoever has time.
    pub(crate) fn sessions(&self) -> Sessions {
        Sessions(self.state.clone())
    }
}

/// Waits for connections without keeping them.
pub(crate) struct Sessions(watch::Receiver<State<Session, Fault>>);

impl Sessions {
    /// The one that there is, or will be. `None` once there will be none.
    pub(crate) async fn next(&mut self) -> Option<Arc<Session>> {
        let state = self.0.wait_for(|state| state.open().is_some()).await;
        state.ok().and_then(|state| state.open().cloned())
    }
}

/// The task that keeps the connection.
struct Keeper {
    settings: Arc<Settings>,
    /// Which of the endpoints is tried next.
    next: usize,
    /// A key that may be asked for.
    epoch: String,
    history: Arc<History>,
    /// The last session ended because the store's users were changed.
    logged_in_again: bool,
}

impl kept::Keeper for Keeper {
    type Session = Session;
    type Fault = Fault;

    async fn connect(&mut self) -> Result<Session, Fault> {
        self.connect_to_any().await
    }

    async fn attend(&mut self, session: &Session) {
        let since = Instant::now();
        session.pulse.over().await;
        if USEFUL < since.elapsed() {
            self.logged_in_again = false;
        }
    }

    /// Such as a member that has lost the others: the next session may fare as badly.
    fn after(&mut self, why: Option<Fault>) -> Option<State<Session, Fault>> {
        if !self.logged_in_again && why.as_ref().is_some_and(Fault::is_old_login) {
            // The store's users were changed just now; whoever asks waits for another login.
            self.logged_in_again = true;
            return None;
        }
        let closed = || Fault::Connection { reason: "the store closes each connection".to_owned() };
        Some(State::Down(why.unwrap_or_else(closed)))
    }
}

impl Keeper {
    /// The first member that has a leader. Otherwise the fault that tells most.
    async fn connect_to_any(&mut self) -> Result<Session, Fault> {
        let endpoints = self.settings.endpoints.len();
        let mut faults = Vec::new();
        for _ in 0..endpoints {
            let at = self.next % endpoints;
            // If this one is lost soon, it is the next one's turn.
            self.next = at + 1;
            match timeout(CONNECT, self.connect_to(&self.settings.endpoints[at]))
                .await
                .unwrap_or(Err(Fault::Silent))
            {
                Ok(session) => return Ok(session),
                Err(fault) => faults.push(fault),
            }
        }
        Err(faults.into_iter().max_by_key(Fault::tells).unwrap_or(Fault::Silent))
    }

    async fn connect_to(&self, address: &Address) -> Result<Session, Fault> {
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
        let pulse = Pulse::new(PATIENCE, line.ended.child_token());
        Ok(Session { line, revision, pulse })
    }
}
