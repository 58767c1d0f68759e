//! [`RegistryBackend::renew`](repmd_backend_api::RegistryBackend::renew): an upsert of the full record.

use std::collections::HashMap;
use std::slice::from_ref;
use std::sync::{Arc, Mutex};

use repmd_backend_api::{Holdings, Renewal, Scope};

use crate::Fixture;
use crate::daemon::{Daemon, holdings};

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
    let lease = daemon.unpublished("rabbit");
    assert_eq!(daemon.renew(from_ref(&lease)).await, [Renewal::Held]);
    assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&lease.registration));
    // From now on it is a lease as any other.
    assert_eq!(daemon.renew(from_ref(&lease)).await, [Renewal::Held]);
    daemon.release(&lease).await;
    assert_eq!(daemon.found("rabbit").await, None);
}

pub async fn a_renewal_replaces_an_earlier_life_that_the_same_run_left_behind(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    daemon.register("rabbit").await;
    // The node came back on another port while the store was away, and nobody could tell it.
    let lease = daemon.unpublished("rabbit");
    assert_eq!(daemon.renew(from_ref(&lease)).await, [Renewal::Held]);
    assert_eq!(other.find("rabbit", &daemon.scope()).await, [Arc::clone(&lease.registration)]);
    daemon.release(&lease).await;
    assert_eq!(daemon.found("rabbit").await, None);
}

pub async fn a_renewal_that_is_repeated_changes_nothing(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let mut leases = [daemon.register("rabbit").await, daemon.register("hare").await];
    // In no order that means anything.
    leases.reverse();
    let listed = async || {
        let mut listed = daemon.list(&Scope::Cluster).await;
        listed.sort_by(|a, b| a.node.name.cmp(&b.node.name));
        listed
    };
    let before = listed().await;
    for _ in 0..3 {
        assert_eq!(daemon.renew(&leases).await, [Renewal::Held, Renewal::Held]);
        assert_eq!(listed().await, before);
    }
}

pub async fn a_thousand_leases_are_renewed_in_one_round(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let leases: Vec<_> = (0..1000).map(|number| daemon.unpublished(&format!("rabbit{number}"))).collect();
    for _ in 0..2 {
        assert_eq!(daemon.renew(&leases).await, vec![Renewal::Held; 1000]);
        assert_eq!(daemon.listed(&Scope::Cluster).await.len(), 1000);
    }
}

pub async fn a_lease_released_while_a_round_is_under_way_is_not_renewed(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let leases: Vec<_> = (0..1000).map(|number| daemon.unpublished(&format!("rabbit{number}"))).collect();
    daemon.renew(&leases).await;
    let held: HashMap<_, _> = leases.iter().map(|lease| (lease.token, lease.clone())).collect();
    let held = Mutex::new(held);
    let mut round = Holdings::new(leases.iter().map(|lease| held.lock().unwrap().get(&lease.token).cloned()));
    let mut answers = daemon.backend.renew(&mut round).await.unwrap().len();
    let (is_over, released) = (round.is_empty(), &leases[999]);
    held.lock().unwrap().remove(&released.token);
    daemon.release(released).await;
    while !round.is_empty() {
        answers += daemon.backend.renew(&mut round).await.unwrap().len();
    }
    assert_eq!(answers, if is_over { 1000 } else { 999 });
    assert_eq!(daemon.found("rabbit999").await, None);
    assert_eq!(daemon.listed(&Scope::Cluster).await.len(), 999);
}

pub async fn what_is_registered_while_a_round_is_under_way_is_kept(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let leases: Vec<_> = (0..1000).map(|number| daemon.unpublished(&format!("rabbit{number}"))).collect();
    daemon.renew(&leases).await;
    let mut round = holdings(&leases);
    daemon.backend.renew(&mut round).await.unwrap();
    daemon.register("mole").await;
    let published = daemon.unpublished("vole");
    daemon.publish(from_ref(&published)).await;
    while !round.is_empty() {
        daemon.backend.renew(&mut round).await.unwrap();
    }
    for name in ["mole", "vole"] {
        assert!(daemon.found(name).await.is_some(), "{name} is gone");
    }
}
