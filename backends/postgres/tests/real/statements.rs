//! What the statements do to the tables.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use repmd_backend_api::{Change, Holdings, RegistryBackend, Renewal, Scope};
use repmd_test_stores::Postgres as Server;
use tokio::time::timeout;

use crate::daemon::{CLUSTER, Daemon, PATIENCE, TTL, host, name, settings, until};

#[tokio::test]
async fn clusters_do_not_see_each_other() {
    let server = Server::start();
    let daemon = Daemon::on(&server, "a");
    daemon.register("rabbit", 1).await.unwrap();
    let mut elsewhere = settings(&server.url(), TTL);
    elsewhere.cluster = format!("{CLUSTER}2");
    let other = repmd_backend_postgres::Postgres::open(elsewhere, daemon.instance.clone());
    let mut changes = other.watch();
    assert!(other.listens().await);
    let lease = other.register(&daemon.claim("rabbit", 2)).await.unwrap();
    assert_eq!(other.list(&Scope::Cluster).await.unwrap().items.len(), 1);
    assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [1]);
    other.release(&lease).await.unwrap();
    daemon.register("hare", 3).await.unwrap();
    assert_eq!(changes.next().await, Some(Change::Registered(name("rabbit"), host("a"))));
    assert_eq!(changes.next().await, Some(Change::Released(name("rabbit"), host("a"))));
    assert!(timeout(Duration::from_millis(300), changes.next()).await.is_err());
}

#[tokio::test]
async fn a_renewal_notices_what_is_missing_or_changed_or_too_much() {
    let server = Server::start();
    let daemon = Daemon::on(&server, "a");
    let leases = [daemon.register("rabbit", 1).await.unwrap(), daemon.register("hare", 2).await.unwrap()];
    let of = |name: &str| format!("name = '{name}'::bytea");
    let rabbit = of("rabbit");
    for change in [
        format!("delete from repmd.names where {rabbit}"),
        format!("update repmd.names set creation = creation - 1 where {rabbit}"),
        format!("update repmd.names set mark = mark + 1, port = 7 where {rabbit}"),
        "truncate repmd.names".to_owned(),
        "truncate repmd.daemons cascade".to_owned(),
        "delete from repmd.daemons".to_owned(),
        "delete from repmd.hosts; delete from repmd.names".to_owned(),
        "update repmd.daemons set digest = 0".to_owned(),
        format!(
            "insert into repmd.names select cluster, host, 'mole'::bytea, daemon, 1000, 7, 8, 9, 9, 77, 0, 6, 5, \
                 '', 0 from repmd.names where {rabbit}"
        ),
        "update repmd.daemons set renewed_at = renewed_at - interval '1 hour'".to_owned(),
    ] {
        server.run(&change);
        assert_eq!(daemon.renew(&leases).await.unwrap(), [Renewal::Held, Renewal::Held], "{change}");
        assert_eq!(daemon.names(&Scope::Cluster).await, ["hare@a", "rabbit@a"], "{change}");
        assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [1], "{change}");
        let found = daemon.find("rabbit", &Scope::Cluster).await.unwrap().items;
        assert_eq!(found[0].registration, leases[0].registration, "{change}");
        let counted =
            "select names, digest = (select sum(mark # (creation << 8)) from repmd.names) from repmd.daemons";
        // One whose sum somebody has changed is renewed in whole each time, and mended by the next change.
        if !change.contains("digest = 0") {
            assert_eq!(server.query(counted), "2|t", "{change}");
        } else {
            server.run("truncate repmd.names");
        }
    }
}

#[tokio::test]
async fn a_renewal_writes_one_row_whatever_the_number_of_names() {
    const RENEWALS: u64 = 20;
    let server = Server::start_with(&["full_page_writes=off", "autovacuum=off"]);
    let daemon = Daemon::on(&server, "a");
    let mut leases = Vec::new();
    let mut costs = Vec::new();
    for names in [1, 200] {
        while leases.len() < names {
            leases.push(daemon.register(&format!("rabbit{}", leases.len()), 1).await.unwrap());
        }
        let mut held = Holdings::new(leases.iter().cloned().map(Some));
        daemon.backend.renew(&mut held).await.unwrap();
        assert!(held.is_empty(), "one call takes all of them");
        // The next one also sweeps.
        daemon.renew(&leases).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let written = || server.query("select pg_current_wal_insert_lsn() - '0/0'").parse::<u64>().unwrap();
        let before = written();
        for _ in 0..RENEWALS {
            daemon.renew(&leases).await.unwrap();
        }
        costs.push((written() - before) / RENEWALS);
    }
    assert!(
        costs[1] < 400 && costs[1] < costs[0] * 3 / 2,
        "bytes of the log for 1 and for 200 names: {costs:?}"
    );
    // The server counts late.
    until("the new rows are beside the old ones", async || {
        let beside = "select n_tup_hot_upd from pg_stat_user_tables where relname = 'daemons'";
        2 * RENEWALS <= server.query(beside).parse::<u64>().unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_name_that_another_owner_has_is_tried_again_by_itself() {
    let server = Server::start();
    let (first, second) = (Daemon::on(&server, "a"), Daemon::with(&server.url(), "second", "a", TTL));
    let leases = [first.register("rabbit", 1).await.unwrap(), first.register("hare", 2).await.unwrap()];
    first.backend.retire().await.unwrap();
    let taken = second.register("rabbit", 3).await.unwrap();
    let conflict = Renewal::Conflict { holder: "second".to_owned() };
    for _ in 0..3 {
        assert_eq!(first.renew(&leases).await.unwrap(), [conflict.clone(), Renewal::Held]);
    }
    second.backend.release(&taken).await.unwrap();
    assert_eq!(first.renew(&leases).await.unwrap(), [Renewal::Held, Renewal::Held]);
    assert_eq!(first.renew(&leases).await.unwrap(), [Renewal::Held, Renewal::Held]);
    assert_eq!(second.names(&Scope::Cluster).await, ["hare@a", "rabbit@a"]);
}

#[tokio::test]
async fn what_ran_out_is_cleared_away_by_a_neighbour_and_told() {
    let server = Server::start();
    let short = Duration::from_millis(900);
    let dead = Daemon::with(&server.url(), "dead", "a", short);
    dead.register("rabbit", 1).await.unwrap();
    dead.backend.leave_note(b"note").await.unwrap();
    let daemon = Daemon::with(&server.url(), "b", "b", short);
    let mut changes = daemon.backend.watch();
    assert!(daemon.backend.listens().await);
    let lease = daemon.register("hare", 2).await.unwrap();
    let tables = "select (select count(*) from repmd.names), (select count(*) from repmd.daemons), \
                  (select count(*) from repmd.notes), (select count(*) from repmd.aliases)";
    until("it is cleared away", async || {
        daemon.renew(from_ref(&lease)).await.unwrap();
        server.query(tables) == "1|1|0|1"
    })
    .await;
    let told = async { while changes.next().await != Some(Change::Expired(name("rabbit"), host("a"))) {} };
    timeout(PATIENCE, told).await.unwrap();
    // The counters stay for a day.
    assert_eq!(server.query("select count(*) from repmd.hosts"), "2");
    server.run("update repmd.hosts set seen_at = seen_at - interval '25 hours'");
    until("the counter is forgotten", async || {
        daemon.renew(from_ref(&lease)).await.unwrap();
        server.query("select host from repmd.hosts") == "b"
    })
    .await;
}

#[tokio::test]
async fn a_clock_of_the_server_that_was_set_back_keeps_nobody_alive() {
    let server = Server::start();
    let short = Duration::from_millis(900);
    let dead = Daemon::with(&server.url(), "dead", "a", short);
    dead.register("rabbit", 1).await.unwrap();
    server.run("update repmd.daemons set renewed_at = renewed_at + interval '1 day'");
    let daemon = Daemon::with(&server.url(), "b", "b", short);
    let lease = daemon.register("hare", 2).await.unwrap();
    let found = daemon.backend.list(&Scope::Cluster).await.unwrap().items;
    assert!(found.len() == 2 && found.iter().all(|found| found.left.unwrap() <= short), "{found:?}");
    until("it runs out", async || {
        daemon.renew(from_ref(&lease)).await.unwrap();
        daemon.names(&Scope::Cluster).await == ["hare@b"]
    })
    .await;
}

#[tokio::test]
async fn a_batch_of_changes_is_told_in_few_words() {
    let server = Server::start();
    let (daemon, other) = (Daemon::on(&server, "a"), Daemon::on(&server, "b"));
    let mut changes = other.backend.watch();
    assert!(other.backend.listens().await);
    let mut leases = Vec::new();
    for number in 0..300 {
        leases.push(daemon.register(&format!("rabbit{number}"), 1).await.unwrap());
    }
    for _ in 0..300 {
        changes.next().await;
    }
    server.run("truncate repmd.daemons cascade");
    let started = Instant::now();
    daemon.renew(&leases).await.unwrap();
    for _ in 0..300 {
        assert!(matches!(timeout(PATIENCE, changes.next()).await.unwrap(), Some(Change::Registered(..))));
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}
