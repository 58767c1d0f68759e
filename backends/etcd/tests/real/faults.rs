//! What befalls a store, and what a daemon makes of it.

use std::collections::HashSet;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use repmd_backend_api::{BackendError, Change, Creation, Lease, RegistryBackend, Renewal, Scope};
use repmd_test_stores::{Etcd as Store, EtcdKind, Release};
use tokio::time::timeout;

use crate::daemon::{DEADLINE, Daemon, PATIENCE, TTL, key, name, scope, until, until_ok};

/// Some names of a daemon.
async fn register_some(daemon: &Daemon, count: u16) -> Vec<Lease> {
    let mut leases = Vec::new();
    for number in 0..count {
        leases.push(daemon.register(&format!("rabbit{number}"), 1000 + number).await.unwrap());
    }
    leases
}

/// Renews until all is held.
async fn heals(daemon: &Daemon, leases: &[Lease]) -> Duration {
    let (renewed, took) = until_ok("it renews", async || daemon.renew(leases).await).await;
    assert_eq!(renewed, vec![Renewal::Held; leases.len()]);
    took
}

async fn listed(daemon: &Daemon) -> usize {
    let (listed, _) = until_ok("it lists", async || daemon.backend.list(&Scope::Cluster).await).await;
    listed.items.len()
}

#[tokio::test]
async fn a_store_that_restarts_empty_is_whole_after_one_round() {
    let mut store = Store::alone();
    let (daemon, other) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let leases = register_some(&daemon, 150).await;
    store.restart_empty();
    assert_eq!(listed(&other).await, 0);
    heals(&daemon, &leases).await;
    assert_eq!(listed(&other).await, 150);
    for lease in &leases {
        let found =
            other.find(lease.registration.node.name.as_str(), &scope("a.example")).await.unwrap().items;
        assert_eq!(found[0].registration, lease.registration);
    }
    assert_eq!(other.backend.daemons(&Scope::Cluster).await.unwrap().items, [daemon.instance]);
}

#[tokio::test]
async fn a_store_that_is_killed_and_comes_back_has_lost_nothing_and_is_told_nothing() {
    let mut store = Store::alone();
    let (daemon, other) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let leases = register_some(&daemon, 150).await;
    store.kill();
    until("a call fails", async || daemon.renew(&leases).await.is_err()).await;
    let asked = Instant::now();
    let error = daemon.register("late", 1).await.unwrap_err();
    assert!(matches!(error, BackendError::Unavailable { .. }), "{error:?}");
    assert!(asked.elapsed() < DEADLINE, "{:?}", asked.elapsed());
    store.revive();
    let took = heals(&daemon, &leases).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(listed(&other).await, 150);
    let written = store.tell(&["get", &key("node/rabbit0/a"), "-w", "fields"]);
    assert!(written.contains("\"Version\" : 1\n"), "it was not written again: {written}");
}

#[tokio::test]
async fn a_backup_that_was_restored_is_whole_after_one_round_and_repeats_no_creation() {
    let mut store = Store::alone();
    let (daemon, other) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let before = register_some(&daemon, 5).await;
    let gone = daemon.register("gone", 1).await.unwrap();
    let backup = store.back_up();
    // What the backup has and is no more, and what it does not have.
    daemon.backend.release(&gone).await.unwrap();
    let mut leases = before[1..].to_vec();
    leases.push(daemon.register("new", 2).await.unwrap());
    let moved = daemon.register("rabbit0", 3).await.unwrap();
    leases.push(moved.clone());
    let mut creations = HashSet::from([before[0].creation(), moved.creation()]);
    for _ in 0..20 {
        let lease = daemon.register("often", 4).await.unwrap();
        assert!(creations.insert(lease.creation()));
        daemon.backend.release(&lease).await.unwrap();
    }
    store.restore(&backup);
    heals(&daemon, &leases).await;
    assert_eq!(listed(&other).await, leases.len());
    assert_eq!(other.ports("rabbit0", &scope("a")).await, [3]);
    assert_eq!(other.ports("gone", &Scope::Cluster).await, [0; 0]);
    for _ in 0..40 {
        let lease = daemon.register("often", 4).await.unwrap();
        assert!(creations.insert(lease.creation()), "{} came again", lease.creation());
        daemon.backend.release(&lease).await.unwrap();
    }
    // A daemon that was not there before sees it by its clock.
    let next = Daemon::with(&store.url(), "a", "a", TTL);
    for _ in 0..40 {
        let lease = next.register("often", 4).await.unwrap();
        assert!(creations.insert(lease.creation()), "{} came again", lease.creation());
        next.backend.release(&lease).await.unwrap();
    }
}

#[tokio::test]
async fn the_first_registration_after_a_store_went_back_repeats_no_creation() {
    let mut store = Store::alone();
    let daemon = Daemon::on(&store, "a");
    daemon.register("early", 1).await.unwrap();
    let backup = store.back_up();
    let mut creations = HashSet::new();
    for _ in 0..20 {
        assert!(creations.insert(daemon.register("often", 4).await.unwrap().creation()));
    }
    store.restore(&backup);
    for _ in 0..20 {
        let (lease, _) = until_ok("it registers", async || daemon.register("often", 4).await).await;
        assert!(creations.insert(lease.creation()), "{} came again", lease.creation());
    }
}

#[tokio::test]
async fn a_store_that_was_emptied_repeats_no_creation_and_another_legacy_one() {
    let mut store = Store::alone();
    let daemon = Daemon::on(&store, "a");
    let mut creations = HashSet::new();
    let mut last: Option<Creation> = None;
    for round in 0..5 {
        for _ in 0..5 {
            let mut claim = daemon.claim("often", 1);
            claim.last = last;
            let (lease, _) = until_ok("it registers", async || daemon.backend.register(&claim).await).await;
            assert!(creations.insert(lease.creation()), "{} came again", lease.creation());
            assert_ne!(last.map(Creation::as_legacy), Some(lease.creation().as_legacy()));
            last = Some(lease.creation());
        }
        if round == 2 {
            store.restart_empty();
        } else {
            store.tell(&["del", "--prefix", &key("")]);
        }
    }
}

#[tokio::test]
async fn a_store_that_stalls_fails_calls_at_once_after_a_while_and_comes_back_by_itself() {
    let mut store = Store::alone();
    let daemon = Daemon::on(&store, "a");
    let leases = register_some(&daemon, 3).await;
    store.pause();
    let stalled = Instant::now();
    until("calls fail at once", async || {
        let asked = Instant::now();
        let answer = timeout(DEADLINE, daemon.renew(&leases)).await;
        matches!(answer, Ok(Err(BackendError::Unavailable { .. }))) && asked.elapsed() < DEADLINE / 5
    })
    .await;
    assert!(stalled.elapsed() < Duration::from_secs(5), "{:?}", stalled.elapsed());
    store.resume();
    let took = heals(&daemon, &leases).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn a_leader_that_is_killed_costs_no_name_and_refuses_nobody() {
    let mut store = Store::three();
    let (daemon, other) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let mut leases = register_some(&daemon, 30).await;
    for _ in 0..2 {
        let lost = store.fail_over();
        let took = heals(&daemon, &leases).await;
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(listed(&other).await, leases.len());
        leases.push(until_ok("it registers", async || daemon.register("late", 1).await).await.0);
        if leases.len() == 32 {
            leases.remove(30);
        }
        store.revive_member(lost);
        until("the member is back", async || {
            timeout(
                DEADLINE,
                Daemon::with(&store.member_url(lost), "c", "c", TTL).find("rabbit0", &scope("a")),
            )
            .await
            .is_ok_and(|found| found.is_ok())
        })
        .await;
    }
}

#[tokio::test]
async fn a_member_that_stalls_is_left_for_another() {
    let mut store = Store::three();
    let daemons: Vec<_> = ["a", "b", "c", "d"].map(|host| Daemon::on(&store, host)).into();
    for daemon in &daemons {
        daemon.register("rabbit", 1).await.unwrap();
    }
    let stalled = (store.leader() + 1) % 3;
    store.pause_member(stalled);
    let since = Instant::now();
    for daemon in &daemons {
        until("it finds", async || {
            let found = timeout(DEADLINE, daemon.find("rabbit", &scope("a"))).await;
            found.is_ok_and(|found| found.is_ok_and(|found| found.items.len() == 1))
        })
        .await;
    }
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}

#[tokio::test]
async fn without_a_quorum_calls_are_unavailable_and_nothing_runs_out() {
    let mut store = Store::three();
    let ttl = Duration::from_secs(3);
    let (first, second) =
        (Daemon::with(&store.url(), "first", "a", ttl), Daemon::with(&store.url(), "second", "a", ttl));
    let lease = first.register("rabbit", 1).await.unwrap();
    second.renew(&[]).await.unwrap();
    let leader = store.leader();
    store.kill_member(leader);
    store.kill_member((leader + 1) % 3);
    let lost = Instant::now();
    until("calls fail", async || matches!(timeout(DEADLINE, second.register("hare", 1)).await, Ok(Err(_))))
        .await;
    while lost.elapsed() < 2 * ttl {
        let answer = timeout(DEADLINE, second.register("rabbit", 2)).await;
        assert!(matches!(answer, Err(_) | Ok(Err(BackendError::Unavailable { .. }))), "{answer:?}");
        let found = timeout(DEADLINE, second.find("rabbit", &scope("a"))).await;
        assert!(matches!(found, Err(_) | Ok(Err(BackendError::Unavailable { .. }))), "{found:?}");
        tokio::time::sleep(DEADLINE / 5).await;
    }
    store.revive();
    heals(&first, from_ref(&lease)).await;
    let refused = async || {
        // It counts as alive for two seconds, and the other one may take longer to notice.
        assert_eq!(first.renew(from_ref(&lease)).await?, [Renewal::Held]);
        match second.register("rabbit", 2).await {
            Err(BackendError::NameTaken { .. }) => Ok(()),
            Ok(_) => panic!("two daemons have one name"),
            Err(error) => Err(error),
        }
    };
    until_ok("the other one is refused", refused).await;
}

#[tokio::test]
async fn a_store_that_comes_after_its_daemon_is_found() {
    let mut store = Store::alone();
    store.kill();
    let daemon = Daemon::on(&store, "a");
    let asked = Instant::now();
    let error = daemon.register("rabbit", 1).await.unwrap_err();
    assert!(matches!(error, BackendError::Unavailable { .. }) && asked.elapsed() < DEADLINE, "{error:?}");
    let lease = daemon.unpublished("rabbit", 1);
    store.revive();
    heals(&daemon, from_ref(&lease)).await;
}

#[tokio::test]
async fn a_store_that_is_full_says_so_and_goes_on_when_it_is_not() {
    let store = Store::start(EtcdKind::Alone, Release::InstalledEtcd, &["--quota-backend-bytes", "200000"]);
    let daemon = Daemon::on(&store, "a");
    let leases = register_some(&daemon, 3).await;
    store.fill();
    let error = daemon.register("late", 1).await.unwrap_err();
    let BackendError::Denied { action, source } = &error else { panic!("{error:?}") };
    assert!(action == "register late@a" && source.to_string().contains("space"), "{action}: {source}");
    // What is there is kept, and can be ended.
    heals(&daemon, &leases).await;
    assert_eq!(daemon.ports("rabbit1", &scope("a")).await, [1001]);
    daemon.backend.release(&leases[0]).await.unwrap();
    store.make_room();
    until_ok("it registers", async || daemon.register("late", 1).await).await;
}

#[tokio::test]
async fn a_watch_survives_a_restart_and_a_compaction() {
    let mut store = Store::alone();
    let (daemon, watcher) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let mut changes = watcher.backend.watch();
    until_ok("it is reached", async || watcher.backend.daemons(&Scope::Cluster).await).await;
    daemon.register("rabbit", 1).await.unwrap();
    let mut next =
        async |what: &str| timeout(PATIENCE, changes.next()).await.unwrap_or_else(|_| panic!("{what}"));
    let registered = |alive| Some(Change::Registered(name(alive), daemon.instance.host.clone()));
    assert_eq!(next("the first is told").await, registered("rabbit"));
    store.restart();
    until_ok("it registers", async || daemon.register("hare", 1).await).await;
    // It goes on where it was, whether it was told of a gap or not.
    while next("the second is told").await != registered("hare") {}
    for round in 0..5 {
        daemon.register(&format!("mole{round}"), 1).await.unwrap();
    }
    store.compact();
    store.restart();
    until_ok("it registers", async || daemon.register("vole", 1).await).await;
    while next("the last is told").await != registered("vole") {}
}

#[tokio::test]
async fn what_was_compacted_before_it_was_told_is_told_as_missed() {
    let mut store = Store::three();
    let (daemon, watcher) = (Daemon::on(&store, "a"), Daemon::with(&store.member_url(0), "b", "b", TTL));
    let mut changes = watcher.backend.watch();
    until_ok("it is reached", async || watcher.backend.daemons(&Scope::Cluster).await).await;
    daemon.register("rabbit", 1).await.unwrap();
    let registered = |alive| Some(Change::Registered(name(alive), daemon.instance.host.clone()));
    assert_eq!(timeout(PATIENCE, changes.next()).await.unwrap(), registered("rabbit"));
    store.kill_member(0);
    for number in 0..20 {
        until_ok("it registers", async || daemon.register(&format!("hare{number}"), 1).await).await;
    }
    store.compact();
    store.revive_member(0);
    until_ok("it is reached again", async || watcher.backend.daemons(&Scope::Cluster).await).await;
    until_ok("it registers", async || daemon.register("vole", 1).await).await;
    let mut missed = false;
    loop {
        match timeout(PATIENCE, changes.next()).await.expect("something is told").unwrap() {
            Change::Missed => missed = true,
            change if Some(&change) == registered("vole").as_ref() => break,
            _ => {}
        }
    }
    assert!(missed);
}

#[tokio::test]
async fn a_call_that_was_given_up_leaves_nothing_behind() {
    let store = Store::alone();
    let (daemon, other) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let kept = daemon.register("kept", 1).await.unwrap();
    for number in 0..60 {
        let claim = daemon.claim(&format!("given-up{number}"), 1);
        let _ = timeout(Duration::from_micros(100 * number), daemon.backend.register(&claim)).await;
    }
    until("nothing else is left", async || {
        daemon.renew(from_ref(&kept)).await.unwrap();
        listed(&other).await == 1
    })
    .await;
    // Not what leads there either.
    let keys = store.tell(&["get", "--prefix", "--keys-only", &key("host/")]);
    assert_eq!(keys.split_whitespace().collect::<Vec<_>>(), [key("host/a/kept")]);
}

#[tokio::test]
async fn names_that_somebody_deletes_come_back_and_their_daemon_is_disturbed_no_further() {
    let store = Store::alone();
    let (daemon, other) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let leases = register_some(&daemon, 5).await;
    for gone in ["node/rabbit1/a", "node/rabbit3/a"] {
        store.tell(&["del", &key(gone)]);
    }
    until("they are back", async || {
        assert_eq!(daemon.renew(&leases).await.unwrap(), vec![Renewal::Held; 5]);
        listed(&other).await == 5
    })
    .await;
}

#[tokio::test]
async fn a_new_address_is_read_after_the_next_round_and_aliases_change_with_it() {
    let store = Store::alone();
    let (daemon, other) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let leases = register_some(&daemon, 3).await;
    let mut moved = (*daemon.instance).clone();
    moved.addresses = vec![[10, 9, 9, 9].into()];
    moved.aliases = vec![crate::daemon::host("new.example")];
    daemon.backend.update(std::sync::Arc::new(moved.clone()));
    assert_eq!(daemon.renew(&leases).await.unwrap(), vec![Renewal::Held; 3]);
    let found = other.find("rabbit0", &scope("new.example")).await.unwrap().items;
    assert_eq!(*found[0].registration.instance, moved);
    assert_eq!(other.ports("rabbit0", &scope("a.example")).await, [0; 0]);
    assert_eq!(*other.backend.daemons(&Scope::Cluster).await.unwrap().items[0], moved);
    let keys = store.tell(&["get", "--prefix", "--keys-only", &key("alias/")]);
    assert!(keys.contains("alias/new.example/a/") && !keys.contains("alias/a.example/"), "{keys}");
}

#[tokio::test]
async fn a_renewal_costs_the_store_no_change() {
    let store = Store::alone();
    let daemon = Daemon::on(&store, "a");
    let leases = register_some(&daemon, 100).await;
    daemon.renew(&leases).await.unwrap();
    let before = store.revision();
    for _ in 0..10 {
        assert_eq!(daemon.renew(&leases).await.unwrap(), vec![Renewal::Held; 100]);
    }
    assert_eq!(store.revision(), before);
}

#[tokio::test]
async fn clusters_in_one_store_see_nothing_of_each_other() {
    let store = Store::alone();
    let daemon = Daemon::on(&store, "a");
    daemon.register("rabbit", 1).await.unwrap();
    for cluster in ["tes", "test/", "test2", "Test", "other"] {
        let settings = repmd_backend_etcd::Settings::from_url(&store.url(), cluster, TTL).unwrap();
        let other = repmd_backend_etcd::Etcd::open(settings, std::sync::Arc::clone(&daemon.instance));
        until_ok("it lists", async || other.list(&Scope::Cluster).await).await;
        assert_eq!(other.list(&Scope::Cluster).await.unwrap().items, [], "{cluster}");
        assert_eq!(other.daemons(&Scope::Cluster).await.unwrap().items, [], "{cluster}");
        // The same claim, in another cluster.
        let mut claim = daemon.claim("rabbit", 2);
        claim.number = 99;
        other.register(&claim).await.unwrap();
        assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [1], "{cluster}");
    }
}
