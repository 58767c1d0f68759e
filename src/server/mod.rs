//! The daemon: accepts connections, answers each, and drains.
//!
//! One look-up is accept, read, decode, policy, table, encode, one write, close: no task, no channel,
//! and no timer where the request arrives with its connection, as it does under load.

mod alive;
mod answer;
mod carried;
mod connection;
mod crowd;
mod daemon;
mod explain;
mod limits;
mod orphans;
mod policy;
mod resolve;
mod stats;
mod table;
mod topology;

pub use carried::{Carried, CarriedNode, Departed, NodeKeeper, Progress, ServedNode, UnderWay};
pub use daemon::Daemon;
pub use limits::Limits;
pub(crate) use policy::is_local;
pub use policy::{May, Networks, Policy, Verb};
pub use stats::Stats;
pub use table::AliveSocket;
pub(crate) use table::hang_up;
pub use topology::{Names, Topology};

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, error, info, warn};

use connection::sleep_if;

use crate::printable::in_words;

/// Connections that one listener accepts before others get their turn.
const ACCEPT_BATCH: usize = 64;

/// How long it accepts before they do: a long list takes as long as a hundred look-ups.
const ACCEPT_TIME: Duration = Duration::from_millis(2);

/// Batches that a listener accepts once the daemon is to stop: more than a backlog holds, but no more than
/// that for callers who never cease.
const LAST_BATCHES_MAX: usize = 1024;

/// A socket that listens, and the port that NAMES and DUMP report to those who connect to it.
#[derive(Debug)]
pub struct Listener {
    /// Bound, listening, non-blocking.
    pub socket: TcpListener,
    /// The port that clients use.
    pub port: u16,
}

/// Puts another program in this one's place, with all that the daemon carries over and these sockets that listen, and
/// where nobody is served since then. Returns only where it fails.
pub type Replace = Box<dyn FnOnce(&Carried<Arc<AliveSocket>>, &[BorrowedFd<'_>], Instant) + Send>;

/// Serves until the daemon's stop token fires or a KILL is granted, then drains: no new connections,
/// requests that are on their way are answered for up to [`Limits::drain_time`], and the connections of
/// nodes are closed last. Each that comes from `replacements` is tried; meanwhile nobody is served.
///
/// # Errors
/// When a listener cannot be watched. Nothing that a peer does ends the daemon.
pub async fn serve(
    listeners: Vec<Listener>,
    daemon: Arc<Daemon>,
    mut replacements: mpsc::Receiver<Replace>,
) -> io::Result<()> {
    let watched = |Listener { socket, port }| Ok((Arc::new(repmd_sys::watch_listener(socket)?), port));
    let listeners = listeners.into_iter().map(watched).collect::<io::Result<Vec<_>>>()?;
    loop {
        let mut accepting = JoinSet::new();
        for (socket, port) in &listeners {
            accepting.spawn(accept_all(Arc::clone(socket), *port, Arc::clone(&daemon)));
        }
        let replace = tokio::select! {
            () = all_ended(&mut accepting) => break,
            Some(replace) = replacements.recv() => replace,
        };
        let since = Instant::now();
        // Each ends between two connections.
        accepting.abort_all();
        all_ended(&mut accepting).await;
        match daemon.freeze().await {
            Some(under_way) => {
                let carried = Carried { under_way, ..daemon.carried() };
                let sockets: Vec<_> = listeners.iter().map(|(socket, _)| socket.as_fd()).collect();
                replace(&carried, &sockets, since);
                daemon.thaw(carried.under_way);
            }
            // Whoever waits for the replacement hears that it is gone.
            None => daemon.thaw(Vec::new()),
        }
    }
    // Nobody else is to wait in the kernel's backlog for whom no answer will come.
    drop(listeners);
    if daemon.was_killed() {
        return Ok(());
    }
    drain(&daemon).await;
    Ok(())
}

async fn drain(daemon: &Daemon) {
    info!(nodes = daemon.table().len(), "stopping");
    let deadline = Instant::now() + daemon.limits.drain_time;
    daemon.requests.close();
    if timeout_at(deadline, daemon.requests.wait()).await.is_err() {
        warn!(left = daemon.requests.len(), "the drain time is over, closing the rest");
    }
    daemon.registry.hand_over();
    if daemon.node_keeper.is_some() {
        // Their connections outlive this process, as far as they are kept; with it the others end.
        return;
    }
    daemon.nodes.close();
    daemon.table().hang_up_all();
    if timeout_at(deadline, daemon.nodes.wait()).await.is_err() {
        warn!(left = daemon.nodes.len(), "the drain time is over, leaving nodes to their leases");
    }
}

async fn all_ended(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && !error.is_cancelled()
        {
            error!(%error, "a listener failed");
        }
    }
}

/// Accepts on one socket until the daemon stops, and then what is in its backlog: its clients believe that
/// they are served.
async fn accept_all(listener: Arc<AsyncFd<TcpListener>>, port: u16, daemon: Arc<Daemon>) {
    let mut scratch = Vec::new();
    loop {
        let mut ready = tokio::select! {
            biased;
            () = daemon.stop().cancelled() => break,
            ready = listener.readable() => match ready {
                Ok(ready) => ready,
                Err(error) => return error!(error = %in_words(&error), "a listener cannot be watched any longer"),
            },
        };
        sleep_if(daemon.limits.delay_accept).await;
        match accept_batch(listener.get_ref(), port, &daemon, &mut scratch) {
            Batch::More => yield_now().await,
            Batch::Empty => ready.clear_ready(),
            Batch::Exhausted(error) => make_room(&daemon, error).await,
        }
    }
    if daemon.was_killed() {
        return;
    }
    for _ in 0..LAST_BATCHES_MAX {
        match accept_batch(listener.get_ref(), port, &daemon, &mut scratch) {
            Batch::More => yield_now().await,
            Batch::Empty => return,
            Batch::Exhausted(error) => make_room(&daemon, error).await,
        }
    }
}

/// How a batch of accepts ended.
enum Batch {
    /// There may be more in the backlog.
    More,
    /// The backlog is empty.
    Empty,
    /// No descriptor or no memory is left for another connection, or the system refuses them.
    Exhausted(Errno),
}

fn accept_batch(listener: &TcpListener, port: u16, daemon: &Arc<Daemon>, scratch: &mut Vec<u8>) -> Batch {
    let started = std::time::Instant::now();
    for accepted in 0..ACCEPT_BATCH {
        // An accept that finds nothing makes a socket and throws it away, a poll does not; but where there
        // is a second connection there are more, and then one such accept ends a whole batch.
        if accepted == 1 && !has_backlog(listener) {
            return Batch::Empty;
        }
        match acceptfrom_with(listener.as_fd(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((fd, address)) => {
                let Some(peer) = address.and_then(|address| SocketAddr::try_from(address).ok()) else {
                    continue;
                };
                daemon.stats.connections.add();
                connection::serve(daemon, fd, peer.ip().to_canonical(), port, scratch);
                if ACCEPT_TIME < started.elapsed() {
                    return Batch::More;
                }
            }
            Err(Errno::AGAIN) => return Batch::Empty,
            Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                // The kernel wants a descriptor before it looks whether somebody is there to get it.
                return if has_backlog(listener) { Batch::Exhausted(error) } else { Batch::Empty };
            }
            // The connection is gone before it was accepted, or a network error is reported for it.
            Err(error) if is_of_one_connection(error) => debug!(error = %in_words(&error), "accept failed"),
            // Such as EPERM by a security module. It may last, and a bare retry would spin.
            Err(error) => return Batch::Exhausted(error),
        }
    }
    Batch::More
}

/// What accept(2) says to treat as a retry: errors of the network that were pending on the new socket.
fn is_of_one_connection(error: Errno) -> bool {
    [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
        Errno::TIMEDOUT,
    ]
    .contains(&error)
}

fn has_backlog(listener: &TcpListener) -> bool {
    let at_once = Timespec::default();
    // An interrupted poll says nothing; the accept that follows will.
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&at_once)) != Ok(0)
}

/// Out of descriptors: the stock daemon exits here, a bare retry would spin. Whoever has waited longest
/// goes, or has read longest; if there is none, callers queue in the kernel's backlog for a moment.
async fn make_room(daemon: &Daemon, error: Errno) {
    if daemon.waiting.end_oldest() || daemon.holder_waits.end_oldest() || daemon.slow_readers.end_oldest() {
        // Its descriptor is free once its task has run. Without that turn, all would go for one newcomer.
        return yield_now().await;
    }
    daemon.stats.pauses.add();
    if let Some(left_out) = daemon.complaints.pass() {
        warn!(error = %in_words(&error), left_out, nodes = daemon.table().len(), "cannot accept, pausing");
    }
    sleep(daemon.limits.accept_pause).await;
}
