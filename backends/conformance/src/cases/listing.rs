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
        let mut listed = elsewhere.listed(&scope).await;
        listed.sort_unstable();
        assert_eq!(listed, expected, "{scope:?}");
    }
    let listed = elsewhere.list(&daemon.scope()).await;
    assert!(listed.contains(&lease.registration), "not the full record: {listed:?}");
}

pub async fn the_newest_of_each_host_comes_first(fixture: impl Fixture) {
    let daemons = [
        Daemon::of(&fixture, "db-1").await,
        Daemon::of(&fixture, "db-2").await,
        Daemon::start(&fixture, "beside", "db-1").await,
    ];
    // Names in no order of their own, registered faster than a clock may tick.
    let names: Vec<_> = (0..30).map(|number| format!("rabbit{}", number * 7 % 30)).collect();
    for (number, name) in names.iter().enumerate() {
        daemons[number % 3].register(name).await;
    }
    let expected = |on: &[usize]| -> Vec<String> {
        let mut names: Vec<_> =
            (0..30).filter(|number| on.contains(&(number % 3))).map(|number| names[number].clone()).collect();
        names.reverse();
        names
    };
    assert_eq!(daemons[0].listed(&daemons[0].scope()).await, expected(&[0, 2]));
    assert_eq!(daemons[0].listed(&daemons[1].scope()).await, expected(&[1]));
    let listed = daemons[0].list(&Scope::Cluster).await;
    for (on, which) in [("db-1", &[0, 2][..]), ("db-2", &[1])] {
        let listed = listed.iter().filter(|found| found.instance.host == host(on));
        let listed: Vec<_> = listed.map(|found| found.node.name.as_str()).collect();
        assert_eq!(listed, expected(which), "{on} in the list of the cluster");
    }
}

pub async fn a_new_life_is_the_newest(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    for name in ["rabbit", "hare", "mole"] {
        daemon.register(name).await;
    }
    let replaced = daemon.register("rabbit").await;
    assert_eq!(daemon.listed(&Scope::Cluster).await, ["rabbit", "mole", "hare"]);
    daemon.register("hare").await;
    daemon.release(&replaced).await;
    daemon.register("rabbit").await;
    assert_eq!(daemon.listed(&Scope::Cluster).await, ["rabbit", "hare", "mole"]);
}

pub async fn a_renewal_keeps_the_order(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let mut leases = Vec::new();
    for name in ["rabbit", "hare", "mole"] {
        leases.push(daemon.register(name).await);
    }
    for lease in &leases {
        daemon.renew(std::slice::from_ref(lease)).await;
        assert_eq!(daemon.listed(&daemon.scope()).await, ["mole", "hare", "rabbit"]);
        assert_eq!(daemon.listed(&Scope::Cluster).await, ["mole", "hare", "rabbit"]);
    }
}
