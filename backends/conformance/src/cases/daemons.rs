//! [`RegistryBackend::daemons`](repmd_backend_api::RegistryBackend::daemons) and
//! [`RegistryBackend::retire`](repmd_backend_api::RegistryBackend::retire): who counts as alive.

use std::sync::Arc;

use repmd_backend_api::{Renewal, Scope};

use crate::Fixture;
use crate::daemon::{Daemon, host};

pub async fn a_daemon_is_listed_once_it_registered_or_renewed(fixture: impl Fixture) {
    let renewing = Daemon::start(&fixture, "a \"renewing\" daemon é", "db-1").await;
    let registering = Daemon::start(&fixture, "registering", "db-2").await;
    let silent = Daemon::of(&fixture, "db-3").await;
    assert_eq!(silent.daemons(&Scope::Cluster).await, []);
    assert_eq!(renewing.renew(&[]).await, []);
    assert_eq!(silent.daemons(&Scope::Cluster).await, [Arc::clone(&renewing.instance)]);
    registering.register("rabbit").await;
    registering.register("hare").await;
    let both = [renewing.instance, registering.instance];
    assert_eq!(silent.daemons(&Scope::Cluster).await, both);
}

pub async fn a_daemon_that_is_refused_is_listed(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    first.register("rabbit").await;
    second.refused("rabbit").await;
    assert_eq!(first.daemons(&first.scope()).await, [Arc::clone(&first.instance), second.instance]);
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
    daemon.backend.retire(&daemon.instance).await.unwrap();
    daemon.backend.retire(&daemon.instance).await.unwrap();
    assert_eq!(other.daemons(&Scope::Cluster).await, [Arc::clone(&other.instance)]);
    assert_eq!(other.find("rabbit", &daemon.scope()).await, [Arc::clone(&lease.registration)]);
    // The next run takes over where the last one ended.
    let next_run = daemon.next_run(&fixture).await;
    let lease = next_run.register("rabbit").await;
    assert_eq!(next_run.renew(&[lease]).await, [Renewal::Held]);
    let both = [next_run.instance, Arc::clone(&other.instance)];
    assert_eq!(other.daemons(&Scope::Cluster).await, both);
}
