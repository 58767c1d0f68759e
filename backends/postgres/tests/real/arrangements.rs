//! Each way to a server.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use repmd_backend_api::{Change, RegistryBackend, Renewal, Scope, Severity};
use repmd_backend_postgres::{Postgres, script};
use repmd_test_stores::{PgBouncer, Postgres as Server, faults};
use tokio::time::timeout;

use crate::daemon::{Daemon, OnPostgres, PATIENCE, TTL, settings, until_ok};

/// Every call is refused, and at once.
async fn is_denied(url: &str, why: &str) {
    let took = Daemon::is_denied(url, why).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn many_daemons_that_start_together_make_the_tables_once() {
    let server = Server::start();
    let daemons: Vec<_> = (0..16).map(|number| Daemon::on(&server, &format!("h{number}"))).collect();
    let registered =
        daemons.iter().map(|daemon| until_ok("it registers", async || daemon.register("x", 1).await));
    join_all(registered).await;
    assert_eq!(daemons[0].names(&Scope::Cluster).await.len(), 16);
    assert_eq!(server.query("select version from repmd.schema"), "1");
}

#[tokio::test]
async fn tables_of_an_earlier_version_are_brought_up_to_date_with_what_is_in_them() {
    let server = Server::start();
    let lease = Daemon::on(&server, "a").register("rabbit", 1).await.unwrap();
    server.run(
        "update repmd.schema set version = 0; drop function repmd.names_within; drop table repmd.notes; \
         drop trigger added on repmd.names; drop index repmd.names_by_name",
    );
    let daemon = Daemon::on(&server, "b");
    daemon.register("hare", 2).await.unwrap();
    assert_eq!(daemon.names(&Scope::Cluster).await, ["hare@b", "rabbit@a"]);
    daemon.backend.leave_note(b"note").await.unwrap();
    assert_eq!(daemon.backend.notes().await.unwrap().items.len(), 1);
    let found = daemon.find("rabbit", &Scope::Cluster).await.unwrap().items;
    assert_eq!(found[0].registration.creation, lease.creation());
    assert_eq!(server.query("select version from repmd.schema"), "1");
}

#[tokio::test]
async fn tables_of_a_later_version_are_used_unless_they_say_no() {
    let server = Server::start();
    Daemon::works(&server.url()).await;
    server.run("update repmd.schema set version = 9");
    Daemon::works(&server.url()).await;
    assert_eq!(server.query("select version from repmd.schema"), "9");
    server.run("update repmd.schema set usable_from = 8");
    is_denied(&server.url(), "the schema repmd is of version 9").await;
}

#[tokio::test]
async fn a_role_that_may_not_make_the_tables_says_so_and_uses_those_of_the_script() {
    let server = Server::start();
    server.run("alter database repmd owner to postgres");
    is_denied(&server.url(), "`repmd schema postgres` prints").await;
    for _ in 0..2 {
        server.run(&script());
    }
    is_denied(&server.url(), "permission denied for schema repmd").await;
    let grants = script()
        .lines()
        .filter_map(|line| line.strip_prefix("--   grant "))
        .fold(String::new(), |grants, line| grants + "grant " + line + "\n");
    assert_eq!(grants.lines().count(), 2, "{grants}");
    server.run(&grants);
    Daemon::works(&server.url()).await;
    // And no more than that.
    for statement in ["truncate repmd.names", "drop function repmd.find", "create table repmd.x ()"] {
        let refused = server.psql("repmd", "repmd", statement).output().unwrap();
        assert!(!refused.status.success(), "{statement}");
    }
}

#[tokio::test]
async fn a_password_from_the_url_and_from_a_file_that_may_change() {
    let server = Server::start();
    server.run("alter role repmd password 's3cret one'");
    server.let_in("host all repmd all scram-sha-256\nhost all postgres all trust");
    Daemon::works(&server.url_for("repmd:s3cret%20one")).await;
    is_denied(&server.url_for("repmd:s3cret"), "password authentication failed for user \"repmd\"").await;
    is_denied(&server.url(), "password missing").await;
    is_denied(&server.url_for("nobody:s3cret"), "no pg_hba.conf entry").await;
    let elsewhere = server.url_for("repmd:s3cret%20one").trim_end_matches("repmd").to_owned() + "other";
    is_denied(&elsewhere, "database \"other\" does not exist").await;
    let file = server.folder().join("password");
    std::fs::write(&file, "s3cret one\n").unwrap();
    let url = format!("{}?password_file={}", server.url(), file.display());
    Daemon::works(&url).await;
    let daemon = Daemon::with(&url, "a", "a", TTL);
    daemon.register("rabbit", 1).await.unwrap();
    server.run("alter role repmd password 'another'");
    std::fs::write(&file, "another").unwrap();
    server.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'repmd'");
    until_ok("it logs in again", async || daemon.register("rabbit", 1).await).await;
}

#[tokio::test]
async fn tls_with_a_client_certificate() {
    let server = Server::tls();
    let url = server.url();
    Daemon::works(&url).await;
    Daemon::works(&url.replace("127.0.0.1", "localhost")).await;
    let (without_client, _) = url.split_once("&sslcert").unwrap();
    is_denied(without_client, "certificate").await;
    let (without_files, _) = url.split_once('?').unwrap();
    is_denied(&format!("{without_files}?sslmode=verify-full"), "certificate").await;
    is_denied(without_files, "no encryption").await;
    let other = Server::tls();
    let wrong = url.replace(
        &server.certificates().authority.display().to_string(),
        &other.certificates().authority.display().to_string(),
    );
    is_denied(&wrong, "certificate").await;
    let plain = Server::start();
    is_denied(&format!("{}?sslmode=verify-full", plain.url()), "takes no TLS").await;
}

#[tokio::test]
async fn the_local_address_is_that_of_the_connection_and_known_while_it_is_open() {
    faults::the_local_address_is_known_while_connected::<OnPostgres>(Server::start()).await;
}

#[tokio::test]
async fn behind_pgbouncer_in_transaction_mode_changes_are_asked_for() {
    let server = Server::start();
    let bouncer = PgBouncer::before(&server, "transaction");
    let daemons: Vec<_> = (0..4)
        .map(|number| format!("h{number}"))
        .map(|host| Daemon::with(&bouncer.url(), &host, &host, TTL))
        .collect();
    for daemon in &daemons {
        let (first, _) = until_ok("it registers", async || daemon.register("rabbit", 1).await).await;
        assert_eq!(daemon.renew(&[first]).await.unwrap(), [Renewal::Held]);
        assert!(!daemon.backend.listens().await);
    }
    assert_eq!(daemons[0].names(&Scope::Cluster).await.len(), 4);
    assert!(!server.query("select 1 from pg_stat_activity where application_name = 'repmd'").is_empty());
    let mut changes = daemons[0].backend.watch();
    for _ in 0..3 {
        // It may ask for the first time just after that.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let started = Instant::now();
        daemons[1].register("hare", 2).await.unwrap();
        let missed = async { while changes.next().await != Some(Change::Missed) {} };
        timeout(PATIENCE, missed).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    // Renewals are none.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    while timeout(Duration::from_millis(10), changes.next()).await.is_ok() {}
    daemons[1].backend.renew(&mut repmd_backend_api::Holdings::new([].into_iter())).await.unwrap();
    daemons[2].backend.leave_note(b"note").await.unwrap();
}

#[tokio::test]
async fn behind_pgbouncer_in_session_mode_changes_are_told() {
    let server = Server::start();
    let bouncer = PgBouncer::before(&server, "session");
    let daemon = Daemon::with(&bouncer.url(), "a", "a", TTL);
    until_ok("it registers", async || daemon.register("rabbit", 1).await).await;
    assert!(daemon.backend.listens().await);
}

#[tokio::test]
async fn a_report_of_a_store_says_what_is_well_and_what_is_not() {
    let server = Server::start_with(&["fsync=on"]);
    Daemon::works(&server.url()).await;
    let report = Postgres::inspect(settings(&server.url(), TTL)).await.unwrap();
    assert_eq!(report.findings, []);
    assert!(report.latency < Duration::from_millis(500) && !report.fine.is_empty());
    let off = report.clock.unwrap().duration_since(report.asked_at).unwrap_or_else(|error| error.duration());
    assert!(off < Duration::from_secs(2), "{off:?}");
    let bad = Server::start_with(&["fsync=off", "max_connections=12"]);
    let bouncer = PgBouncer::before(&bad, "transaction");
    until_ok("it is inspected", async || Postgres::inspect(settings(&bouncer.url(), TTL)).await).await;
    let report = Postgres::inspect(settings(&bouncer.url(), TTL)).await.unwrap();
    let mut ids: Vec<_> = report.findings.iter().map(|finding| (finding.severity, finding.id)).collect();
    ids.sort_unstable();
    let all = ["store-connections", "store-without-fsync", "store-without-listen"];
    assert_eq!(ids, all.map(|id| (Severity::Warning, id)));
}
