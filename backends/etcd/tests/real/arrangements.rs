//! Each kind of URL, against the servers that it is for.

use std::time::{Duration, Instant};

use repmd_backend_api::{BackendError, Kind, Place, Scope, Severity};
use repmd_backend_etcd::EtcdKind as Etcd;
use repmd_test_stores::{Etcd as Store, EtcdKind, Release, faults};

use crate::daemon::{CLUSTER, Daemon, OnEtcd, TTL, key, until, until_ok};

/// Every call is refused, and at once.
async fn is_denied(url: &str, why: &str) {
    let took = Daemon::is_denied(url, why).await;
    // Bcrypt, by which etcd checks a password, takes its time.
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

#[tokio::test]
async fn one_member() {
    let store = Store::alone();
    Daemon::works(&store.url()).await;
    assert!(store.tell(&["get", "--prefix", "--keys-only", &key("")]).contains("epoch"));
    let others = store.tell(&["get", "--prefix", "--keys-only", ""]);
    assert!(others.lines().all(|other| other.is_empty() || other.starts_with(&key(""))), "{others}");
}

#[tokio::test]
async fn three_members_also_by_one_of_them_and_beside_an_address_that_is_none() {
    let store = Store::three();
    Daemon::works(&store.url()).await;
    Daemon::works(&store.member_url(2)).await;
    Daemon::works(&format!("{},127.0.0.1:1", store.member_url(1))).await;
    Daemon::works(&format!("etcd://127.0.0.1:1,{}", store.member_url(0).strip_prefix("etcd://").unwrap()))
        .await;
}

#[tokio::test]
async fn the_local_address_is_that_of_the_connection_and_known_while_it_is_open() {
    faults::the_local_address_is_known_while_connected::<OnEtcd>(Store::alone()).await;
}

#[tokio::test]
async fn tls_with_a_client_certificate() {
    let store = Store::start(EtcdKind::Tls, Release::InstalledEtcd, &[]);
    Daemon::works(&store.url()).await;
    let url = store.url();
    let (server, files) = url.split_once('?').unwrap();
    let (ca, _) = files.split_once('&').unwrap();
    // Without a client's certificate, without the authority, and with a wrong one.
    is_denied(&format!("{server}?{ca}"), "certificate").await;
    is_denied(server, "certificate").await;
    let other = Store::start(EtcdKind::Tls, Release::InstalledEtcd, &[]);
    let wrong = other.certificates().authority.display().to_string();
    is_denied(&format!("{server}?ca={wrong}"), "certificate").await;
    // A client that talks without TLS to a server that does not.
    let plain = Daemon::with(&server.replace("etcds://", "etcd://"), "a", "a", TTL);
    assert!(plain.register("rabbit", 1).await.is_err());
}

/// A user with the rights that docs/security.md gives it, and nobody without a login.
fn with_logins(store: &Store) {
    store.ask_for_logins(&[["repmd", "s3cret", &key("")], ["other", "s3cret", "other/"]]);
}

#[tokio::test]
async fn a_user_with_no_more_rights_than_it_needs() {
    for release in [Release::InstalledEtcd, Release::Etcd35] {
        let store = Store::start(EtcdKind::Alone, release, &[]);
        with_logins(&store);
        Daemon::works(&store.url_for("repmd:s3cret@")).await;
        is_denied(&store.url_for("repmd:wrong@"), "invalid user ID or password").await;
        is_denied(&store.url_for("nobody:s3cret@"), "invalid user ID or password").await;
        is_denied(&store.url_for("other:s3cret@"), "permission denied").await;
        is_denied(&store.url(), "user name is empty").await;
    }
}

#[tokio::test]
async fn a_login_to_a_store_that_asks_for_none_is_not_needed() {
    let store = Store::alone();
    Daemon::works(&store.url_for("repmd:s3cret@")).await;
    // When it does ask from then on, the login is there.
    let daemon = Daemon::with(&store.url_for("repmd:s3cret@"), "a", "a", TTL);
    daemon.register("rabbit", 1).await.unwrap();
    with_logins(&store);
    until_ok("it logs in", async || daemon.register("hare", 1).await).await;
}

#[tokio::test]
async fn users_that_are_changed_while_a_daemon_runs_cost_it_no_more_than_a_login() {
    let store = Store::alone();
    with_logins(&store);
    let daemon = Daemon::with(&store.url_for("repmd:s3cret@"), "a", "a", TTL);
    let lease = daemon.register("rabbit", 1).await.unwrap();
    for number in 0..3 {
        store.tell_as_root(&format!("user add another{number}:x"));
        until_ok("it renews", async || daemon.renew(std::slice::from_ref(&lease)).await).await;
    }
}

#[tokio::test]
async fn a_login_that_has_run_out_is_made_again() {
    // Tokens of two seconds, whether they are used or not. etcd counts in whole ones, so they may last one only.
    let folder = tempfile::tempdir().unwrap();
    let [private, public] = ["private", "public"].map(|name| folder.path().join(name));
    let openssl = |arguments: &[&str]| {
        let made = std::process::Command::new("openssl").args(arguments).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    openssl(&["genrsa", "-out", private.to_str().unwrap(), "2048"]);
    openssl(&["rsa", "-in", private.to_str().unwrap(), "-pubout", "-out", public.to_str().unwrap()]);
    let tokens =
        format!("jwt,pub-key={},priv-key={},sign-method=RS256,ttl=2s", public.display(), private.display());
    let store = Store::start(EtcdKind::Alone, Release::InstalledEtcd, &["--auth-token", &tokens]);
    with_logins(&store);
    let daemon = Daemon::with(&store.url_for("repmd:s3cret@"), "a", "a", TTL);
    let lease = daemon.register("rabbit", 1).await.unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        daemon.renew(std::slice::from_ref(&lease)).await.unwrap();
        assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [1]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_password_from_a_file_may_change_while_the_daemon_runs() {
    let store = Store::alone();
    with_logins(&store);
    let file = store.folder().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let url = format!("{}?password_file={}", store.url_for("repmd@"), file.display());
    let daemon = Daemon::with(&url, "a", "a", TTL);
    daemon.register("rabbit", 1).await.unwrap();
    store.tell_as_root("user delete repmd");
    until("it is refused", async || daemon.register("hare", 1).await.is_err()).await;
    store.tell_as_root("user add repmd:second; user grant-role repmd repmd");
    std::fs::write(&file, "second").unwrap();
    until_ok("the new password is used", async || daemon.register("hare", 1).await).await;
    let debug = format!("{daemon:?}");
    assert!(!debug.contains("second"), "{debug}");
}

fn place(url: &str) -> Place {
    Place { url: url.to_owned(), cluster: CLUSTER.to_owned(), lease_ttl: TTL }
}

#[tokio::test]
async fn an_inspection_says_what_is_well_and_what_is_not() {
    let mut store = Store::three();
    let report = Etcd.inspect(&place(&store.url())).await.unwrap().unwrap();
    assert!(report.findings.is_empty() && report.fine.len() == 3, "{report:?}");
    assert!(report.clock.is_none() && report.latency < Duration::from_secs(1), "{report:?}");
    assert!(report.fine[0].contains("is etcd 3."), "{report:?}");
    let away = (store.leader() + 1) % 3;
    store.kill_member(away);
    let report = Etcd.inspect(&place(&store.url())).await.unwrap().unwrap();
    let [away] = &report.findings[..] else { panic!("{report:?}") };
    assert_eq!((away.severity, away.id), (Severity::Warning, "store-member-away"));
    assert!(away.saw.contains("refused"), "{away:?}");
    store.kill();
    let error = Etcd.inspect(&place(&store.url())).await.unwrap_err();
    assert!(matches!(error, BackendError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn an_inspection_names_a_store_that_is_full_and_a_password_that_is_wrong() {
    let store = Store::start(EtcdKind::Alone, Release::InstalledEtcd, &["--quota-backend-bytes", "100000"]);
    store.fill();
    let report = Etcd.inspect(&place(&store.url())).await.unwrap().unwrap();
    let [full] = &report.findings[..] else { panic!("{report:?}") };
    assert_eq!((full.severity, full.id), (Severity::Failure, "store-full"));
    let store = Store::alone();
    with_logins(&store);
    let error = Etcd.inspect(&place(&store.url_for("repmd:wrong@"))).await.unwrap_err();
    assert!(matches!(error, BackendError::Denied { .. }), "{error:?}");
    let report = Etcd.inspect(&place(&store.url_for("repmd:s3cret@"))).await.unwrap().unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}
