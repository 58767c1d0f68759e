//! What a daemon sees to beside serving.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use crate::server::Daemon;

/// Nodes whose memory is worth giving back: some megabytes.
const MANY_NODES: usize = 1000;

/// Starts to. `patience`: how long after its last node the daemon ends; `None`: never.
pub(super) fn keep_house(daemon: &Arc<Daemon>, patience: Option<Duration>) {
    tokio::spawn(give_memory_back(Arc::clone(daemon)));
    if let Some(patience) = patience {
        tokio::spawn(end_when_empty(Arc::clone(daemon), patience));
    }
}

/// Gives the system back what lists for slow readers and thousands of nodes took, once they have gone: the allocator would
/// keep it for as many again.
async fn give_memory_back(daemon: Arc<Daemon>) {
    let (mut most_nodes, mut readers_before) = (0, 0);
    loop {
        sleep(Duration::from_secs(5)).await;
        let (nodes, readers) = (daemon.nodes_count(), daemon.slow_readers_total());
        most_nodes = most_nodes.max(nodes);
        let nodes_left = MANY_NODES <= most_nodes && nodes < most_nodes / 2;
        let readers_left = readers_before != readers && daemon.crowd_counts().1 == 0;
        if nodes_left || readers_left {
            // Some milliseconds, for which the wire does not wait.
            let _ = tokio::task::spawn_blocking(repmd_sys::give_free_memory_back).await;
            (most_nodes, readers_before) = (nodes, readers);
        }
    }
}

/// Ends the daemon when nodes have been there and none has been for so long.
async fn end_when_empty(daemon: Arc<Daemon>, patience: Duration) {
    let pause = (patience / 10).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let (mut came, mut was_used) = (0, false);
    let mut empty_since = Instant::now();
    loop {
        sleep(pause).await;
        let registrations = daemon.stats().granted.get();
        let has_nodes = 0 < daemon.nodes_count();
        was_used |= has_nodes || 0 < registrations;
        if !was_used || has_nodes || came != registrations {
            // One may have come and gone within the pause.
            came = registrations;
            empty_since = Instant::now();
        } else if patience <= empty_since.elapsed() {
            info!("no node is left: the daemon ends, as exit-when-empty says");
            return daemon.stop().cancel();
        }
    }
}
