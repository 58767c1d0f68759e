//! What operators see of the daemon and its cluster: probes, metrics, an API, and a live page.
//!
//! All of it happens on a thread of its own, with an event loop of its own: whatever operators ask for, the
//! wire does not wait. What they see is read from the daemon's shared state; nothing here changes it.

mod api;
mod events;
mod guard;
mod lookup;
pub mod metrics;
mod nodes;
mod page;
mod routes;

pub use guard::Token;
pub use routes::ROUTES;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::server::Daemon;
use crate::settings::Shown;

/// Most connections at once; others wait in the kernel's backlog. Their descriptors are few enough for the
/// reserve that nodes leave.
const CONNECTIONS_MAX: usize = 32;

/// Most of them that follow events.
const FOLLOWERS_MAX: usize = 16;

/// How long a request's head may take, and how long a connection may be idle.
const HEAD_TIME: Duration = Duration::from_secs(30);

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
}

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
    let state = State {
        daemon,
        about,
        token,
        started_at: SystemTime::now(),
        started: Instant::now(),
        followers: Semaphore::new(FOLLOWERS_MAX),
    };
    std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || runtime.block_on(serve(listener, Arc::new(state))))
}

async fn serve(listener: tokio::net::TcpListener, state: Arc<State>) {
    let stop = state.daemon.stop().clone();
    let router = routes::router(&state);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(serve_connection(stream, permit, router, stop));
            }
            Err(error) => {
                debug!(%error, "cannot accept operators");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    // Whoever is not done by then is cut off with the event loop.
    let _ = timeout(GRACE, connections.wait()).await;
}

async fn accept(
    listener: &tokio::net::TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.expect("nobody closes the semaphore");
    Ok((listener.accept().await?.0, permit))
}

async fn serve_connection(
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
    router: axum::Router,
    stop: CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an operator's connection failed");
    }
}
