//! [`RegistryBackend::list`](repmd_backend_api::RegistryBackend::list): everything within a scope.

use repmd_backend_api::Scope;

use crate::Fixture;
use crate::daemon::{Daemon, host};

pub async fn a_list_holds_what_is_in_its_scope(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let beside = Daemon::start(&fixture, "beside", "db-1").await;
    let elsewhere = Daemon::of(&fixture, "db-2").await;
    let lease = daemon.register("rabbit").await;
    beside.register("hare").await;
    elsewhere.register("rabbit").await;
    for (scope, expected) in [
        (daemon.scope(), vec!["hare", "rabbit"]),
        (Scope::Host(host("db-1.example")), vec!["hare", "rabbit"]),
        (elsewhere.scope(), vec!["rabbit"]),
        (Scope::Host(host("db-3")), vec![]),
        (Scope::Cluster, vec!["hare", "rabbit", "rabbit"]),
    ] {
        assert_eq!(elsewhere.listed(&scope).await, expected, "{scope:?}");
    }
    let listed = elsewhere.list(&daemon.scope()).await;
    assert!(listed.contains(&lease.registration), "not the full record: {listed:?}");
}
