//! What others have written into the tables.

use std::slice::from_ref;

use repmd_backend_api::{NOTE_BYTES_MAX, RegistryBackend, Renewal, Scope};
use repmd_test_stores::Postgres as Server;

use crate::daemon::{Daemon, TTL, until_ok};

/// A server whose tables take anything.
fn without_checks(server: &Server) {
    server.run(
        "do $$ declare c record; begin for c in select conrelid::regclass as t, conname from pg_constraint \
         where contype = 'c' and connamespace = 'repmd'::regnamespace loop \
         execute format('alter table %s drop constraint %I', c.t, c.conname); end loop; end $$",
    );
}

#[tokio::test]
async fn what_cannot_be_read_costs_its_own_name_alone() {
    let server = Server::start();
    let (daemon, other) = (Daemon::on(&server, "a"), Daemon::on(&server, "b"));
    daemon.register("rabbit", 1).await.unwrap();
    other.register("rabbit", 2).await.unwrap();
    without_checks(&server);
    for (change, back) in [
        ("creation = 3", "creation = 9"),
        ("creation = -1", "creation = 9"),
        ("creation = 5000000000", "creation = 9"),
        ("port = -1", "port = 1"),
        ("port = 65536", "port = 1"),
        ("node_type = 256", "node_type = 77"),
        ("extra = repeat('x', 100000)::bytea", "extra = ''"),
    ] {
        server.run(&format!("update repmd.names set {change} where host = 'a'"));
        let found = daemon.find("rabbit", &Scope::Cluster).await.unwrap();
        assert_eq!((found.items.len(), found.unreadable), (1, 1), "{change}: {found:?}");
        assert_eq!(found.examples[0].at, "repmd.names a/rabbit");
        let listed = daemon.backend.list(&Scope::Cluster).await.unwrap();
        assert_eq!((listed.items.len(), listed.unreadable), (1, 1), "{change}: {listed:?}");
        server.run(&format!("update repmd.names set {back} where host = 'a'"));
        assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [1, 2], "{back}");
    }
}

#[tokio::test]
async fn a_daemon_that_cannot_be_read_costs_itself_and_its_names() {
    let server = Server::start();
    let (daemon, other) = (Daemon::on(&server, "a"), Daemon::on(&server, "b"));
    let lease = daemon.register("rabbit", 1).await.unwrap();
    other.register("rabbit", 2).await.unwrap();
    without_checks(&server);
    for change in [
        "port = -1",
        "host = 'a b'",
        "host = repeat('a', 100000)",
        "name = repeat('x', 1000)::bytea",
        "aliases = array['a b']",
        "aliases = array[null]",
        "aliases = array_fill('x'::text, array[300])",
        "addresses = array['nowhere']",
        "addresses = array_fill('::1'::text, array[300])",
        "aliases = '{{a,b},{c,d}}'",
    ] {
        server.run(&format!("update repmd.daemons set {change} where host = 'a'"));
        let daemons = other.backend.daemons(&Scope::Cluster).await.unwrap();
        assert_eq!((daemons.items.len(), daemons.unreadable), (1, 1), "{change}: {daemons:?}");
        let found = other.find("rabbit", &Scope::Cluster).await.unwrap();
        assert_eq!((found.items.len(), found.unreadable), (1, 1), "{change}: {found:?}");
        let listed = other.backend.list(&Scope::Cluster).await.unwrap();
        assert_eq!((listed.items.len(), listed.unreadable), (1, 1), "{change}: {listed:?}");
        // Its own renewal mends it.
        assert_eq!(daemon.renew(from_ref(&lease)).await.unwrap(), [Renewal::Held]);
        assert_eq!(other.ports("rabbit", &Scope::Cluster).await, [1, 2], "{change}");
    }
}

#[tokio::test]
async fn a_note_that_is_longer_than_a_note_is_left_out() {
    let server = Server::start();
    let (daemon, other) = (Daemon::on(&server, "a"), Daemon::on(&server, "b"));
    for daemon in [&daemon, &other] {
        daemon.register("rabbit", 1).await.unwrap();
        daemon.backend.leave_note(&[7; NOTE_BYTES_MAX]).await.unwrap();
    }
    assert_eq!(daemon.backend.notes().await.unwrap().items.len(), 2);
    without_checks(&server);
    server.run(
        "update repmd.notes set note = note || 'x' where daemon = (select daemon from repmd.notes limit 1)",
    );
    let notes = daemon.backend.notes().await.unwrap();
    assert_eq!((notes.items.len(), notes.unreadable), (1, 1), "{:?}", notes.examples);
}

#[tokio::test]
async fn a_database_of_another_encoding_holds_every_name() {
    let server = Server::start();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let database = format!("other{}", encoding.to_lowercase());
        let make = format!(
            "create database {database} owner repmd encoding '{encoding}' template template0 \
                            lc_collate 'C' lc_ctype 'C'"
        );
        server.try_query("postgres", &make).unwrap();
        let url = server.url().trim_end_matches("repmd").to_owned() + &database;
        let daemon = Daemon::with(&url, "ä 😈", "a", TTL);
        let (lease, _) = until_ok("it registers", async || daemon.register("é😈'\"\\", 1).await).await;
        assert_eq!(daemon.ports("é😈'\"\\", &Scope::Cluster).await, [1]);
        assert_eq!(daemon.backend.daemons(&Scope::Cluster).await.unwrap().items[0].name, "ä 😈");
        assert_eq!(daemon.renew(&[lease]).await.unwrap(), [Renewal::Held]);
    }
}

#[tokio::test]
async fn names_of_others_in_the_search_path_are_not_called() {
    let server = Server::start();
    Daemon::on(&server, "a").register("rabbit", 1).await.unwrap();
    server.run(
        "create function public.clock_timestamp() returns timestamptz language sql as 'select null::timestamptz'; \
         create function public.octet_length(bytea) returns integer language sql as 'select 1/0'; \
         alter database repmd set search_path = public, pg_catalog",
    );
    let daemon = Daemon::on(&server, "b");
    let (lease, _) = until_ok("it registers", async || daemon.register("hare", 1).await).await;
    assert_eq!(daemon.renew(&[lease]).await.unwrap(), [Renewal::Held]);
    assert_eq!(daemon.names(&Scope::Cluster).await, ["hare@b", "rabbit@a"]);
}
