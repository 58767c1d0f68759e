//! The way to the primary, kept open: found, watched, and found anew when it is lost.
//!
//! One server, Sentinel and Redis Cluster differ in how the primary is found and in nothing else: all keys
//! of a cluster have one hash tag and so one primary. The client library's own managers are not used. They
//! keep a connection that stalls, make every call wait for one that is refused, and leave Sentinel's
//! fail-overs to the caller.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, FromRedisValue, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, ScriptInvocation, TlsCertificates,
};
use repmd_backend_api::Change;
use secrecy::ExposeSecret;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::error::{Failure, Fault};
use crate::keys::Keys;
use crate::primary::Finder;
use crate::settings::{Address, Login, Settings, Tls, Topology, read};
use crate::watch::{CHANGES_MAX, change_of};

/// How long an attempt to find the primary and log in may take: a few round trips of a far store. Calls
/// do not wait that long.
const CONNECT: Duration = Duration::from_secs(2);

/// Waits between attempts: they double from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// A session that ends sooner has not done any good: the next attempt waits.
const USEFUL: Duration = Duration::from_secs(1);

/// Calls in a row without an answer after which a connection counts as stalled. TCP alone would keep it
/// for ever.
const SILENCES_MAX: u32 = 2;

/// When the kernel gives up a peer that acknowledges nothing.
const VANISHED: Duration = Duration::from_secs(5);

/// Which of the two connections a call takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lane {
    /// For what somebody waits for.
    Quick,
    /// For batches and long answers, so that nothing quick queues behind them.
    Bulk,
}

/// The connections to the primary. A task keeps them open until this is dropped.
pub(crate) struct Connection {
    state: watch::Receiver<State>,
    changes: broadcast::Sender<Change>,
    deadline: Duration,
    alone: bool,
    keeper: JoinHandle<()>,
}

#[derive(Clone)]
enum State {
    Connecting,
    Up(Arc<Session>),
    /// The last attempt failed. Calls fail at once instead of waiting for the next.
    Down(Fault),
}

struct Session {
    quick: MultiplexedConnection,
    bulk: MultiplexedConnection,
    /// Calls since the last answer.
    silences: AtomicU32,
    ended: CancellationToken,
    /// Why, if a call ended it.
    why: OnceLock<Fault>,
}

impl Connection {
    /// Starts connecting, and does not wait for it. Needs a tokio runtime.
    pub(crate) fn open(settings: Arc<Settings>, keys: &Keys) -> Self {
        let (sender, state) = watch::channel(State::Connecting);
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let (deadline, alone) = (settings.deadline, matches!(settings.topology, Topology::Alone(_)));
        let keeper = Keeper {
            finder: Finder::new(settings, keys.prefix().to_owned()),
            channel: keys.changes(),
            state: sender,
            changes: changes.clone(),
        };
        Self { state, changes, deadline, alone, keeper: tokio::spawn(keeper.run()) }
    }

    /// Runs a script, within the deadline. When the connection turns out to be lost it runs the script
    /// once more: every script may be run again.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        lane: Lane,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let deadline = (started + self.deadline).into();
        let mut is_retry = false;
        loop {
            let fault = match timeout_at(deadline, self.session()).await {
                Err(_) => Fault::Silent,
                Ok(Err(fault)) => fault,
                Ok(Ok(session)) => match session.run(lane, script, deadline).await {
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

impl Drop for Connection {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Session {
    async fn run<T: FromRedisValue>(
        &self,
        lane: Lane,
        script: &ScriptInvocation<'_>,
        deadline: tokio::time::Instant,
    ) -> Result<T, Fault> {
        let mut connection = match lane {
            Lane::Quick => self.quick.clone(),
            Lane::Bulk => self.bulk.clone(),
        };
        let Ok(result) = timeout_at(deadline, script.invoke_async(&mut connection)).await else {
            if SILENCES_MAX <= 1 + self.silences.fetch_add(1, Ordering::Relaxed) {
                self.end(Fault::Silent);
            }
            return Err(Fault::Silent);
        };
        self.silences.store(0, Ordering::Relaxed);
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
        let _ = self.why.set(fault);
        self.ended.cancel();
    }
}

/// The task that keeps a session.
struct Keeper {
    finder: Finder,
    channel: String,
    state: watch::Sender<State>,
    changes: broadcast::Sender<Change>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = BACKOFF.0;
        let mut is_first = true;
        loop {
            match timeout(CONNECT, self.connect()).await.unwrap_or(Err(Fault::Silent)) {
                Ok(session) => {
                    let since = Instant::now();
                    let session = Arc::new(session);
                    self.state.send_replace(State::Up(Arc::clone(&session)));
                    if !is_first {
                        // What happened while nobody listened is not told again. It fails when nobody watches.
                        let _ = self.changes.send(Change::Missed);
                    }
                    is_first = false;
                    session.ended.cancelled().await;
                    if USEFUL < since.elapsed() {
                        self.state.send_replace(State::Connecting);
                        backoff = BACKOFF.0;
                        continue;
                    }
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
            sleep(backoff.mul_f64(0.5 + 0.5 * random as f64 / u64::MAX as f64)).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn connect(&mut self) -> Result<Session, Fault> {
        let address = self.finder.find().await?;
        let Settings { login, tls, database, .. } = self.finder.settings();
        let client = client(&address, login, tls.as_ref(), *database, ProtocolVersion::RESP3)?;
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
        let config = without_timeouts().set_push_sender(hear);
        let (mut quick, bulk) = tokio::try_join!(
            client.get_multiplexed_async_connection_with_config(&config),
            client.get_multiplexed_async_connection_with_config(&config),
        )?;
        match quick.subscribe(&self.channel).await.map_err(Fault::Store) {
            // A user without the right to the channel goes without the speed-up.
            Err(fault) if !fault.stays() => return Err(fault),
            Ok(()) | Err(_) => {}
        }
        Ok(Session { quick, bulk, silences: AtomicU32::new(0), ended, why: OnceLock::new() })
    }
}

/// A client for one server. The files that the settings name are read now.
pub(crate) fn client(
    address: &Address,
    login: &Login,
    tls: Option<&Tls>,
    database: i64,
    protocol: ProtocolVersion,
) -> Result<Client, Fault> {
    let Address { host, port } = address.clone();
    let mut redis = RedisConnectionInfo::default().set_db(database).set_protocol(protocol);
    if let Some(user) = &login.user {
        redis = redis.set_username(user);
    }
    if let Some(password) = login.password()? {
        redis = redis.set_password(password.expose_secret());
    }
    let keepalive = TcpKeepalive::new().with_time(VANISHED).with_interval(Duration::from_secs(1));
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive.with_retries(3))
        .set_user_timeout(VANISHED);
    let info = |addr: ConnectionAddr| {
        Ok::<_, Fault>(addr.into_connection_info()?.set_redis_settings(redis).set_tcp_settings(tcp))
    };
    let Some(Tls { authority, certificate, key }) = tls else {
        return Ok(Client::open(info(ConnectionAddr::Tcp(host, port))?)?);
    };
    let root_cert = authority.as_deref().map(read).transpose()?;
    let client_tls = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
        }
        _ => None,
    };
    let address = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
    Ok(Client::build_with_tls(info(address)?, TlsCertificates { client_tls, root_cert })?)
}

/// Whoever uses the connection has a deadline of its own.
pub(crate) fn without_timeouts() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
}
