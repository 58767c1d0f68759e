//! What each script does, on every release of Redis and Valkey that is supported.

use std::collections::HashSet;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::daemon::{Daemon, PATIENCE, TTL, host, key, name, scope, until};
use futures_util::StreamExt;
use repmd_backend_api::{
    BackendError, Change, Creation, Instance, Lease, Registration, RegistryBackend, Renewal, Scope, Search,
};
use repmd_backend_redis::{Redis, Settings};
use repmd_test_stores::{Kind, Release, Store};

/// Makes each case a test of its own on each release.
macro_rules! on_every_release {
    ($($case:ident)*) => {
        on_every_release!(redis_6 Redis6: $($case)*);
        on_every_release!(installed Installed: $($case)*);
        on_every_release!(redis_8 Redis8: $($case)*);
        on_every_release!(valkey_8 Valkey8: $($case)*);
    };
    ($module:ident $release:ident: $($case:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(super::Store::start(super::Kind::Alone, super::Release::$release)).await;
                }
            )*
        }
    };
}

on_every_release! {
    register_writes_all_that_is_known_of_a_node
    register_with_the_same_token_gets_the_same_lease
    register_refuses_a_name_that_another_living_daemon_holds
    register_takes_over_from_a_retired_daemon_and_from_an_earlier_run
    register_never_repeats_a_creation
    a_replica_that_never_heard_of_the_last_lives_repeats_no_creation
    the_next_life_of_a_name_is_another_one_of_three
    a_counter_that_is_none_is_as_good_as_lost
    names_that_come_and_go_leave_nothing_behind
    a_counter_is_kept_until_the_clock_is_past_it
    register_counts_on_from_what_the_claimant_remembers_but_not_from_the_upper_half
    renew_extends_what_is_held_and_tells_nobody
    renew_restores_all_that_an_empty_store_has_lost
    what_a_renewal_restores_is_told_name_by_name_where_it_is_little
    renew_leads_to_its_leases_again_when_only_the_indexes_were_lost
    renew_writes_what_has_changed_under_the_same_token
    renew_never_overwrites_another_owner
    renew_lets_the_lease_of_another_owner_last_longer_once_at_most
    renew_of_what_is_there_takes_one_script_however_many_there_are
    renew_without_leases_lets_a_daemon_count_as_alive
    renew_of_a_large_batch_answers_for_each
    release_ends_its_own_lease_only
    retire_ends_a_daemon_and_not_its_leases
    find_looks_under_the_host_its_aliases_and_everywhere
    find_reads_no_more_than_is_asked_for
    list_covers_its_scope_and_records_are_in_order
    daemons_are_those_that_count_as_alive
    leases_run_out_by_the_clock_of_the_store
    every_key_expires_and_indexes_are_cleared_of_what_has_expired
    leases_that_ran_out_are_told_once_by_whoever_clears_them_away
    an_entry_that_cannot_be_read_is_named_and_left_alone
}

#[test]
fn nothing_is_called_that_the_page_on_security_gives_no_right_to() {
    let page = include_str!("../../../../docs/security.md");
    let rights: HashSet<_> =
        page.split(['\'', '`', ' ', '\n']).filter_map(|word| word.strip_prefix('+')).collect();
    for command in include_str!("../../src/renewals.rs").split("cmd(\"").skip(1) {
        let command = command.split('"').next().unwrap().to_lowercase();
        assert!(rights.contains(&*command), "{command}, called by renewals");
    }
    let mut calls = 0;
    for script in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/scripts")).unwrap() {
        let script = script.unwrap().path();
        for call in std::fs::read_to_string(&script).unwrap().split("call('").skip(1) {
            let command = call.split('\'').next().unwrap().to_lowercase();
            assert!(rights.contains(&*command), "{command}, called in {}", script.display());
            calls += 1;
        }
    }
    assert!(20 < calls, "{calls} calls are found");
}

async fn register_writes_all_that_is_known_of_a_node(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let claim = daemon.claim("rabbit", 100);
    let lease = daemon.backend.register(&claim).await.unwrap();
    assert_eq!(lease.token, claim.token(daemon.instance.id));
    let expected = daemon.lease(&claim, lease.creation()).registration;
    let found = daemon.find("rabbit", &scope("a")).await.unwrap().items;
    assert_eq!(found.iter().map(|found| &*found.registration).collect::<Vec<_>>(), [&*expected]);
    let left = found[0].left.unwrap();
    assert!(TTL - Duration::from_secs(5) < left && left <= TTL, "{left:?}");
    assert!(is_near_the_clock(lease.creation()), "{}", lease.creation());
}

async fn register_with_the_same_token_gets_the_same_lease(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let claim = daemon.claim("rabbit", 100);
    let first = daemon.backend.register(&claim).await.unwrap();
    let again = daemon.backend.register(&claim).await.unwrap();
    assert_eq!((first.token, first.registration), (again.token, again.registration));
}

async fn register_refuses_a_name_that_another_living_daemon_holds(store: Store) {
    let holder = Daemon::with(&store.url(), "first of a", "a", TTL);
    let other = Daemon::with(&store.url(), "second of a", "a", TTL);
    holder.register("rabbit", 100).await.unwrap();
    match other.register("rabbit", 200).await {
        Err(BackendError::NameTaken { name, holder }) => {
            assert_eq!((name.to_string().as_str(), holder.as_str()), ("rabbit@a", "first of a"));
        }
        answer => panic!("{answer:?}"),
    }
    assert_eq!(holder.ports("rabbit", &scope("a")).await, [100]);
    // Another host is another name, and the one that was refused counts as alive.
    let elsewhere = Daemon::on(&store, "b");
    elsewhere.register("rabbit", 300).await.unwrap();
    assert_eq!(other.backend.daemons(&scope("a")).await.unwrap().items.len(), 2);
}

async fn register_takes_over_from_a_retired_daemon_and_from_an_earlier_run(store: Store) {
    let first = Daemon::with(&store.url(), "daemon", "a", TTL);
    let next_run = Daemon::with(&store.url(), "daemon", "a", TTL);
    let other = Daemon::with(&store.url(), "other", "a", TTL);
    let mut creations = vec![first.register("rabbit", 100).await.unwrap().creation()];
    creations.push(next_run.register("rabbit", 200).await.unwrap().creation());
    assert_eq!(first.ports("rabbit", &scope("a")).await, [200]);
    next_run.backend.retire().await.unwrap();
    creations.push(other.register("rabbit", 300).await.unwrap().creation());
    assert_eq!(first.ports("rabbit", &scope("a")).await, [300]);
    assert!(creations.is_sorted_by(|a, b| a < b), "{creations:?}");
}

async fn register_never_repeats_a_creation(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let mut seen = HashSet::new();
    for life in 0..50 {
        let lease = daemon.register("rabbit", 100).await.unwrap();
        assert!(seen.insert(lease.creation()), "{} came back in life {life}", lease.creation());
        if life % 2 == 0 {
            daemon.backend.release(&lease).await.unwrap();
        }
    }
    // The counter of a store that has lost it starts at the clock, and a renewal does not lower it.
    let last = daemon.register("rabbit", 100).await.unwrap();
    let ahead = restamped(&last, last.creation().get() + 1_000_000);
    let _: () = store.query(&key(""), &["FLUSHALL"]);
    assert_eq!(daemon.renew(from_ref(&ahead)).await.unwrap(), [Renewal::Held]);
    daemon.backend.release(&ahead).await.unwrap();
    assert_eq!(daemon.register("rabbit", 100).await.unwrap().creation(), ahead.creation().next());
    let behind = restamped(&last, 4);
    let _: () = store.query(&key(""), &["FLUSHALL"]);
    daemon.renew(from_ref(&behind)).await.unwrap();
    daemon.backend.release(&behind).await.unwrap();
    let next = daemon.register("rabbit", 100).await.unwrap().creation();
    assert!(Creation::new(1_000_000) < Some(next), "{next} is not from the clock");
}

async fn a_replica_that_never_heard_of_the_last_lives_repeats_no_creation(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let mut seen = HashSet::new();
    for _ in 0..10 {
        seen.insert(daemon.register("rabbit", 100).await.unwrap().creation());
    }
    let first = seen.iter().min().unwrap().to_string();
    let (counter, node) = (key("creation:a"), key("node:a/rabbit"));
    let _: () = store.query(&counter, &["SET", &counter, &first, "PX", "60000"]);
    let _: u8 = store.query(&node, &["DEL", &node]);
    // A fail-over takes longer.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let next = daemon.register("rabbit", 100).await.unwrap().creation();
    assert!(seen.insert(next), "{next} came again");
}

async fn the_next_life_of_a_name_is_another_one_of_three(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let mut last = daemon.register("rabbit", 100).await.unwrap();
    for life in 0..100 {
        // Other names of the host count as well.
        for _ in 0..life % 4 {
            daemon.register("other", 1).await.unwrap();
        }
        if life % 2 == 0 {
            daemon.backend.release(&last).await.unwrap();
        }
        let mut claim = daemon.claim("rabbit", 100);
        claim.last = Some(last.creation());
        let next = daemon.backend.register(&claim).await.unwrap();
        assert_ne!(next.creation().as_legacy(), last.creation().as_legacy(), "in life {life}");
        last = next;
    }
}

async fn a_counter_that_is_none_is_as_good_as_lost(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let (counter, node) = (key("creation:a"), key("node:a/rabbit"));
    for foreign in ["nan", "inf", "-inf", "0x10", "1e9", "3", "2147483648", "99999999999999999999", "", "10 "]
    {
        let _: () = store.query(&counter, &["SET", &counter, foreign]);
        let creation = daemon.register("rabbit", 1).await.unwrap().creation();
        assert!(is_near_the_clock(creation), "{creation} after {foreign:?}");
        assert_eq!(store.query::<String>(&counter, &["GET", &counter]), creation.to_string());
        let _: u8 = store.query(&node, &["DEL", &node]);
    }
    let _: u8 = store.query(&counter, &["DEL", &counter]);
    let _: u8 = store.query(&counter, &["RPUSH", &counter, "x"]);
    assert!(is_near_the_clock(daemon.register("rabbit", 1).await.unwrap().creation()));
}

async fn names_that_come_and_go_leave_nothing_behind(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let keys = || store.query::<Vec<String>>(&key(""), &["KEYS", "*"]);
    daemon.backend.release(&daemon.register("first", 1).await.unwrap()).await.unwrap();
    let before = keys();
    for number in 0..300 {
        let lease = daemon.register(&format!("n{number}"), 1).await.unwrap();
        daemon.backend.release(&lease).await.unwrap();
    }
    assert_eq!(keys().len(), before.len(), "{:?}", keys());
}

async fn a_counter_is_kept_until_the_clock_is_past_it(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let counter = key("creation:a");
    let kept = || Duration::from_millis(store.query::<u64>(&counter, &["PTTL", &counter]));
    let first = daemon.register("rabbit", 1).await.unwrap().creation();
    let day = Duration::from_secs(86_400);
    assert!(day - Duration::from_secs(10) < kept() && kept() < day + Duration::from_secs(10), "{:?}", kept());
    // An hour ahead of the clock.
    let mut claim = daemon.claim("rabbit", 1);
    claim.last = Creation::new(first.get() + 3600 * 64);
    daemon.backend.register(&claim).await.unwrap();
    let ahead = kept() - day;
    assert!((3500..3700).contains(&ahead.as_secs()), "{ahead:?}");
}

fn is_near_the_clock(creation: Creation) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    creation.get().abs_diff(Creation::from_ticks(now).get()) < 10 * 64
}

async fn register_counts_on_from_what_the_claimant_remembers_but_not_from_the_upper_half(store: Store) {
    let daemon = Daemon::on(&store, "a");
    for (last, expected) in [(2_000_000_000, 2_000_000_001), ((1 << 31) - 1, 5)] {
        let _: () = store.query(&key(""), &["FLUSHALL"]);
        let mut claim = daemon.claim("rabbit", 100);
        claim.last = Creation::new(last);
        assert_eq!(daemon.backend.register(&claim).await.unwrap().creation().get(), expected);
    }
    let mut claim = daemon.claim("other", 100);
    claim.last = Some(Creation::offline(Duration::from_secs(1), 1));
    let lease = daemon.backend.register(&claim).await.unwrap();
    assert!(!lease.creation().is_offline());
    // Nor from one that a renewal has brought.
    let offline = restamped(&daemon.register("third", 1).await.unwrap(), u32::MAX);
    daemon.renew(from_ref(&offline)).await.unwrap();
    assert!(!daemon.register("third", 1).await.unwrap().creation().is_offline());
}

async fn renew_extends_what_is_held_and_tells_nobody(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let lease = daemon.register("rabbit", 100).await.unwrap();
    let node = key("node:a/rabbit");
    let before: String = store.query(&node, &["GET", &node]);
    let mut subscriber = redis::Client::open(store.url()).unwrap().get_connection().unwrap();
    let mut changes = subscriber.as_pubsub();
    changes.subscribe(key("changes")).unwrap();
    let _: u8 = store.query(&node, &["PEXPIRE", &node, "1000"]);
    assert_eq!(daemon.renew(from_ref(&lease)).await.unwrap(), [Renewal::Held]);
    let left: u64 = store.query(&node, &["PTTL", &node]);
    assert!(10_000 < left, "{left} ms left");
    assert_eq!(store.query::<String>(&node, &["GET", &node]), before);
    // The first that is heard is the release, so there was nothing before it.
    daemon.backend.release(&lease).await.unwrap();
    assert_eq!(changes.get_message().unwrap().get_payload::<String>().unwrap(), "-a/rabbit");
}

async fn renew_restores_all_that_an_empty_store_has_lost(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let leases = [daemon.register("one", 1).await.unwrap(), daemon.register("two", 2).await.unwrap()];
    let _: () = store.query(&key(""), &["FLUSHALL"]);
    assert_eq!(daemon.names(&Scope::Cluster).await, [""; 0]);
    assert_eq!(daemon.renew(&leases).await.unwrap(), [Renewal::Held, Renewal::Held]);
    assert_eq!(daemon.names(&Scope::Cluster).await, ["one@a", "two@a"]);
    assert_eq!(daemon.ports("one", &scope("a.example")).await, [1]);
    assert_eq!(daemon.ports("two", &Scope::Cluster).await, [2]);
    let found = daemon.find("one", &scope("a")).await.unwrap().items;
    assert_eq!(found[0].registration, leases[0].registration);
}

async fn what_a_renewal_restores_is_told_name_by_name_where_it_is_little(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let mut leases = Vec::new();
    for number in 0..100 {
        leases.push(daemon.register(&format!("n{number}"), 1).await.unwrap());
    }
    let mut changes = daemon.backend.watch();
    let mut next = async || tokio::time::timeout(PATIENCE, changes.next()).await.unwrap().unwrap();
    until("it hears of changes", async || {
        daemon.register("probe", 1).await.unwrap();
        tokio::time::timeout(Duration::from_millis(100), next()).await.is_ok()
    })
    .await;
    while tokio::time::timeout(Duration::from_millis(100), next()).await.is_ok() {}
    for (restored, told) in [(8, 8), (9, 1), (100, 1)] {
        let _: () = store.query(&key(""), &["FLUSHALL"]);
        daemon.renew(&leases[..restored]).await.unwrap();
        daemon.register("last", 1).await.unwrap();
        let mut heard = Vec::new();
        while heard.last() != Some(&Change::Registered(name("last"), host("a"))) {
            heard.push(next().await);
        }
        assert_eq!(heard.len(), told + 1, "of {restored}: {heard:?}");
        assert_eq!(heard[0] == Change::Missed, told < restored, "of {restored}: {heard:?}");
    }
}

async fn renew_leads_to_its_leases_again_when_only_the_indexes_were_lost(store: Store) {
    // They are written once in ten minutes, and so at each renewal of such a lease.
    let daemon = Daemon::with(&store.url(), "a", "a", Duration::from_secs(600));
    let lease = daemon.register("rabbit", 100).await.unwrap();
    for index in ["names:a", "holders:rabbit", "alias:a.example", "daemons:a", "hosts", "instances"] {
        assert_eq!(store.query::<u8>(&key(index), &["DEL", &key(index)]), 1);
    }
    assert_eq!(daemon.names(&Scope::Cluster).await, [""; 0]);
    daemon.renew(from_ref(&lease)).await.unwrap();
    assert_eq!(daemon.names(&scope("a.example")).await, ["rabbit@a"]);
    assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [100]);
    for scope in [Scope::Cluster, scope("a.example"), scope("a")] {
        assert_eq!(daemon.backend.daemons(&scope).await.unwrap().items.len(), 1, "{scope:?}");
    }
}

async fn renew_writes_what_has_changed_under_the_same_token(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let lease = daemon.register("rabbit", 100).await.unwrap();
    let mut registration = (*lease.registration).clone();
    registration.advertised_port = 7;
    let changed = Lease { token: lease.token, registration: registration.into() };
    assert_eq!(daemon.renew(from_ref(&changed)).await.unwrap(), [Renewal::Held]);
    let found = daemon.find("rabbit", &scope("a")).await.unwrap().items;
    assert_eq!(found[0].registration, changed.registration);
}

async fn renew_never_overwrites_another_owner(store: Store) {
    let first = Daemon::with(&store.url(), "first", "a", TTL);
    let second = Daemon::with(&store.url(), "second", "a", TTL);
    let lost = first.register("rabbit", 100).await.unwrap();
    let kept = first.register("kept", 101).await.unwrap();
    first.backend.retire().await.unwrap();
    second.register("rabbit", 200).await.unwrap();
    let renewals = first.renew(&[lost, kept]).await.unwrap();
    assert_eq!(renewals, [Renewal::Conflict { holder: "second".to_owned() }, Renewal::Held]);
    assert_eq!(first.ports("rabbit", &scope("a")).await, [200]);
}

async fn renew_lets_the_lease_of_another_owner_last_longer_once_at_most(store: Store) {
    let first = Daemon::with(&store.url(), "first", "a", TTL);
    let second = Daemon::with(&store.url(), "second", "a", TTL);
    let lost = first.register("rabbit", 100).await.unwrap();
    assert_eq!(first.renew(from_ref(&lost)).await.unwrap(), [Renewal::Held]);
    first.backend.retire().await.unwrap();
    second.register("rabbit", 200).await.unwrap();
    assert!(matches!(first.renew(from_ref(&lost)).await.unwrap()[..], [Renewal::Conflict { .. }]));
    // The other one ends now.
    let node = key("node:a/rabbit");
    let _: u8 = store.query(&node, &["PEXPIRE", &node, "2000"]);
    for _ in 0..3 {
        assert!(matches!(first.renew(from_ref(&lost)).await.unwrap()[..], [Renewal::Conflict { .. }]));
    }
    let left: u64 = store.query(&node, &["PTTL", &node]);
    assert!(left <= 2000, "{left} ms left");
}

async fn renew_of_what_is_there_takes_one_script_however_many_there_are(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let mut leases = Vec::new();
    // All of which have their turn at the same time, which is not now.
    for number in 0..300 {
        leases.push(daemon.register(&format!("{number}-\u{e9}"), 1).await.unwrap());
    }
    // The first one brings the script.
    daemon.renew(&[]).await.unwrap();
    let _: () = store.query("", &["CONFIG", "RESETSTAT"]);
    for _ in 0..10 {
        assert_eq!(daemon.renew(&leases).await.unwrap(), vec![Renewal::Held; leases.len()]);
    }
    assert_eq!(["evalsha", "getrange"].map(|command| calls(&store, command)), [10, 3000]);
}

async fn renew_without_leases_lets_a_daemon_count_as_alive(store: Store) {
    let daemon = Daemon::on(&store, "a");
    assert_eq!(daemon.renew(&[]).await.unwrap(), []);
    assert_eq!(
        daemon.backend.daemons(&scope("a.example")).await.unwrap().items,
        vec![daemon.instance.clone()]
    );
}

async fn renew_of_a_large_batch_answers_for_each(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let thief = Daemon::with(&store.url(), "thief", "a", TTL);
    let mut leases = Vec::new();
    for index in 0..1001 {
        let claim = daemon.claim(&format!("node{index}"), index);
        leases.push(daemon.lease(&claim, Creation::FIRST));
    }
    daemon.renew(&leases).await.unwrap();
    daemon.backend.retire().await.unwrap();
    for index in [0, 99, 100, 555, 1000] {
        thief.register(&format!("node{index}"), 1).await.unwrap();
    }
    let renewals = daemon.renew(&leases).await.unwrap();
    let lost: Vec<_> = (0..1001).filter(|index| renewals[*index] != Renewal::Held).collect();
    assert_eq!((renewals.len(), lost), (1001, vec![0, 99, 100, 555, 1000]));
    let listed = daemon.backend.list(&scope("a")).await.unwrap().items;
    assert_eq!(listed.len(), 1001);
}

async fn release_ends_its_own_lease_only(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let old = daemon.register("rabbit", 100).await.unwrap();
    let new = daemon.register("rabbit", 200).await.unwrap();
    daemon.backend.release(&old).await.unwrap();
    assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [200]);
    for _ in 0..2 {
        daemon.backend.release(&new).await.unwrap();
        assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [0; 0]);
    }
    let left: (u8, u8) = (
        store.query(&key(""), &["EXISTS", &key("names:a")]),
        store.query(&key(""), &["EXISTS", &key("holders:rabbit")]),
    );
    assert_eq!(left, (0, 0));
}

async fn retire_ends_a_daemon_and_not_its_leases(store: Store) {
    let daemon = Daemon::on(&store, "a");
    daemon.register("rabbit", 100).await.unwrap();
    daemon.backend.retire().await.unwrap();
    assert_eq!(daemon.backend.daemons(&Scope::Cluster).await.unwrap().items, []);
    assert_eq!(daemon.ports("rabbit", &scope("a")).await, [100]);
}

async fn find_looks_under_the_host_its_aliases_and_everywhere(store: Store) {
    let (a, b) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    a.register("rabbit", 100).await.unwrap();
    b.register("rabbit", 200).await.unwrap();
    b.register("x/y@z {t}", 300).await.unwrap();
    for (alive, at, ports) in [
        ("rabbit", scope("a"), &[100][..]),
        ("rabbit", scope("B"), &[200]),
        ("rabbit", scope("b.example"), &[200]),
        ("rabbit", scope("c"), &[]),
        ("rabbit", Scope::Cluster, &[100, 200]),
        ("x/y@z {t}", Scope::Cluster, &[300]),
        ("x/y@z {t}", scope("b.example"), &[300]),
        ("x", Scope::Cluster, &[]),
    ] {
        assert_eq!(a.ports(alive, &at).await, ports, "{alive} in {at:?}");
    }
    // A daemon of the same host whose settings do not have the alias does not answer to it.
    let bare = Daemon::with(&store.url(), "bare", "a", TTL);
    bare.backend.update(Arc::new(Instance { aliases: Vec::new(), ..(*bare.instance).clone() }));
    bare.register("bare", 400).await.unwrap();
    assert_eq!(a.ports("bare", &scope("a.example")).await, [0; 0]);
    assert_eq!(a.ports("bare", &scope("a")).await, [400]);
}

async fn find_reads_no_more_than_is_asked_for(store: Store) {
    let daemons: Vec<_> = (0..30).map(|number| Daemon::on(&store, &format!("h{number}"))).collect();
    for daemon in &daemons {
        daemon.register("app", 1).await.unwrap();
    }
    let _: () = store.query("", &["CONFIG", "RESETSTAT"]);
    let (app, near) = (name("app"), host("h7"));
    for _ in 0..10 {
        let search = Search { name: &app, scope: &Scope::Cluster, near: &near, most: 2 };
        let found = daemons[0].backend.find(&search).await.unwrap();
        assert_eq!((found.items.len(), &found.items[0].registration.instance.host), (2, &near));
    }
    // The clock, the index, and two registrations with their time.
    let counted = ["time", "zrangebyscore", "get", "pttl"].map(|command| calls(&store, command));
    assert_eq!(counted, [10, 10, 20, 20]);
}

/// How often the store has run a command, within scripts or not, since its statistics were reset.
fn calls(store: &Store, command: &str) -> u32 {
    let statistics: String = store.query("", &["INFO", "commandstats"]);
    let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

async fn list_covers_its_scope_and_records_are_in_order(store: Store) {
    let (a, b) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let first = a.register("one", 1).await.unwrap();
    b.register("one", 2).await.unwrap();
    a.register("two", 3).await.unwrap();
    let again = a.register("one", 4).await.unwrap();
    assert_ne!(first.creation(), again.creation());
    // A renewal is no registration.
    a.renew(&[a.register("three", 5).await.unwrap(), again]).await.unwrap();
    assert_eq!(a.names(&scope("a.example")).await, ["one@a", "three@a", "two@a"]);
    assert_eq!(a.names(&Scope::Cluster).await, ["one@a", "one@b", "three@a", "two@a"]);
    // Daemons of earlier versions list by it.
    let orders = ["b/one", "a/two", "a/one", "a/three"].map(|node| {
        let node = key(&format!("node:{node}"));
        let record: String = store.query(&node, &["GET", &node]);
        record.split(' ').nth(1).unwrap().to_owned()
    });
    assert!(orders.is_sorted_by(|a, b| a < b), "{orders:?}");
    assert_eq!(a.names(&scope("c")).await, [""; 0]);
    // Another cluster in the same store is another world.
    let settings = Settings::from_url(&store.url(), "other", TTL).unwrap();
    assert_eq!(Redis::open(settings, Arc::clone(&a.instance)).list(&Scope::Cluster).await.unwrap().items, []);
}

async fn daemons_are_those_that_count_as_alive(store: Store) {
    let (a, b) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    a.register("rabbit", 1).await.unwrap();
    b.renew(&[]).await.unwrap();
    let mut daemons = a.backend.daemons(&Scope::Cluster).await.unwrap().items;
    daemons.sort_by(|a, b| a.host.cmp(&b.host));
    assert_eq!(daemons, [a.instance.clone(), b.instance.clone()]);
    assert_eq!(a.backend.daemons(&scope("b")).await.unwrap().items, vec![b.instance.clone()]);
}

async fn leases_run_out_by_the_clock_of_the_store(store: Store) {
    let ttl = Duration::from_millis(600);
    let dying = Daemon::with(&store.url(), "dying", "a", ttl);
    let heir = Daemon::with(&store.url(), "heir", "a", TTL);
    let lease = dying.register("rabbit", 100).await.unwrap();
    dying.register("gone", 101).await.unwrap();
    // It stops counting as alive before its lease is over, and only then can the name be taken.
    assert!(matches!(heir.register("rabbit", 200).await, Err(BackendError::NameTaken { .. })));
    let heirs = async || heir.register("rabbit", 200).await.is_ok();
    until("the name can be taken over", heirs).await;
    until("the lease has run out", async || heir.ports("gone", &Scope::Cluster).await.is_empty()).await;
    assert_eq!(heir.names(&Scope::Cluster).await, ["rabbit@a"]);
    assert!(matches!(dying.renew(&[lease]).await.unwrap()[..], [Renewal::Conflict { .. }]));
}

async fn every_key_expires_and_indexes_are_cleared_of_what_has_expired(store: Store) {
    let short = Daemon::with(&store.url(), "short", "gone", Duration::from_millis(100));
    let daemon = Daemon::on(&store, "a");
    let lease = daemon.register("rabbit", 100).await.unwrap();
    for node in ["rabbit", "other"] {
        short.register(node, 1).await.unwrap();
    }
    let members = |index: &str| store.query::<Vec<String>>(&key(index), &["ZRANGE", &key(index), "0", "-1"]);
    let instances = || members("instances").len();
    assert_eq!((members("names:gone").len(), members("holders:rabbit").len(), instances()), (2, 2, 2));
    // Readers clear away the leases that have run out, renewals the daemons and hosts.
    until("they have run out", async || short.names(&scope("gone")).await.is_empty()).await;
    assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [100]);
    daemon.renew(from_ref(&lease)).await.unwrap();
    for (index, left) in [("names:gone", &[][..]), ("holders:rabbit", &["a"]), ("hosts", &["a"])] {
        assert_eq!(members(index), left);
    }
    assert_eq!(instances(), 1);
    let keys: Vec<String> = store.query(&key(""), &["KEYS", "*"]);
    assert!(!keys.is_empty());
    for one in keys {
        assert!(one.starts_with(&key("")), "{one}");
        assert!(0 < store.query::<i64>(&one, &["PTTL", &one]), "{one} never expires");
    }
}

async fn leases_that_ran_out_are_told_once_by_whoever_clears_them_away(store: Store) {
    let ttl = Duration::from_millis(100);
    let (short, other) =
        (Daemon::with(&store.url(), "short", "gone", ttl), Daemon::with(&store.url(), "other", "a", ttl));
    let daemon = Daemon::on(&store, "a");
    let lease = daemon.register("rabbit", 100).await.unwrap();
    let mut changes = daemon.backend.watch();
    let mut next = async || tokio::time::timeout(PATIENCE, changes.next()).await.unwrap().unwrap();
    until("it hears of changes", async || {
        other.register("lone", 1).await.unwrap();
        matches!(tokio::time::timeout(ttl, next()).await, Ok(Change::Registered(..)))
    })
    .await;
    // More than one may have been told.
    while tokio::time::timeout(ttl, next()).await.is_ok() {}
    // More than one call may clear away.
    let mut expected = HashSet::new();
    for number in 0..150 {
        let node = format!("n{number}");
        short.register(&node, 1).await.unwrap();
        assert_eq!(next().await, Change::Registered(name(&node), host("gone")));
        expected.insert(Change::Expired(name(&node), host("gone")));
    }

    // A host without a daemon: renewals of others find out.
    until("its leases are over", async || daemon.ports("n149", &Scope::Cluster).await.is_empty()).await;
    tokio::time::sleep(ttl).await;
    for _ in 0..2 {
        daemon.renew(from_ref(&lease)).await.unwrap();
    }
    for _ in 0..150 {
        let change = next().await;
        assert!(expected.remove(&change), "{change:?}");
    }
    daemon.renew(from_ref(&lease)).await.unwrap();
    // A host that has another: whoever lists its nodes does.
    assert_eq!(daemon.names(&scope("a")).await, ["rabbit@a"]);
    assert_eq!(next().await, Change::Expired(name("lone"), host("a")));
    daemon.backend.release(&lease).await.unwrap();
    assert_eq!(next().await, Change::Released(name("rabbit"), host("a")));
}

async fn an_entry_that_cannot_be_read_is_named_and_left_alone(store: Store) {
    let daemon = Daemon::on(&store, "a");
    let node = key("node:a/rabbit");
    let fine = daemon.register("fine", 1).await.unwrap();
    let lease = daemon.register("rabbit", 100).await.unwrap();
    for foreign in [&["SET", &node, "2 from the future"][..], &["RPUSH", &node, "a list"]] {
        let _: u8 = store.query(&node, &["DEL", &node]);
        let _: redis::Value = store.query(&node, foreign);
        let before: Vec<u8> = store.query(&node, &["DUMP", &node]);
        let error = daemon.register("rabbit", 100).await.unwrap_err();
        assert!(matches!(&error, BackendError::Corrupt { key, .. } if *key == node), "{error:?}");
        // It costs its own name alone, and is told of.
        let seen = daemon.find("rabbit", &scope("a")).await.unwrap();
        assert_eq!((seen.items.len(), seen.examples[0].at.as_str()), (0, node.as_str()));
        let seen = daemon.backend.list(&Scope::Cluster).await.unwrap();
        assert_eq!((seen.items.len(), seen.unreadable, seen.examples[0].at.as_str()), (1, 1, node.as_str()));
        // The others of its batch are renewed.
        let renewals = daemon.renew(&[lease.clone(), fine.clone()]).await.unwrap();
        assert!(matches!(renewals[..], [Renewal::Failed { .. }, Renewal::Held]), "{renewals:?}");
        daemon.backend.release(&lease).await.unwrap();
        assert_eq!(store.query::<Vec<u8>>(&node, &["DUMP", &node]), before);
    }
    let future = key("instance:00ff");
    let _: () = store.query(&future, &["SET", &future, "2 from the future", "PX", "60000"]);
    let score = store.query::<f64>(&key(""), &["ZSCORE", &key("instances"), &daemon.instance.id.to_string()]);
    let _: u8 = store.query(&key(""), &["ZADD", &key("instances"), &score.to_string(), "00ff"]);
    let daemons = daemon.backend.daemons(&Scope::Cluster).await.unwrap();
    assert_eq!((&daemons.items[..], &*daemons.examples[0].at), (from_ref(&daemon.instance), &*future));
    // Under the key that leads to all hosts it is an operator's matter.
    let index = key("hosts");
    let _: u8 = store.query(&index, &["DEL", &index]);
    let _: () = store.query(&index, &["SET", &index, "mine"]);
    let error = daemon.backend.list(&Scope::Cluster).await.unwrap_err();
    assert!(matches!(&error, BackendError::Denied { action, .. } if action == "list names"), "{error:?}");
}

/// The same lease with another creation.
fn restamped(lease: &Lease, creation: u32) -> Lease {
    let creation = Creation::new(creation).unwrap();
    let registration = Registration { creation, ..(*lease.registration).clone() };
    Lease { token: lease.token, registration: registration.into() }
}
