//! [`RegistryBackend::release`](repmd_backend_api::RegistryBackend::release): ends one lease.

use repmd_backend_api::{Renewal, Scope};

use crate::Fixture;
use crate::daemon::Daemon;

pub async fn a_released_name_is_gone_for_everybody_and_free(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let lease = first.register("rabbit").await;
    let staying = first.register("hare").await;
    first.release(&lease).await;
    for daemon in [&first, &second] {
        assert_eq!(daemon.find("rabbit", &Scope::Cluster).await, []);
        assert_eq!(daemon.found("rabbit").await, None);
        assert_eq!(daemon.listed(&Scope::Cluster).await, ["hare"]);
    }
    second.register("rabbit").await;
    assert_eq!(first.renew(&[staying]).await, [Renewal::Held]);
}

pub async fn a_release_that_is_repeated_does_nothing(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let lease = daemon.register("rabbit").await;
    daemon.release(&lease).await;
    daemon.release(&lease).await;
    assert_eq!(daemon.found("rabbit").await, None);
}

/// A close that arrives late must not evict the node's next life.
pub async fn releasing_a_replaced_lease_leaves_its_successor_alone(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let old = daemon.register("rabbit").await;
    let new = daemon.register("rabbit").await;
    daemon.release(&old).await;
    assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&new.registration));
    assert_eq!(daemon.renew(&[new]).await, [Renewal::Held]);
}
