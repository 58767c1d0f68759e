//! [`RegistryBackend::publish`](repmd_backend_api::RegistryBackend::publish): some of what a daemon holds.

use std::slice::from_ref;

use repmd_backend_api::{Renewal, Scope};

use crate::Fixture;
use crate::daemon::Daemon;

pub async fn a_node_that_was_accepted_without_the_store_is_published(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    let leases = [daemon.unpublished("rabbit"), daemon.unpublished("hare")];
    assert_eq!(daemon.publish(&leases).await, [Renewal::Held, Renewal::Held]);
    for lease in &leases {
        let name = lease.registration.node.name.as_str();
        assert_eq!(other.find(name, &daemon.scope()).await, from_ref(&lease.registration));
    }
    assert_eq!(other.daemons(&Scope::Cluster).await, [daemon.instance]);
}

pub async fn publishing_some_does_not_end_the_rest(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let mut leases = vec![daemon.register("rabbit").await, daemon.register("hare").await];
    daemon.renew(&leases).await;
    leases.push(daemon.unpublished("mole"));
    for lease in &leases {
        assert_eq!(daemon.publish(from_ref(lease)).await, [Renewal::Held]);
    }
    assert_eq!(daemon.publish(&[]).await, []);
    assert_eq!(daemon.listed(&Scope::Cluster).await, ["hare", "mole", "rabbit"]);
}

pub async fn publishing_replaces_an_earlier_life_that_the_same_run_left_behind(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    daemon.register("rabbit").await;
    let lease = daemon.unpublished("rabbit");
    assert_eq!(daemon.publish(from_ref(&lease)).await, [Renewal::Held]);
    assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&lease.registration));
    daemon.release(&lease).await;
    assert_eq!(daemon.found("rabbit").await, None);
}
