//! What holds on every store that is away, stalls or forgets: each is one test of each backend.

use std::net::IpAddr;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use repmd_backend_api::{RegistryBackend, Scope};
use tokio::time::sleep;

use crate::Backing;
use crate::daemon::{Daemon, Pair, in_time, is_unavailable, scope, until, until_ok};

/// The local address is that of the connection, and is known while that is open.
pub async fn the_local_address_is_known_while_connected<P: Pair>(mut store: P::Store) {
    let daemon = Daemon::<P>::on(&store, "a");
    assert_eq!(daemon.backend.local_address(), None);
    daemon.register("rabbit", 1).await.expect("the store is there");
    assert_eq!(daemon.backend.local_address(), Some(IpAddr::from([127, 0, 0, 1])));
    store.kill();
    until("it is not known", async || daemon.backend.local_address().is_none()).await;
    store.revive_empty();
    until("it is known again", async || daemon.backend.local_address().is_some()).await;
}

/// A store that is not there at the start is used `soon` after it comes, and costs no time until then.
pub async fn comes_later<P: Pair>(mut store: P::Store, soon: Duration) {
    store.kill();
    let daemon = Daemon::<P>::on(&store, "a");
    assert!(is_unavailable(in_time(daemon.register("rabbit", 1)).await));
    // From the second on nobody waits: it is known that nothing listens.
    let started = Instant::now();
    for _ in 0..100 {
        assert!(is_unavailable(daemon.find("rabbit", &Scope::Cluster).await));
    }
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    store.revive_empty();
    let (_, took) = until_ok("it registers", async || in_time(daemon.register("rabbit", 1)).await).await;
    assert!(took < soon, "{took:?}");
}

/// A store that stalls is given up within the program's deadline, and used again when it goes on.
pub async fn stalls<P: Pair>(mut store: P::Store) {
    let daemon = Daemon::<P>::on(&store, "a");
    let lease = daemon.register("rabbit", 1).await.expect("the store is there");
    store.pause();
    let until_known = Instant::now();
    while until_known.elapsed() < Duration::from_secs(4) {
        assert!(is_unavailable(in_time(daemon.renew(from_ref(&lease))).await));
        assert!(is_unavailable(in_time(daemon.register("rabbit", 1)).await));
        sleep(Duration::from_millis(20)).await;
    }
    store.resume();
    let renew = async || in_time(daemon.renew(from_ref(&lease))).await;
    let (_, took) = until_ok("it renews", renew).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
}

/// A registration whose answer was lost, and that was made, is repeated without a clash.
pub async fn loses_an_answer<P: Pair>(mut store: P::Store) {
    let daemon = Daemon::<P>::on(&store, "a");
    // So that the store knows what it is asked to do.
    daemon.register("other", 2).await.expect("the store is there");
    let claim = daemon.claim("rabbit", 1);
    store.pause();
    // It is in the server's buffer, and carried out later.
    assert!(is_unavailable(in_time(daemon.backend.register(&claim)).await));
    store.resume();
    let other = Daemon::<P>::on(&store, "a2");
    until_ok("the other one is there", async || other.backend.daemons(&Scope::Cluster).await).await;
    until("it was carried out", async || !other.ports("rabbit", &scope("a")).await.is_empty()).await;
    let again = async || daemon.backend.register(&claim).await;
    let (lease, _) = until_ok("the same claim gets its lease", again).await;
    assert_eq!(lease.token, claim.token(daemon.instance.id));
    let found = daemon.find("rabbit", &scope("a")).await.expect("the store is there").items;
    assert_eq!(found[0].registration.creation, lease.creation());
}
