//! [`RegistryBackend::find`](repmd_backend_api::RegistryBackend::find): one name within a scope.

use std::sync::Arc;

use repmd_backend_api::{Instance, InstanceId, Scope};

use crate::Fixture;
use crate::daemon::{Daemon, host, instance};

pub async fn nothing_is_found_where_nothing_is_registered(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    for scope in [Scope::Cluster, daemon.scope()] {
        assert_eq!(daemon.find("rabbit", &scope).await, []);
        assert_eq!(daemon.listed(&scope).await, [""; 0]);
        assert_eq!(daemon.daemons(&scope).await, []);
    }
}

pub async fn a_name_is_found_by_its_host_its_alias_and_the_cluster_only(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    let lease = daemon.register("rabbit").await;
    other.register("hare").await;
    let aliases = daemon.instance.aliases.iter().cloned();
    let scopes = aliases.chain([daemon.instance.host.clone()]).map(Scope::Host).chain([Scope::Cluster]);
    for scope in scopes {
        assert_eq!(other.find("rabbit", &scope).await, [Arc::clone(&lease.registration)], "{scope:?}");
    }
    for elsewhere in ["db-2", "db-2.example", "db-3", "db", "db-1.exampl"] {
        assert_eq!(other.find("rabbit", &Scope::Host(host(elsewhere))).await, [], "{elsewhere}");
    }
}

pub async fn of_many_no_more_are_found_than_are_wanted_the_askers_own_among_them(fixture: impl Fixture) {
    for number in 0..9 {
        Daemon::of(&fixture, &format!("db-{number}")).await.register("rabbit").await;
    }
    for number in [0, 4, 8] {
        let on = format!("db-{number}");
        let asker = Daemon::start(&fixture, "another", &on).await;
        let found = asker.some("rabbit", &Scope::Cluster, 3).await;
        assert_eq!(found.len(), 3);
        assert!(found.iter().any(|found| found.instance.host == host(&on)), "{on} is not in {found:?}");
    }
}

pub async fn the_host_itself_comes_before_those_that_have_its_name_as_an_alias(fixture: impl Fixture) {
    let alias = Instance { aliases: vec![host("db-1")], ..instance("aaa", "aaa") };
    Daemon::run(&fixture, alias).await.register("rabbit").await;
    let daemon = Daemon::of(&fixture, "db-1").await;
    let lease = daemon.register("rabbit").await;
    assert_eq!(daemon.some("rabbit", &daemon.scope(), 1).await, [Arc::clone(&lease.registration)]);
    assert_eq!(daemon.some("rabbit", &daemon.scope(), 9).await.len(), 2);
}

pub async fn an_alias_of_an_earlier_run_finds_nothing(fixture: impl Fixture) {
    let last_run = Daemon::of(&fixture, "db-1").await;
    last_run.register("rabbit").await;
    let renamed = Instance {
        id: InstanceId::random(),
        aliases: vec![host("new.example")],
        ..(*last_run.instance).clone()
    };
    let daemon = Daemon::run(&fixture, renamed).await;
    let lease = daemon.register("rabbit").await;
    last_run.retire().await;
    for (on, expected) in [("db-1.example", vec![]), ("new.example", vec![Arc::clone(&lease.registration)])] {
        let scope = Scope::Host(host(on));
        assert_eq!(daemon.find("rabbit", &scope).await, expected, "{on}");
        assert_eq!(daemon.list(&scope).await, expected, "{on}");
        assert_eq!(daemon.daemons(&scope).await.len(), expected.len(), "{on}");
    }
}

pub async fn hosts_are_compared_without_case(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "DB-1").await;
    daemon.register("rabbit").await;
    for same in ["db-1", "Db-1", "dB-1.EXAMPLE"] {
        let scope = Scope::Host(host(same));
        assert_eq!(daemon.find("rabbit", &scope).await.len(), 1, "{same}");
        assert_eq!(daemon.listed(&scope).await, ["rabbit"], "{same}");
    }
    if daemon.promises().excludes {
        assert_eq!(Daemon::start(&fixture, "other", "db-1").await.refused("rabbit").await, "DB-1:4369");
    }
}

pub async fn every_name_that_a_node_may_have_finds_itself_alone(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let long = "😈".repeat(255);
    let mut names = [
        "rabbit",
        "Rabbit",
        "rabbit@db-1",
        "rabbit@",
        "@",
        "a b",
        " ",
        "\t",
        "a/b",
        "/",
        "..",
        "{a}",
        "}{",
        "\"a\"",
        "'a'",
        "`a`",
        "\\",
        "*",
        "?",
        "[a-z]",
        "rabbi?",
        "r*",
        "a:b",
        "a,b",
        "a;b",
        "a=b",
        "%00",
        "%s",
        "$1",
        "\r",
        "\u{1}",
        "-",
        "0",
        "nil",
        "é",
        "e\u{301}",
        &long,
    ];
    names.sort_unstable();
    let mut leases = Vec::new();
    for name in names {
        leases.push(daemon.register(name).await);
    }
    for (name, lease) in names.iter().zip(&leases) {
        assert_eq!(daemon.find(name, &Scope::Cluster).await, [Arc::clone(&lease.registration)], "{name:?}");
        assert_eq!(daemon.found(name).await.as_ref(), Some(&lease.registration), "{name:?}");
    }
    assert_eq!(daemon.listed(&daemon.scope()).await, names);
    for (name, lease) in names.iter().zip(&leases) {
        daemon.release(lease).await;
        assert_eq!(daemon.found(name).await, None, "{name:?}");
    }
    assert_eq!(daemon.listed(&Scope::Cluster).await, [""; 0]);
}
