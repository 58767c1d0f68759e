//! What holds when the store is away, refuses, or changes hands.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use repmd_backend_api::{BackendError, Change, RegistryBackend, Renewal, Scope};
use repmd_test_stores::{Postgres as Server, faults};
use tokio::time::timeout;

use crate::daemon::{Daemon, OnPostgres, PATIENCE, TTL, host, in_time, name, scope, until, until_ok};

/// Calls until it is refused, and says why.
async fn denied<T: std::fmt::Debug>(mut call: impl AsyncFnMut() -> Result<T, BackendError>) -> String {
    let started = Instant::now();
    loop {
        match call().await {
            Err(BackendError::Denied { source, .. }) => return source.to_string(),
            answer => assert!(started.elapsed() < PATIENCE, "it is not refused: {answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_at_the_start_is_used_when_it_comes() {
    // It makes its tables as well.
    faults::comes_later::<OnPostgres>(Server::start(), Duration::from_secs(3)).await;
}

#[tokio::test]
async fn a_store_that_was_emptied_is_whole_after_one_renewal() {
    let mut server = Server::start();
    let daemons = ["a", "b"].map(|host| Daemon::on(&server, host));
    let mut leases = Vec::new();
    for daemon in &daemons {
        leases.push([daemon.register("rabbit", 1).await.unwrap(), daemon.register("x", 2).await.unwrap()]);
    }
    for round in 0..2 {
        if round == 0 {
            server.restart_empty();
        } else {
            server.run("drop schema repmd cascade");
        }
        for (daemon, leases) in daemons.iter().zip(&leases) {
            let (renewals, took) = until_ok("it renews", async || daemon.renew(leases).await).await;
            assert_eq!(renewals, [Renewal::Held, Renewal::Held]);
            assert!(took < Duration::from_secs(5), "{took:?}");
        }
        assert_eq!(daemons[0].names(&Scope::Cluster).await, ["rabbit@a", "rabbit@b", "x@a", "x@b"]);
    }
    // No creation of before comes again, though the counters are gone.
    let again = daemons[0].register("rabbit", 1).await.unwrap();
    assert!(leases[0][0].creation() < again.creation());
}

#[tokio::test]
async fn a_crash_forgets_no_creation_and_no_name() {
    let mut server = Server::start_with(&["fsync=on"]);
    let daemon = Daemon::on(&server, "a");
    let mut claim = daemon.claim("rabbit", 1);
    claim.last = repmd_backend_api::Creation::new(2_000_000_000);
    let lease = daemon.backend.register(&claim).await.unwrap();
    daemon.backend.release(&lease).await.unwrap();
    let kept = daemon.register("hare", 2).await.unwrap();
    server.kill();
    server.revive();
    let (again, _) = until_ok("it registers", async || daemon.register("rabbit", 1).await).await;
    assert!(lease.creation() < again.creation(), "{} after {}", again.creation(), lease.creation());
    assert_eq!(daemon.names(&Scope::Cluster).await, ["hare@a", "rabbit@a"]);
    assert!(kept.creation() < again.creation());
}

#[tokio::test]
async fn a_stalled_store_is_given_up_within_the_deadline_and_used_again_when_it_goes_on() {
    faults::stalls::<OnPostgres>(Server::start()).await;
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_repeated_without_a_clash() {
    faults::loses_an_answer::<OnPostgres>(Server::start()).await;
}

#[tokio::test]
async fn rights_that_are_taken_away_are_named_and_may_come_back() {
    let server = Server::start();
    let daemon = Daemon::on(&server, "a");
    let lease = daemon.register("rabbit", 1).await.unwrap();
    server.run("alter table repmd.names owner to postgres; alter table repmd.daemons owner to postgres");
    for said in [
        denied(async || daemon.register("other", 2).await).await,
        denied(async || daemon.renew(from_ref(&lease)).await).await,
        denied(async || daemon.find("rabbit", &Scope::Cluster).await).await,
    ] {
        assert!(said.starts_with("permission denied for table"), "{said}");
    }
    server.run("alter table repmd.names owner to repmd; alter table repmd.daemons owner to repmd");
    until_ok("it renews", async || daemon.renew(from_ref(&lease)).await).await;
}

#[tokio::test]
async fn a_standby_as_the_only_address_is_refused() {
    let primary = Server::start();
    Daemon::on(&primary, "a").register("rabbit", 1).await.unwrap();
    let standby = primary.standby();
    let daemon = Daemon::on(&standby, "b");
    let said = denied(async || daemon.register("other", 2).await).await;
    assert!(said.contains("is read-only"), "{said}");
    standby.promote();
    until_ok("it registers", async || daemon.register("other", 2).await).await;
}

#[tokio::test]
async fn a_primary_that_becomes_read_only_is_left_alone_until_it_is_not() {
    let server = Server::start();
    let daemon = Daemon::on(&server, "a");
    let lease = daemon.register("rabbit", 1).await.unwrap();
    server.run("alter role repmd set default_transaction_read_only = on");
    server.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'repmd'");
    let said = denied(async || daemon.renew(from_ref(&lease)).await).await;
    assert!(said.contains("read-only"), "{said}");
    server.run("alter role repmd reset default_transaction_read_only");
    until_ok("it renews", async || daemon.renew(from_ref(&lease)).await).await;
}

#[tokio::test]
async fn a_fail_over_that_loses_the_last_writes_is_healed_by_the_next_renewal() {
    let mut primary = Server::start();
    Daemon::on(&primary, "z").register("first", 1).await.unwrap();
    let standby = primary.standby();
    let daemon = Daemon::with(&standby.url_with(&primary), "a", "a", TTL);
    let kept = daemon.register("rabbit", 1).await.unwrap();
    standby.wait_until_caught_up(&primary);
    standby.stop_replicating();
    let lost = daemon.register("hare", 2).await.unwrap();
    let replaced = daemon.register("rabbit", 3).await.unwrap();
    primary.kill();
    let mut watcher = daemon.backend.watch();
    standby.promote();
    let leases = [lost, replaced];
    let renew = async || in_time(daemon.renew(&leases)).await;
    let (renewals, took) = until_ok("it renews", renew).await;
    assert_eq!(renewals, [Renewal::Held, Renewal::Held]);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(daemon.ports("rabbit", &scope("a")).await, [3]);
    assert_eq!(daemon.names(&scope("a")).await, ["hare@a", "rabbit@a"]);
    let next = daemon.register("rabbit", 4).await.unwrap();
    assert!(![kept.creation(), leases[1].creation()].contains(&next.creation()));
    // What happened meanwhile was not told.
    let missed = async { while watcher.next().await != Some(Change::Missed) {} };
    timeout(PATIENCE, missed).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_lost_while_idle_fails_no_call_and_is_told_to_watchers() {
    let server = Server::start();
    let (daemon, other) = (Daemon::on(&server, "a"), Daemon::on(&server, "b"));
    assert!(daemon.backend.listens().await);
    let mut changes = daemon.backend.watch();
    other.register("rabbit", 1).await.unwrap();
    assert_eq!(changes.next().await, Some(Change::Registered(name("rabbit"), host("b"))));
    for _ in 0..3 {
        server.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'repmd'");
        assert_eq!(timeout(PATIENCE, changes.next()).await.unwrap(), Some(Change::Missed));
        until_ok("it finds", async || daemon.find("rabbit", &Scope::Cluster).await).await;
    }
    until_ok("the other one is there", async || other.register("hare", 1).await).await;
    let told = async { while changes.next().await != Some(Change::Registered(name("hare"), host("b"))) {} };
    timeout(PATIENCE, told).await.unwrap();
}

#[tokio::test]
async fn a_host_whose_row_somebody_locks_is_waited_for_no_longer_than_two_seconds() {
    let server = Server::start();
    let daemon = Daemon::on(&server, "a");
    let lease = daemon.register("rabbit", 1).await.unwrap();
    let lock = "begin; select from repmd.hosts for update; select pg_sleep(10)";
    let mut locks = server.psql("postgres", "repmd", lock).spawn().unwrap();
    until("it is locked", async || {
        server.query(
            "select count(*) from pg_stat_activity where query like '%pg_sleep(10)' and state = 'active'",
        ) == "1"
    })
    .await;
    let started = Instant::now();
    let error = daemon.register("other", 2).await.unwrap_err();
    assert!(matches!(&error, BackendError::Unavailable { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    // A renewal does not wait for it, nor does a look-up.
    let started = Instant::now();
    assert_eq!(daemon.renew(from_ref(&lease)).await.unwrap(), [Renewal::Held]);
    assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [1]);
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    server.run("select pg_cancel_backend(pid) from pg_stat_activity where query like '%pg_sleep(10)'");
    locks.wait().unwrap();
    until_ok("it registers", async || daemon.register("other", 2).await).await;
}

#[tokio::test]
async fn a_full_disk_refuses_new_names_and_keeps_what_there_is() {
    let server = Server::start_small(160);
    let daemon = Daemon::on(&server, "a");
    let lease = daemon.register("rabbit", 1).await.unwrap();
    let fill = "create table fill as select repeat(md5(i::text), 20) from generate_series(1, 1000000) i";
    let mut rows = 200_000;
    while 0 < rows {
        let fill = fill.replace("1000000", &rows.to_string()).replace("fill", &format!("fill{rows}"));
        let _ = server.try_query("repmd", &fill);
        rows /= 2;
    }
    let mut number = 0;
    let error = loop {
        number += 1;
        assert!(number < 20_000, "the disk is not full");
        match daemon.register(&format!("hare{number}"), 1).await {
            Ok(lease) => daemon.backend.release(&lease).await.unwrap(),
            Err(error) => break error,
        }
    };
    let BackendError::Denied { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("No space left on device"), "{source}");
    assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [1]);
    assert_eq!(daemon.renew(from_ref(&lease)).await.unwrap(), [Renewal::Held]);
    for table in server.query("select relname from pg_class where relname ~ '^fill[0-9]+$'").lines() {
        server.run(&format!("drop table {table}"));
    }
    server.run("checkpoint");
    until_ok("it registers", async || daemon.register("mole", 2).await).await;
}

#[tokio::test]
async fn a_clock_of_the_server_that_is_off_by_a_day_changes_nothing() {
    for clock in ["-1d", "+1d"] {
        let server = Server::start_off(clock);
        let short = Duration::from_millis(1200);
        let (daemon, other) =
            (Daemon::with(&server.url(), "a", "a", short), Daemon::with(&server.url(), "b", "b", short));
        let lease = daemon.register("rabbit", 1).await.unwrap();
        other.register("hare", 2).await.unwrap();
        for _ in 0..4 {
            tokio::time::sleep(short / 3).await;
            assert_eq!(daemon.renew(from_ref(&lease)).await.unwrap(), [Renewal::Held]);
        }
        assert_eq!(daemon.names(&Scope::Cluster).await, ["rabbit@a"]);
        let report =
            repmd_backend_postgres::Postgres::inspect(crate::daemon::settings(&server.url(), short)).await;
        let report = report.unwrap();
        let off =
            report.clock.unwrap().duration_since(report.asked_at).unwrap_or_else(|error| error.duration());
        assert!(Duration::from_secs(86_000) < off, "{clock}: {off:?}");
    }
}
