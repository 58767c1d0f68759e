//! [`RegistryBackend::daemons`](repmd_backend_api::RegistryBackend::daemons) and
//! [`RegistryBackend::retire`](repmd_backend_api::RegistryBackend::retire): who counts as alive.

use std::slice::from_ref;
use std::sync::Arc;

use repmd_backend_api::{Instance, Renewal, Scope};

use crate::Fixture;
use crate::daemon::{Daemon, host};

pub async fn a_daemon_is_listed_once_it_registered_or_renewed(fixture: impl Fixture) {
    let renewing = Daemon::start(&fixture, "a \"renewing\" daemon é", "db-1").await;
    let registering = Daemon::start(&fixture, "registering", "db-2").await;
    let publishing = Daemon::start(&fixture, "publishing", "db-2").await;
    let silent = Daemon::of(&fixture, "db-3").await;
    assert_eq!(silent.daemons(&Scope::Cluster).await, []);
    assert_eq!(renewing.renew(&[]).await, []);
    assert_eq!(silent.daemons(&Scope::Cluster).await, [Arc::clone(&renewing.instance)]);
    registering.register("rabbit").await;
    registering.register("hare").await;
    assert_eq!(publishing.publish(&[]).await, []);
    let all = [renewing.instance, publishing.instance, registering.instance];
    assert_eq!(silent.daemons(&Scope::Cluster).await, all);
}

pub async fn daemons_are_listed_within_their_scope(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let beside = Daemon::start(&fixture, "beside", "db-1").await;
    let elsewhere = Daemon::of(&fixture, "db-2").await;
    for started in [&daemon, &beside, &elsewhere] {
        started.renew(&[]).await;
    }
    for (scope, expected) in [
        (daemon.scope(), vec!["beside", "db-1:4369"]),
        (Scope::Host(host("db-1.example")), vec!["beside", "db-1:4369"]),
        (elsewhere.scope(), vec!["db-2:4369"]),
        (Scope::Host(host("db-3")), vec![]),
        (Scope::Cluster, vec!["beside", "db-1:4369", "db-2:4369"]),
    ] {
        let daemons = daemon.daemons(&scope).await;
        let names: Vec<_> = daemons.iter().map(|daemon| daemon.name.as_str()).collect();
        assert_eq!(names, expected, "{scope:?}");
    }
}

pub async fn a_retired_daemon_is_not_listed_and_its_names_stay(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    let lease = daemon.register("rabbit").await;
    other.renew(&[]).await;
    daemon.retire().await;
    daemon.retire().await;
    assert_eq!(other.daemons(&Scope::Cluster).await, [Arc::clone(&other.instance)]);
    assert_eq!(other.find("rabbit", &daemon.scope()).await, [Arc::clone(&lease.registration)]);
    // The next run takes over where the last one ended.
    let next_run = daemon.next_run(&fixture).await;
    let lease = next_run.register("rabbit").await;
    assert_eq!(next_run.renew(&[lease]).await, [Renewal::Held]);
    let both = [next_run.instance, Arc::clone(&other.instance)];
    assert_eq!(other.daemons(&Scope::Cluster).await, both);
}

pub async fn what_changes_of_a_daemon_is_read_after_its_next_renewal(fixture: impl Fixture) {
    let (mut daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    let mut leases = [daemon.register("rabbit").await, daemon.register("hare").await];
    for number in 1..=2 {
        let moved = Arc::new(Instance {
            addresses: vec![format!("192.0.2.10{number}").parse().unwrap()],
            aliases: vec![host(&format!("new-{number}.example"))],
            ..(*daemon.instance).clone()
        });
        daemon.backend.update(Arc::clone(&moved));
        for lease in &mut leases {
            Arc::make_mut(&mut lease.registration).instance = Arc::clone(&moved);
        }
        let old = std::mem::replace(&mut daemon.instance, Arc::clone(&moved));
        assert_eq!(daemon.renew(&leases).await, [Renewal::Held, Renewal::Held]);
        assert_eq!(other.daemons(&daemon.scope()).await, from_ref(&moved));
        let (before, now) = (Scope::Host(old.aliases[0].clone()), Scope::Host(moved.aliases[0].clone()));
        for lease in &leases {
            let name = lease.registration.node.name.as_str();
            assert_eq!(other.find(name, &Scope::Cluster).await, from_ref(&lease.registration));
            assert_eq!(other.find(name, &now).await, from_ref(&lease.registration));
            assert_eq!(other.find(name, &before).await, []);
        }
        assert_eq!((other.listed(&now).await.len(), other.listed(&before).await.len()), (2, 0));
    }
    // Later registrations say it too.
    let mole = daemon.register("mole").await;
    assert_eq!(mole.registration.instance, daemon.instance);
    assert_eq!(other.find("mole", &daemon.scope()).await, from_ref(&mole.registration));
}
