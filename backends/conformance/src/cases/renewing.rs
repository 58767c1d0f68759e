//! [`RegistryBackend::renew`](repmd_backend_api::RegistryBackend::renew): an upsert of the full record.

use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::{Creation, Lease, Renewal, Scope};

use crate::Fixture;
use crate::daemon::{Daemon, conflict_with};

pub async fn a_renewal_restores_the_full_record_after_a_loss(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    let leases = [daemon.register("rabbit").await, daemon.register("hare").await];
    fixture.lose_everything().await;
    assert_eq!(other.listed(&Scope::Cluster).await, [""; 0], "the store kept what it lost");
    assert_eq!(daemon.renew(&leases).await, [Renewal::Held, Renewal::Held]);
    for lease in &leases {
        let name = lease.registration.node.name.as_str();
        assert_eq!(other.find(name, &Scope::Cluster).await, [Arc::clone(&lease.registration)]);
        assert_eq!(other.find(name, &daemon.scope()).await, [Arc::clone(&lease.registration)]);
    }
    assert_eq!(other.listed(&daemon.scope()).await.len(), 2);
    assert_eq!(other.daemons(&Scope::Cluster).await, [daemon.instance]);
}

pub async fn a_renewal_publishes_a_node_that_was_accepted_without_the_store(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let lease = unpublished(&daemon, "rabbit");
    assert_eq!(daemon.renew(std::slice::from_ref(&lease)).await, [Renewal::Held]);
    assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&lease.registration));
    // From now on it is a lease as any other.
    assert_eq!(Daemon::start(&fixture, "other", "db-1").await.refused("rabbit").await, "db-1:4369");
    daemon.release(&lease).await;
    assert_eq!(daemon.found("rabbit").await, None);
}

pub async fn a_renewal_never_overwrites_another_owner(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let old = first.register("rabbit").await;
    first.backend.retire(&first.instance).await.unwrap();
    let new = second.register("rabbit").await;
    assert_eq!(first.renew(std::slice::from_ref(&old)).await, [conflict_with(&second)]);
    // A node that was accepted without the store clashes as well.
    assert_eq!(first.renew(&[unpublished(&first, "rabbit")]).await, [conflict_with(&second)]);
    assert_eq!(first.found("rabbit").await.as_ref(), Some(&new.registration));
    assert_eq!(second.renew(std::slice::from_ref(&new)).await, [Renewal::Held]);
    // An older lease of a daemon takes nothing back from its newer one.
    let newer = second.register("rabbit").await;
    assert_eq!(second.renew(&[new]).await, [conflict_with(&second)]);
    assert_eq!(second.found("rabbit").await.as_ref(), Some(&newer.registration));
}

pub async fn a_renewal_replaces_an_earlier_life_that_the_same_run_left_behind(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    daemon.register("rabbit").await;
    // The node came back on another port while the store was away, and nobody could tell it.
    let lease = unpublished(&daemon, "rabbit");
    assert_eq!(daemon.renew(std::slice::from_ref(&lease)).await, [Renewal::Held]);
    assert_eq!(other.find("rabbit", &daemon.scope()).await, [Arc::clone(&lease.registration)]);
    daemon.release(&lease).await;
    assert_eq!(daemon.found("rabbit").await, None);
}

pub async fn a_renewal_replaces_what_an_earlier_run_that_is_over_left_behind(fixture: impl Fixture) {
    let last_run = Daemon::of(&fixture, "db-1").await;
    let old = last_run.register("rabbit").await;
    let daemon = last_run.next_run(&fixture).await;
    let lease = unpublished(&daemon, "rabbit");
    // While both runs live, they are two daemons with one name: neither takes from the other.
    assert_eq!(daemon.renew(std::slice::from_ref(&lease)).await, [conflict_with(&daemon)]);
    last_run.backend.retire(&last_run.instance).await.unwrap();
    assert_eq!(daemon.renew(std::slice::from_ref(&lease)).await, [Renewal::Held]);
    assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&lease.registration));
    // What comes late from the run that is over takes nothing back.
    assert_eq!(last_run.renew(&[old]).await, [conflict_with(&daemon)]);
    assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&lease.registration));
}

pub async fn renewals_are_answered_in_the_order_of_the_leases(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let mut leases = Vec::new();
    for number in 0..9 {
        leases.push(first.register(&format!("rabbit{number}")).await);
    }
    first.backend.retire(&first.instance).await.unwrap();
    for taken in [0, 1, 4, 7] {
        second.register(&format!("rabbit{taken}")).await;
    }
    first.release(&leases[5]).await;
    let expected: Vec<_> = (0..9)
        .map(|number| if [0, 1, 4, 7].contains(&number) { conflict_with(&second) } else { Renewal::Held })
        .collect();
    assert_eq!(first.renew(&leases).await, expected);
}

pub async fn a_renewal_that_is_repeated_changes_nothing(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let mut leases = [daemon.register("rabbit").await, daemon.register("hare").await];
    // In no order that means anything.
    leases.reverse();
    let before = daemon.list(&Scope::Cluster).await;
    for _ in 0..3 {
        assert_eq!(daemon.renew(&leases).await, [Renewal::Held, Renewal::Held]);
        assert_eq!(daemon.list(&Scope::Cluster).await, before);
    }
}

pub async fn a_thousand_leases_are_renewed_in_one_call(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let leases: Vec<_> = (0..1000).map(|number| unpublished(&daemon, &format!("rabbit{number}"))).collect();
    for _ in 0..2 {
        assert_eq!(daemon.renew(&leases).await, vec![Renewal::Held; 1000]);
        assert_eq!(daemon.listed(&Scope::Cluster).await.len(), 1000);
    }
}

/// A lease of a node that the daemon accepted by itself.
fn unpublished(daemon: &Daemon, name: &str) -> Lease {
    daemon.claim(name).granted(Creation::offline(Duration::from_secs(1_800_000_000), 7))
}
