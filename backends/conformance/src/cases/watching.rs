//! [`RegistryBackend::watch`](repmd_backend_api::RegistryBackend::watch): what others are told.

use repmd_backend_api::Change;

use crate::Fixture;
use crate::daemon::{Daemon, Watcher, alive, host};

pub async fn what_is_registered_moved_and_released_is_told_to_others(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let mut watcher = Watcher::start(&fixture).await;
    let (registered, released) = (
        Change::Registered(alive("rabbit@{é}"), host("db-1")),
        Change::Released(alive("rabbit@{é}"), host("db-1")),
    );
    daemon.register("rabbit@{é}").await;
    assert_eq!(watcher.next().await, registered);
    let mut moved = daemon.claim("rabbit@{é}");
    moved.node.port = 25673;
    let lease = daemon.backend.register(&moved).await.unwrap();
    assert_eq!(watcher.next().await, registered);
    daemon.release(&lease).await;
    assert_eq!(watcher.next().await, released);
}

pub async fn renewals_are_no_changes(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let mut watcher = Watcher::start(&fixture).await;
    let leases = [daemon.register("rabbit").await, daemon.register("hare").await];
    for _ in 0..3 {
        daemon.renew(&leases).await;
        daemon.publish(&leases).await;
    }
    daemon.register("mole").await;
    for name in ["rabbit", "hare", "mole"] {
        assert_eq!(watcher.next().await, Change::Registered(alive(name), host("db-1")));
    }
}
