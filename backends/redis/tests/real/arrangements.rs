//! Each kind of URL, against the servers that it is for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use repmd_backend_api::{BackendError, RegistryBackend, Scope};
use repmd_backend_redis::{Redis, Settings};
use repmd_test_stores::{Kind, Release, Store, faults};
use tokio::time::timeout;

use crate::daemon::{DEADLINE, Daemon, OnRedis, TTL, until_ok};

/// Every call is refused, and at once.
async fn is_denied(url: &str, why: &str) {
    let took = Daemon::is_denied(url, why).await;
    // Not the 9 s that a client library may retry.
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn one_server() {
    let store = Store::redis();
    Daemon::works(&store.url()).await;
    Daemon::works(&format!("{}/3", store.url())).await;
    let database: String = store.query("", &["INFO", "keyspace"]);
    assert!(database.contains("db0:") && database.contains("db3:"), "{database}");
}

#[tokio::test]
async fn the_local_address_is_that_of_the_connection_and_known_while_it_is_open() {
    faults::the_local_address_is_known_while_connected::<OnRedis>(Store::redis()).await;
}

#[tokio::test]
async fn a_cluster_also_by_one_of_its_servers() {
    let store = Store::cluster();
    Daemon::works(&store.url()).await;
    Daemon::works(store.url().split_once(',').unwrap().0).await;
}

#[tokio::test]
async fn the_master_behind_sentinels() {
    let store = Store::sentinel();
    Daemon::works(&store.url()).await;
    let unknown = Daemon::with(&store.url().replace("/repmd", "/other"), "a", "a", TTL);
    let error = unknown.register("rabbit", 1).await.unwrap_err();
    let BackendError::Unavailable { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("asked for other, knows no primary"), "{source}");
}

#[tokio::test]
async fn tls_with_a_client_certificate() {
    let store = Store::start(Kind::Tls, Release::Installed);
    Daemon::works(&store.url()).await;
    let url = store.url();
    let (server, files) = url.split_once('?').unwrap();
    let (ca, _) = files.split_once('&').unwrap();
    // Without a client's certificate, without the authority, and with a wrong one.
    is_denied(&format!("{server}?{ca}"), "certificate").await;
    is_denied(server, "certificate").await;
    let other = Store::start(Kind::Tls, Release::Installed);
    let wrong = other.certificates().authority.display().to_string();
    is_denied(&format!("{server}?ca={wrong}"), "certificate").await;
}

/// A user with the rights that docs/security.md gives it.
const RULE: &str = "ACL SETUSER repmd on >s3cret ~repmd:{test}:* -@all +evalsha +script|load +get +getrange +set +del \
                    +exists +pexpire +pttl +time +hello +publish +subscribe +zadd +zrem +zscore +zrangebyscore";

#[tokio::test]
async fn a_user_with_no_more_rights_than_it_needs() {
    for release in [Release::Installed, Release::Redis6, Release::Redis8, Release::Valkey8] {
        let store = Store::start(Kind::Alone, release);
        let rules =
            [RULE, "ACL SETUSER other on >s3cret ~other:* -@all +@read +@write +@scripting +time +hello"];
        for rule in rules {
            let _: () = store.query("", &rule.split(' ').collect::<Vec<_>>());
        }
        if release != Release::Redis6 {
            let _: () = store.query("", &["ACL", "SETUSER", "repmd", "&repmd:{test}:*"]);
        }
        Daemon::works(&store.url_for("repmd:s3cret@")).await;
        is_denied(&store.url_for("repmd:wrong@"), "WRONGPASS").await;
        let keys = Daemon::with(&store.url_for("other:s3cret@"), "a", "a", TTL);
        let error = keys.register("rabbit", 1).await.unwrap_err();
        assert!(matches!(error, BackendError::Denied { .. }), "{error:?}");
        let _: () = store.query("", &["CONFIG", "SET", "requirepass", "needed"]);
        is_denied(&store.url(), "NOAUTH").await;
    }
}

#[tokio::test]
async fn that_user_in_a_cluster_which_it_asks_for_its_servers() {
    let store = Store::cluster();
    let rule = format!("{RULE} &repmd:{{test}}:* +cluster|keyslot +cluster|slots");
    store.tell_all(&rule.split(' ').collect::<Vec<_>>());
    Daemon::works(&store.url_for("repmd:s3cret@")).await;
}

#[tokio::test]
async fn a_user_without_the_channel_goes_without_changes() {
    let store = Store::redis();
    let rule = "ACL SETUSER repmd on >s3cret ~repmd:{test}:* resetchannels -@all +@read +@write +@scripting \
                +@pubsub +time +hello";
    let _: () = store.query("", &rule.split_whitespace().collect::<Vec<_>>());
    Daemon::works(&store.url_for("repmd:s3cret@")).await;
}

#[tokio::test]
async fn a_password_from_a_file_may_change_while_the_daemon_runs() {
    let mut store = Store::redis();
    let folder = store.folder().to_owned();
    let file = folder.join("password");
    std::fs::write(&file, "first\n").unwrap();
    let rule = |password: &str| format!("ACL SETUSER repmd on resetpass >{password} ~* &* +@all");
    let set = |store: &Store, password: &str| {
        let _: () = store.query("", &rule(password).split(' ').collect::<Vec<_>>());
    };
    set(&store, "first");
    let url = format!("{}?password_file={}", store.url_for("repmd@"), file.display());
    let daemon = Daemon::with(&url, "a", "a", TTL);
    daemon.register("rabbit", 1).await.unwrap();
    store.restart_empty();
    set(&store, "second");
    std::fs::write(&file, "second").unwrap();
    until_ok("the new password is used", async || daemon.register("rabbit", 1).await).await;
    let debug = format!("{daemon:?}");
    assert!(!debug.contains("second"), "{debug}");
}

#[tokio::test]
async fn a_disk_that_stands_still_under_the_password_stops_nothing_else() {
    let mut store = Store::redis();
    let file = store.folder().join("password");
    std::fs::write(&file, "s3cret").unwrap();
    let url = format!("{}?password_file={}", store.url(), file.display());
    let daemon = Daemon::with(&url.replace("redis://", "redis://default@"), "a", "a", TTL);
    let _: () = store.query("", &["ACL", "SETUSER", "default", ">s3cret"]);
    daemon.register("rabbit", 1).await.unwrap();
    // Nobody writes to it, so reading it takes for ever.
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    store.restart_empty();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(6) {
        let asked = Instant::now();
        let found = timeout(DEADLINE, daemon.find("rabbit", &Scope::Cluster)).await;
        assert!(!matches!(found, Ok(Ok(_))));
        assert!(asked.elapsed() < 2 * DEADLINE, "this thread stood still for {:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The way goes on as soon as the file can be read.
    let feeder = std::thread::spawn({
        let file = file.clone();
        move || {
            std::fs::write(&file, "s3cret").unwrap();
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, "s3cret").unwrap();
        }
    });
    until_ok("it registers", async || daemon.register("rabbit", 1).await).await;
    feeder.join().unwrap();
}

#[tokio::test]
async fn a_cluster_name_with_any_letters_is_one_slot() {
    let store = Store::cluster();
    let cluster = "Ünïcode name/1";
    let daemon = Daemon::with(&store.url(), "a", "a", TTL);
    let settings = Settings::from_url(&store.url(), cluster, TTL).unwrap();
    let backend = Redis::open(settings, Arc::clone(&daemon.instance));
    let claim = daemon.claim("x", 1);
    let lease = until_ok("it registers", async || backend.register(&claim).await).await.0;
    assert_eq!(backend.list(&Scope::Cluster).await.unwrap().items[0].registration, lease.registration);
}
