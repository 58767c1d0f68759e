//! The way to the primary, kept open: found, watched, and found anew when it is lost.
//!
//! Each lane has a connection and a task that keeps it: one that stalls is replaced while the other goes on. Calls
//! have no deadline here. Whoever calls has one, and a call that is dropped without an answer is what a stalled
//! connection is known by.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{StreamExt, TryStreamExt};
use repmd_backend_api::{Change, InstanceId};
use repmd_backend_remote::kept::{self, State, WAITS, keep};
use repmd_backend_remote::{Address, Changes, Opened, Pulse};
use tokio::sync::{Notify, watch};
use tokio::time::{interval, sleep, timeout};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Notification, Row};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::dial::{Line, Listener, dial};
use crate::error::{Failure, Fault};
use crate::schema::{self, Looked};
use crate::settings::Settings;
use crate::watch::changes_of;

/// How long an attempt to find the primary and log in may take: a few round trips of a far store. Calls do not
/// wait that long.
const CONNECT: Duration = Duration::from_secs(2);

/// How long the tables may take to be made, once for each database.
const MAKE: Duration = Duration::from_secs(20);

/// How often the connection that is listened on is asked for a sign of life.
const CHECK: Duration = Duration::from_secs(5);

/// How long a notification to oneself may take until it is taken for lost.
const PROBE: Duration = Duration::from_secs(2);

/// How often it notifies itself. What stands in between may pass one on by chance, while the session that listens happens
/// to be lent to this connection.
const PROBES: u32 = 5;
const PROBE_PAUSE: Duration = Duration::from_millis(150);

/// How often the store is asked for changes where it cannot tell them.
const POLL: Duration = Duration::from_secs(1);

/// What one answer may take, in bytes of its rows: a list of a quarter of a million names.
const ANSWER_MAX: usize = 64 << 20;

/// The most rows of it: one may be empty.
const ROWS_MAX: usize = 500_000;

/// What a statement is given: values, each with its type, so that nothing is prepared. What stands between a daemon
/// and its server may give each statement to another session.
pub(crate) type Parameters<'a> = [(&'a (dyn ToSql + Sync), Type)];

/// Which of the connections a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// For what somebody waits for.
    Quick,
    /// For batches and long answers, so that nothing quick queues behind them, and for what the store tells.
    Bulk,
}

impl Lane {
    /// For how long a connection says nothing while calls wait for it until it counts as stalled: two calls, in
    /// the patience of those who make them. TCP alone would keep it for ever.
    fn patience(self) -> Duration {
        match self {
            Self::Quick => Duration::from_millis(900),
            Self::Bulk => Duration::from_millis(3900),
        }
    }
}

/// The connections to the primary. Tasks keep them open until this is dropped.
pub(crate) struct Connection {
    quick: Kept,
    bulk: Kept,
    changes: Changes,
    alone: bool,
    listens: Arc<watch::Sender<Option<bool>>>,
}

/// One connection and the task that keeps it.
struct Kept {
    state: watch::Receiver<State<Session, Fault>>,
    _keeper: AbortOnDropHandle<()>,
}

pub(crate) struct Session {
    pub(crate) line: Line,
    pub(crate) pulse: Pulse<Fault>,
    pub(crate) ears: Ears,
}

impl AsRef<Pulse<Fault>> for Session {
    fn as_ref(&self) -> &Pulse<Fault> {
        &self.pulse
    }
}

/// What is heard on a connection beside answers.
#[derive(Clone)]
pub(crate) struct Ears {
    ended: CancellationToken,
    changes: Changes,
    /// The channel on which this session notifies itself, to see whether it would hear of changes.
    probe: Arc<str>,
    probed: Arc<Notify>,
}

impl Ears {
    pub(crate) fn new(changes: Changes) -> Self {
        let probe = format!("repmd_probe_{}", InstanceId::random()).into();
        Self { ended: CancellationToken::new(), changes, probe, probed: Arc::default() }
    }
}

impl Listener for Ears {
    fn hear(&self, notification: &Notification) {
        if notification.channel() == &*self.probe {
            self.probed.notify_one();
        } else {
            for change in changes_of(notification.payload()) {
                self.changes.tell(change);
            }
        }
    }

    fn end(&self) {
        self.ended.cancel();
    }
}

impl Connection {
    /// Starts connecting, and does not wait for it. Needs a tokio runtime.
    pub(crate) fn open(settings: Arc<Settings>) -> Self {
        let changes = Changes::new();
        let alone = settings.addresses.len() == 1;
        let (moved, reached) = (watch::Sender::new(None), watch::Sender::new(()));
        let listens = Arc::new(watch::Sender::new(None));
        let (quick, quick_state) = watch::channel(State::Connecting);
        let (bulk, bulk_state) = watch::channel(State::Connecting);
        let start = |lane, sender, state| {
            let keeper = Keeper {
                lane,
                settings: Arc::clone(&settings),
                quick: quick_state.clone(),
                changes: changes.clone(),
                moved: moved.clone(),
                listens: Arc::clone(&listens),
                has_warned: AtomicBool::new(false),
                has_listened: false,
            };
            let keeping = keep(keeper, sender, reached.clone());
            Kept { state, _keeper: AbortOnDropHandle::new(tokio::spawn(keeping)) }
        };
        Self {
            quick: start(Lane::Quick, quick, quick_state.clone()),
            bulk: start(Lane::Bulk, bulk, bulk_state),
            changes,
            alone,
            listens,
        }
    }

    /// Runs a statement, and reads each row of its answer. When the connection turns out to be lost it runs it once
    /// more: every statement may be run again.
    pub(crate) async fn run<T>(
        &self,
        lane: Lane,
        statement: &str,
        parameters: &Parameters<'_>,
        read: impl Fn(&Row) -> T,
    ) -> Result<Vec<T>, Failure> {
        let started = Instant::now();
        let kept = if lane == Lane::Bulk { &self.bulk } else { &self.quick };
        let read = &read;
        let ask = |session: Arc<Session>| async move { session.run(statement, parameters, read).await };
        let answer = kept::call(&kept.state, ask).await;
        answer.map_err(|fault| Failure { fault, waited: started.elapsed(), alone: self.alone })
    }

    /// The changes from now on. As long as somebody watches, the connection is kept.
    pub(crate) fn changes(self: Arc<Self>) -> BoxStream<'static, Change> {
        self.changes.stream(Arc::clone(&self))
    }

    /// Whether the store tells changes, once that is known.
    pub(crate) async fn listens(&self) -> bool {
        let mut listens = self.listens.subscribe();
        listens.wait_for(Option::is_some).await.is_ok_and(|listens| *listens == Some(true))
    }

    /// This machine's address on a connection that is open.
    pub(crate) fn local_address(&self) -> Option<IpAddr> {
        let of = |kept: &Kept| Some(kept.state.borrow().open()?.line.local_address);
        [&self.quick, &self.bulk].into_iter().find_map(of)
    }
}

impl Session {
    pub(crate) async fn run<T>(
        &self,
        statement: &str,
        parameters: &Parameters<'_>,
        read: &impl Fn(&Row) -> T,
    ) -> Result<Vec<T>, Fault> {
        self.pulse.hear(self.ask(statement, parameters, read)).await
    }

    async fn ask<T>(
        &self,
        statement: &str,
        parameters: &Parameters<'_>,
        read: &impl Fn(&Row) -> T,
    ) -> Result<Vec<T>, Fault> {
        let parameters = parameters.iter().map(|(value, of_type)| (*value, of_type.clone()));
        let rows = self.line.client.query_typed_raw(statement, parameters).await?;
        let mut rows = std::pin::pin!(rows);
        let (mut answer, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            bytes += row.raw_size_bytes();
            if ANSWER_MAX < bytes || ROWS_MAX <= answer.len() {
                return Err(Fault::TooLong(ANSWER_MAX));
            }
            answer.push(read(&row));
        }
        Ok(answer)
    }
}

/// The task that keeps the connection of a lane.
struct Keeper {
    lane: Lane,
    settings: Arc<Settings>,
    /// The other connection, for whoever notifies itself.
    quick: watch::Receiver<State<Session, Fault>>,
    changes: Changes,
    /// Whom to tell when another server is the primary.
    moved: watch::Sender<Option<Fault>>,
    listens: Arc<watch::Sender<Option<bool>>>,
    has_warned: AtomicBool,
    /// What happened while nobody listened was missed.
    has_listened: bool,
}

impl kept::Keeper for Keeper {
    type Session = Session;
    type Fault = Fault;

    /// Finds the primary, logs in, and sees to it that the tables are there.
    async fn connect(&mut self) -> Result<Session, Fault> {
        let found = timeout(CONNECT, self.find()).await.unwrap_or(Err(Fault::Silent));
        let (line, ears, looked) = found?;
        let made = timeout(MAKE, schema::make(&line.client, &looked, self.settings.user()));
        made.await.unwrap_or(Err(Fault::Silent))?;
        if self.lane == Lane::Bulk {
            timeout(CONNECT, self.listen(&line, &ears)).await.unwrap_or(Err(Fault::Silent))?;
        }
        Ok(Session { line, pulse: Pulse::new(self.lane.patience(), ears.ended.clone()), ears })
    }

    async fn attend(&mut self, session: &Session) {
        if self.lane == Lane::Bulk && self.has_listened {
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
            () = self.follow(session), if self.lane == Lane::Bulk => pulse.end(Fault::Silent),
            // Another lane has met a server that is no primary.
            Ok(()) = moved.changed() => pulse.end(moved.borrow().clone().unwrap_or(Fault::Silent)),
        }
    }
}

impl Keeper {
    /// The first server that takes writes. All are asked at once: one that is gone shall not be waited for.
    async fn find(&self) -> Result<(Line, Ears, Looked), Fault> {
        let opened = self.settings.access.open::<Fault>().await?;
        let mut attempts: FuturesUnordered<_> =
            self.settings.addresses.iter().map(|address| self.try_one(address, &opened)).collect();
        let mut fault: Option<Fault> = None;
        while let Some(answer) = attempts.next().await {
            match answer {
                Ok(found) => return Ok(found),
                // The one that helps most: what somebody must change, or a server that answered.
                Err(other) if fault.as_ref().is_none_or(|fault| !fault.stays() && other.stays()) => {
                    fault = Some(other);
                }
                Err(other) if other.has_moved() && fault.as_ref().is_some_and(|fault| !fault.stays()) => {
                    fault = Some(other);
                }
                Err(_) => {}
            }
        }
        Err(fault.unwrap_or(Fault::Silent))
    }

    async fn try_one(&self, address: &Address, opened: &Opened) -> Result<(Line, Ears, Looked), Fault> {
        let ears = Ears::new(self.changes.clone());
        let line = dial(address, &self.settings, opened, &ears).await?;
        let looked = schema::look(&line.client).await?;
        if looked.is_read_only {
            return Err(Fault::ReadOnly { asked: address.to_string() });
        }
        Ok((line, ears, looked))
    }

    async fn listen(&self, line: &Line, ears: &Ears) -> Result<(), Fault> {
        let cluster: &(dyn ToSql + Sync) = &self.settings.cluster.as_bytes();
        let rows = line.client.query_typed("select repmd.channel($1)", &[(cluster, Type::BYTEA)]).await?;
        let channel: String = rows.first().ok_or(Fault::Silent)?.try_get(0)?;
        // It is part of a statement.
        if !channel.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(Fault::Silent);
        }
        Ok(line.client.batch_execute(&format!("listen {channel}; listen {}", ears.probe)).await?)
    }

    /// Finds out whether changes are told, asks for them where they are not, and returns when the connection says
    /// nothing any longer.
    async fn follow(&self, session: &Session) {
        let ears = &session.ears;
        let listens = self.hears_itself(ears).await;
        self.listens.send_replace(Some(listens));
        if !listens && !self.has_warned.swap(true, Ordering::Relaxed) {
            warn!(
                store = %self.settings.hosts(),
                "the store does not tell changes, as behind PgBouncer in transaction mode: it is asked each second"
            );
        }
        let cluster: &(dyn ToSql + Sync) = &self.settings.cluster.as_bytes();
        let cluster = [(cluster, Type::BYTEA)];
        let mut last: Option<i64> = None;
        let mut ticks = interval(if listens { CHECK } else { POLL });
        loop {
            ticks.tick().await;
            let read = |row: &Row| row.try_get::<_, i64>(0).unwrap_or_default();
            let asked = if listens {
                session.run("select 1::bigint", &[], &read)
            } else {
                session.run("select repmd.changes($1)", &cluster, &read)
            };
            // A refusal is a sign of life, too.
            match timeout(session.pulse.patience(), asked).await {
                Err(_) => return,
                Ok(Ok(answer)) if !listens => {
                    let now = answer.first().copied();
                    if last.is_some() && now != last {
                        self.changes.tell(Change::Missed);
                    }
                    last = now;
                }
                Ok(_) => {}
            }
        }
    }

    /// Whether what another session notifies arrives here.
    async fn hears_itself(&self, ears: &Ears) -> bool {
        let notify = async || {
            let probe: &(dyn ToSql + Sync) = &&*ears.probe;
            let statement = "select pg_catalog.pg_notify($1, '')";
            loop {
                if let Ok(session) = kept::session(&self.quick).await
                    && session.run(statement, &[(probe, Type::TEXT)], &|_| ()).await.is_ok()
                {
                    return;
                }
                sleep(WAITS.1).await;
            }
        };
        for probe in 0..PROBES {
            if 0 < probe {
                sleep(PROBE_PAUSE).await;
            }
            notify().await;
            if timeout(PROBE, ears.probed.notified()).await.is_err() {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{ask, one_row, rows};

    #[tokio::test(flavor = "current_thread")]
    async fn rows_of_nothing_do_not_come_for_ever() {
        assert_eq!(ask([one_row(&[])], |_| ()).await.unwrap().len(), 1);
        let endless = ask([rows(&[], ROWS_MAX + 1)], |_| ()).await;
        assert!(matches!(endless, Err(Fault::TooLong(_))), "{endless:?}");
    }
}
