//! What operators see of the daemon and its cluster: probes, metrics, an API, and a live page.
//!
//! All of it happens on a thread of its own, with an event loop of its own: whatever operators ask for, the
//! wire does not wait. What they see is read from the daemon's shared state; nothing here changes it.

mod api;
mod events;
mod guard;
mod history;
mod links;
mod lookup;
pub mod metrics;
mod nodes;
mod page;
mod routes;

pub use guard::Token;
pub use routes::ROUTES;

use std::future::pending;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use hickory_proto::rr::Name;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::dns;
use crate::links::Links;
use crate::printable::in_words;
use crate::queue::Queue;
use crate::server::{Daemon, Verb};
use crate::settings::Shown;

/// Most of the connections that follow events. They may stay for ever, so they have places of their own.
const FOLLOWERS_MAX: usize = 16;

/// Lists of more than a thousand nodes that are on their way at once: each is in memory until it is read.
const LONG_LISTS_MAX: usize = 2;

/// How long a request's head may take, and how long a connection may be idle.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// How long a connection may stay that does not follow events. The request that is under way then is answered.
const CONNECTION_TIME: Duration = Duration::from_secs(30);

/// How long what was sent may stay unread, or the last answer of a connection take.
const UNREAD_TIME: Duration = Duration::from_secs(10);

/// How long not to accept when no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long answers that are on their way may take when the daemon stops.
const GRACE: Duration = Duration::from_millis(250);

/// What the daemon itself does not know of its settings.
#[derive(Clone, Debug)]
pub struct About {
    /// Every setting with its origin, without secrets.
    pub settings: Vec<Shown>,
    /// The registry within the store.
    pub cluster: String,
    /// What DNS counts.
    pub dns: Arc<dns::Stats>,
    /// The zones that are answered for by DNS; empty: none is.
    pub dns_zones: Vec<Name>,
    /// The links between nodes.
    pub links: Arc<Links>,
}

/// What the answers are made of.
#[derive(Debug)]
struct State {
    daemon: Arc<Daemon>,
    about: About,
    token: Option<Token>,
    started_at: SystemTime,
    started: Instant,
    followers: Semaphore,
    long_lists: Arc<Semaphore>,
    /// The connections of those who do not follow events. Whoever comes when all places are taken gets that of the
    /// oldest: nobody who opens connections and does nothing keeps a probe out.
    connections: Queue,
}

/// Fires when a connection follows events.
#[derive(Clone, Debug)]
struct Follows(CancellationToken);

/// Serves operators on `socket`, which does not block, until the daemon stops. With a `token`, whoever wants to know more
/// than whether the daemon is well must have it.
///
/// # Errors
/// When there can be no thread or no event loop.
pub fn start(
    socket: TcpListener,
    token: Option<Token>,
    daemon: Arc<Daemon>,
    about: About,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _in_runtime = runtime.enter();
        tokio::net::TcpListener::from_std(socket)?
    };
    let connections_max = daemon.limits().operators_max;
    let state = State {
        daemon,
        about,
        token,
        started_at: SystemTime::now(),
        started: Instant::now(),
        followers: Semaphore::new(FOLLOWERS_MAX),
        long_lists: Arc::new(Semaphore::new(LONG_LISTS_MAX)),
        connections: Queue::new(connections_max).with_places_per_peer_max((connections_max / 2).max(1)),
    };
    std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || runtime.block_on(serve(listener, Arc::new(state))))
}

async fn serve(listener: tokio::net::TcpListener, state: Arc<State>) {
    let stop = state.daemon.stop().clone();
    let router = routes::router(&state);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let local = || Some(stream.local_addr().ok()?.ip().to_canonical());
                if !state.daemon.may_now(Verb::Operate, peer.ip().to_canonical(), local) {
                    debug!(%peer, "may not look at what operators see");
                    continue;
                }
                let (state, router, stop) = (Arc::clone(&state), router.clone(), stop.clone());
                connections
                    .spawn(async move { serve_connection(stream, peer.ip(), &state, router, stop).await });
            }
            Err(error) => {
                debug!(error = %in_words(&error), "cannot accept operators");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    // Whoever is not done by then is cut off with the event loop.
    let _ = timeout(GRACE, connections.wait()).await;
}

async fn serve_connection(
    stream: TcpStream,
    peer: IpAddr,
    state: &State,
    router: axum::Router,
    stop: CancellationToken,
) {
    let mut place = Some(state.connections.join(Some(peer.to_canonical())));
    // A kernel that refuses leaves a reader that stands still to the other bounds.
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIME));
    let follows = CancellationToken::new();
    let service = {
        let (router, follows) = (TowerToHyperService::new(router), Follows(follows.clone()));
        service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(follows.clone());
            router.call(request)
        })
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut is_last = false;
    let mut until = Instant::now() + CONNECTION_TIME;
    let ended = loop {
        let over = async {
            match &place {
                Some(place) => place.over().await,
                None => pending().await,
            }
        };
        tokio::select! {
            ended = &mut connection => break ended,
            () = over => return debug!(%peer, "an operator's connection makes room for another"),
            () = follows.cancelled(), if place.is_some() => place = None,
            () = stop.cancelled(), if !is_last => {
                is_last = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(until), if place.is_some() => {
                if is_last {
                    return debug!(%peer, "an operator does not read the answer");
                }
                is_last = true;
                until = Instant::now() + UNREAD_TIME;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        debug!(%peer, error = %in_words(&error), "an operator's connection failed");
    }
}
