//! What holds when the store is away, refuses, or changes hands.

use std::slice::from_ref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use repmd_backend_api::{BackendError, Change, Instance, RegistryBackend, Renewal, Scope};
use repmd_backend_redis::{Redis, Settings};
use repmd_test_stores::{Store, faults};
use tokio::time::timeout;

use crate::daemon::{
    CLUSTER, DEADLINE, Daemon, OnRedis, PATIENCE, TTL, host, in_time, key, name, scope, until, until_ok,
};

#[tokio::test]
async fn a_store_that_is_not_there_at_the_start_is_used_when_it_comes() {
    faults::comes_later::<OnRedis>(Store::redis(), Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_store_that_was_killed_and_started_empty_is_whole_after_one_renewal() {
    let mut store = Store::redis();
    let daemons = ["a", "b"].map(|host| Daemon::on(&store, host));
    let mut leases = Vec::new();
    for daemon in &daemons {
        leases.push([daemon.register("rabbit", 1).await.unwrap(), daemon.register("x", 2).await.unwrap()]);
    }
    store.restart_empty();
    for (daemon, leases) in daemons.iter().zip(&leases) {
        let renew = async || in_time(daemon.renew(leases)).await;
        let (renewals, took) = until_ok("it renews", renew).await;
        assert_eq!(renewals, [Renewal::Held, Renewal::Held]);
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    assert_eq!(daemons[0].names(&Scope::Cluster).await, ["rabbit@a", "rabbit@b", "x@a", "x@b"]);
    // An idle connection that the restart has cut fails no call.
    store.restart_empty();
    until("the connection is open again", async || daemons[0].backend.daemons(&Scope::Cluster).await.is_ok())
        .await;
}

#[tokio::test]
async fn scripts_that_the_store_forgot_are_loaded_again() {
    let store = Store::redis();
    let daemon = Daemon::on(&store, "a");
    for _ in 0..2 {
        let lease = daemon.register("rabbit", 1).await.unwrap();
        daemon.renew(&vec![lease; 300]).await.unwrap();
        assert_eq!(daemon.ports("rabbit", &scope("a")).await, [1]);
        let _: () = store.query("", &["SCRIPT", "FLUSH"]);
    }
}

#[tokio::test]
async fn a_stalled_store_is_given_up_within_the_deadline_and_used_again_when_it_goes_on() {
    faults::stalls::<OnRedis>(Store::redis()).await;
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_repeated_without_a_clash() {
    faults::loses_an_answer::<OnRedis>(Store::redis()).await;
}

#[tokio::test]
async fn long_answers_and_batches_delay_no_look_up() {
    let store = Store::redis();
    let daemon = Daemon::on(&store, "a");
    let lease = daemon.register("rabbit", 1).await.unwrap();
    let leases = vec![lease; 1000];
    let mut slowest = Duration::ZERO;
    let busy = async { daemon.renew(&leases).await.unwrap() };
    let asking = async {
        for _ in 0..20 {
            let started = Instant::now();
            assert_eq!(daemon.ports("rabbit", &scope("a")).await, [1]);
            slowest = slowest.max(started.elapsed());
        }
    };
    futures_util::join!(busy, asking);
    assert!(slowest < Duration::from_millis(250), "{slowest:?}");
}

#[tokio::test]
async fn a_full_store_refuses_new_names_and_keeps_what_it_has() {
    let store = Store::redis();
    let daemon = Daemon::on(&store, "a");
    let lease = daemon.register("rabbit", 1).await.unwrap();
    let _: () = store.query("", &["CONFIG", "SET", "maxmemory", "1"]);
    let error = in_time(daemon.register("other", 2)).await.unwrap_err();
    let BackendError::Denied { action, source } = &error else { panic!("{error:?}") };
    assert!(action == "register other@a" && source.to_string().contains("OOM"), "{action}: {source}");
    let node = key("node:a/rabbit");
    let _: u8 = store.query(&node, &["PEXPIRE", &node, "1000"]);
    assert_eq!(daemon.renew(from_ref(&lease)).await.unwrap(), [Renewal::Held]);
    assert!(1000 < store.query::<u64>(&node, &["PTTL", &node]));
    assert_eq!(daemon.names(&Scope::Cluster).await, ["rabbit@a"]);
    daemon.backend.release(&lease).await.unwrap();
    let _: () = store.query("", &["CONFIG", "SET", "maxmemory", "0"]);
    daemon.register("other", 2).await.unwrap();
}

#[tokio::test]
async fn a_read_only_replica_as_the_only_address_is_refused() {
    let store = Store::sentinel();
    let daemon = Daemon::with(&store.replica_url(), "a", "a", TTL);
    // And stays so: connecting again and again must not look as if the store came and went.
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let error = in_time(daemon.register("rabbit", 1)).await.unwrap_err();
        let BackendError::Denied { source, .. } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains("read only replica"), "{source}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_fail_over_by_sentinel_is_followed_and_what_it_lost_is_restored() {
    fails_over(Store::sentinel()).await;
}

#[tokio::test]
async fn a_promoted_replica_of_a_cluster_is_followed_and_what_it_lost_is_restored() {
    fails_over(Store::cluster()).await;
}

async fn fails_over(mut store: Store) {
    let daemon = Daemon::on(&store, "a");
    let other = Daemon::on(&store, "b");
    let keep = until_ok("it registers", async || daemon.register("rabbit", 1).await).await.0;
    until("the replica has it", async || store.query::<i64>(&key(""), &["WAIT", "1", "100"]) == 1).await;
    store.stop_replicating();
    let lost = daemon.register("lost", 2).await.unwrap();
    let leases = [keep, lost];
    // The servers stay with this test while it waits: nothing here blocks the daemons for long.
    let mut store = tokio::task::spawn_blocking(move || {
        store.fail_over(&key(""));
        store
    })
    .await
    .unwrap();
    let (renewals, took) = until_ok("it renews", async || in_time(daemon.renew(&leases)).await).await;
    assert_eq!(renewals, [Renewal::Held, Renewal::Held]);
    assert!(took < Duration::from_secs(3), "{took:?} after the fail-over");
    let found = async || in_time(other.find("lost", &scope("a"))).await;
    assert_eq!(until_ok("the other daemon finds it", found).await.0.items.len(), 1);
    // The old primary comes back as a replica.
    store.revive();
    until_ok("it renews", async || daemon.renew(&leases).await).await;
    assert_eq!(daemon.names(&Scope::Cluster).await.len(), 2);
}

#[tokio::test]
async fn changes_arrive_at_once_and_a_gap_in_them_is_told() {
    let mut store = Store::redis();
    let (a, b) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    b.renew(&[]).await.unwrap();
    let mut changes = b.backend.watch();
    let mut next = async || timeout(PATIENCE, changes.next()).await.unwrap().unwrap();
    until("it listens", async || {
        a.register("first", 2).await.unwrap();
        timeout(DEADLINE, next()).await.is_ok()
    })
    .await;
    let started = Instant::now();
    let lease = a.register("x/y", 1).await.unwrap();
    assert_eq!(next().await, Change::Registered(name("x/y"), host("a")));
    assert!(started.elapsed() < Duration::from_millis(50), "{:?}", started.elapsed());
    a.renew(from_ref(&lease)).await.unwrap();
    a.backend.release(&lease).await.unwrap();
    assert_eq!(next().await, Change::Released(name("x/y"), host("a")));
    store.restart_empty();
    assert_eq!(next().await, Change::Missed);
    until_ok("it renews", async || a.renew(from_ref(&lease)).await).await;
    assert_eq!(next().await, Change::Registered(name("x/y"), host("a")));
}

#[tokio::test]
async fn a_registry_that_is_dropped_leaves_no_connection() {
    let store = Store::redis();
    let connections = || {
        let list: String = store.query("", &["CLIENT", "LIST"]);
        list.lines().count()
    };
    let before = connections();
    let settings = Settings::from_url(&store.url(), CLUSTER, TTL).unwrap();
    let registry = Redis::open(settings, Arc::new(Instance::new("a", host("a"))));
    registry.list(&Scope::Cluster).await.unwrap();
    until("it has its connections", async || connections() == before + 3).await;
    drop(registry);
    until("they are closed", async || connections() == before).await;
}

#[tokio::test]
async fn once_one_kind_of_call_reaches_a_store_that_was_away_all_do() {
    let mut store = Store::redis();
    let daemon = Daemon::on(&store, "a");
    for _ in 0..10 {
        store.kill();
        // Long enough that each waits longer for its next attempt.
        let away = Instant::now();
        while away.elapsed() < Duration::from_secs(1) {
            let _ = futures_util::join!(daemon.find("rabbit", &Scope::Cluster), daemon.renew(&[]));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut revived = tokio::task::spawn_blocking(move || {
            store.revive();
            store
        });
        while daemon.renew(&[]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        daemon.find("rabbit", &Scope::Cluster).await.unwrap();
        store = (&mut revived).await.unwrap();
    }
}
