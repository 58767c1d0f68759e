//! What holds when one connection stands still, or all are slow, and the store lives.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use repmd_backend_api::{Change, RegistryBackend, Renewal, Scope};
use repmd_test_stores::Store;
use tokio::time::{sleep, timeout};

use crate::daemon::{DEADLINE, Daemon, TTL, host, name, until, until_ok};
use crate::proxy::Proxy;

/// How long the daemon waits for renewals.
const RENEWAL: Duration = Duration::from_secs(2);

/// A daemon whose connections can be stalled, with a node.
async fn daemon_through(proxy: &Proxy) -> (Daemon, repmd_backend_api::Lease) {
    let daemon = Daemon::with(&proxy.url(), "a", "a", TTL);
    let lease = daemon.register("rabbit", 1).await.unwrap();
    daemon.renew(from_ref(&lease)).await.unwrap();
    (daemon, lease)
}

#[tokio::test]
async fn a_stalled_connection_for_look_ups_is_replaced_while_renewals_go_on() {
    let store = Store::redis();
    let proxy = Proxy::to(&store);
    let (daemon, lease) = daemon_through(&proxy).await;
    let quick = proxy.connection_of(async || drop(daemon.ports("rabbit", &Scope::Cluster).await)).await;
    let bulk = proxy.connection_of(async || drop(daemon.renew(from_ref(&lease)).await)).await;
    quick.stall();
    let stalled = Instant::now();
    loop {
        // An answer on the other connection is no sign of life of this one.
        let renewal = timeout(DEADLINE, daemon.renew(from_ref(&lease))).await.unwrap();
        assert_eq!(renewal.unwrap(), [Renewal::Held]);
        if timeout(DEADLINE, daemon.find("rabbit", &Scope::Cluster)).await.is_ok() {
            break;
        }
        assert!(stalled.elapsed() < Duration::from_secs(3), "it is not replaced");
    }
    until("the stalled connection is closed", async || quick.is_over()).await;
    assert!(!bulk.is_over());
}

#[tokio::test]
async fn a_stalled_connection_for_renewals_is_replaced_while_look_ups_go_on() {
    let store = Store::redis();
    let proxy = Proxy::to(&store);
    let (daemon, lease) = daemon_through(&proxy).await;
    let quick = proxy.connection_of(async || drop(daemon.ports("rabbit", &Scope::Cluster).await)).await;
    let bulk = proxy.connection_of(async || drop(daemon.renew(from_ref(&lease)).await)).await;
    bulk.stall();
    let stalled = Instant::now();
    let (renewing, asking) = (
        async {
            while timeout(RENEWAL, daemon.renew(from_ref(&lease))).await.is_err() {
                assert!(stalled.elapsed() < TTL / 2, "it is not replaced");
            }
        },
        async {
            while !bulk.is_over() {
                assert_eq!(timeout(DEADLINE, daemon.ports("rabbit", &Scope::Cluster)).await, Ok(vec![1]));
                sleep(Duration::from_millis(20)).await;
            }
        },
    );
    futures_util::join!(renewing, asking);
    assert!(!quick.is_over());
}

#[tokio::test]
async fn a_stalled_connection_for_changes_is_replaced_and_the_gap_told() {
    let store = Store::redis();
    let proxy = Proxy::to(&store);
    let (daemon, other) = (Daemon::with(&proxy.url(), "a", "a", TTL), Daemon::on(&store, "b"));
    let mut changes = daemon.backend.watch();
    let mut next = async || timeout(DEADLINE, changes.next()).await.ok().flatten();
    until("it listens", async || {
        other.register("first", 1).await.unwrap();
        next().await.is_some()
    })
    .await;
    while next().await.is_some() {}
    let quick = proxy.connection_of(async || drop(daemon.ports("rabbit", &Scope::Cluster).await)).await;
    let bulk = proxy.connection_of(async || drop(daemon.renew(&[]).await)).await;
    proxy.stall_all_but(&[&quick, &bulk]);
    until("the gap is told", async || next().await == Some(Change::Missed)).await;
    other.register("second", 1).await.unwrap();
    assert_eq!(next().await, Some(Change::Registered(name("second"), host("b"))));
    assert!(!quick.is_over() && !bulk.is_over());
}

#[tokio::test]
async fn a_store_that_takes_longer_than_a_look_up_waits_loses_no_renewal() {
    let store = Store::redis();
    let proxy = Proxy::to(&store);
    let (daemon, lease) = daemon_through(&proxy).await;
    let bulk = proxy.connection_of(async || drop(daemon.renew(from_ref(&lease)).await)).await;
    proxy.slow_down(Duration::from_millis(1500));
    for _ in 0..4 {
        // Lists are given up sooner, and share the connection.
        let listed = timeout(DEADLINE, daemon.backend.list(&Scope::Cluster));
        let renewed = timeout(RENEWAL, daemon.renew(from_ref(&lease)));
        let (listed, renewed) = futures_util::join!(listed, renewed);
        assert!(listed.is_err());
        assert_eq!(renewed.unwrap().unwrap(), [Renewal::Held]);
    }
    assert!(!bulk.is_over());
    proxy.slow_down(Duration::ZERO);
    until_ok("it lists", async || daemon.backend.list(&Scope::Cluster).await).await;
    assert!(!bulk.is_over());
}

#[tokio::test]
async fn calls_that_are_dropped_at_once_end_no_connection() {
    let store = Store::redis();
    let proxy = Proxy::to(&store);
    let (daemon, _) = daemon_through(&proxy).await;
    let quick = proxy.connection_of(async || drop(daemon.ports("rabbit", &Scope::Cluster).await)).await;
    // So that no answer is there at once.
    proxy.slow_down(Duration::from_millis(20));
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        let call = daemon.ports("rabbit", &Scope::Cluster);
        assert!(timeout(Duration::ZERO, call).await.is_err());
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [1]);
    assert!(!quick.is_over());
}
