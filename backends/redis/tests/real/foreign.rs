//! What somebody else has written under our keys: it costs its own name at most, and is not believed.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use repmd_backend_api::{BackendError, RegistryBackend, Renewal, Scope, Seen};
use repmd_test_stores::Store;
use tokio::time::timeout;

use crate::daemon::{DEADLINE, Daemon, PATIENCE, TTL, key, scope, until, until_ok};
use crate::proxy::Proxy;

/// Where things are that cannot be read.
fn places<T>(seen: &Seen<T>) -> Vec<&str> {
    seen.examples.iter().map(|unreadable| &*unreadable.at).collect()
}

#[tokio::test]
async fn a_wrong_type_under_an_index_of_one_name_costs_that_name_alone() {
    let store = Store::redis();
    let daemon = Daemon::on(&store, "a");
    let mut leases = Vec::new();
    for node in ["first", "odd", "last"] {
        leases.push(daemon.register(node, 1).await.unwrap());
    }
    // So that each is written anew, with its index.
    let _: () = store.query("", &["FLUSHALL"]);
    let index = key("holders:odd");
    let _: u8 = store.query(&index, &["RPUSH", &index, "x"]);
    for _ in 0..2 {
        let renewals = daemon.renew(&leases).await.unwrap();
        let [Renewal::Held, Renewal::Failed { reason }, Renewal::Held] = &renewals[..] else {
            panic!("{renewals:?}")
        };
        assert!(reason.contains("WRONGTYPE"), "{reason}");
        for node in ["first", "last"] {
            assert_eq!(daemon.ports(node, &Scope::Cluster).await, [1]);
        }
    }
    let found = daemon.find("odd", &Scope::Cluster).await.unwrap();
    assert_eq!((found.items.len(), places(&found)), (0, vec![&*index]));
    assert!(daemon.register("other", 1).await.is_ok());
    let _: u8 = store.query(&index, &["DEL", &index]);
    assert_eq!(daemon.renew(&leases).await.unwrap(), [Renewal::Held, Renewal::Held, Renewal::Held]);
    assert_eq!(daemon.ports("odd", &Scope::Cluster).await, [1]);
}

#[tokio::test]
async fn a_wrong_type_under_an_index_of_one_host_costs_the_list_of_that_host_alone() {
    let store = Store::redis();
    let (a, b) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    a.register("rabbit", 1).await.unwrap();
    b.register("rabbit", 2).await.unwrap();
    let index = key("names:a");
    let _: u8 = store.query(&index, &["DEL", &index]);
    let _: () = store.query(&index, &["SET", &index, "mine"]);
    let listed = b.backend.list(&Scope::Cluster).await.unwrap();
    assert_eq!((listed.items.len(), places(&listed)), (1, vec![&*index]));
    assert_eq!(b.ports("rabbit", &scope("a")).await, [1]);
}

#[tokio::test]
async fn a_member_that_is_no_text_costs_itself_alone_and_no_connection() {
    let store = Store::redis();
    let proxy = Proxy::to(&store);
    let daemon = Daemon::with(&proxy.url(), "a", "a", TTL);
    daemon.register("rabbit", 1).await.unwrap();
    let (quick, bulk) = (
        proxy.connection_of(async || drop(daemon.ports("rabbit", &Scope::Cluster).await)).await,
        proxy.connection_of(async || drop(daemon.renew(&[]).await)).await,
    );
    for index in ["names:a", "holders:rabbit", "hosts", "instances", "daemons:a"] {
        let add = "local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] \
                   for _, kind in ipairs({'node:a/', 'node:', 'instance:'}) do \
                   for _, rest in ipairs({'\\255', '\\255/rabbit'}) do \
                   redis.call('SET', ARGV[1] .. kind .. rest, 'x', 'PX', 60000) end end \
                   return redis.call('ZADD', KEYS[1], last, '\\255')";
        let added: u8 = store.query(&key(index), &["EVAL", add, "1", &key(index), &key("")]);
        assert_eq!(added, 1);
    }
    for _ in 0..5 {
        assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [1]);
        let listed = daemon.backend.list(&Scope::Cluster).await.unwrap();
        assert_eq!((listed.items.len(), listed.unreadable), (1, 2), "{listed:?}");
        let daemons = daemon.backend.daemons(&Scope::Cluster).await.unwrap();
        assert_eq!((daemons.items.len(), daemons.unreadable), (1, 1), "{daemons:?}");
        let daemons = daemon.backend.daemons(&scope("a")).await.unwrap();
        assert_eq!((daemons.items.len(), daemons.unreadable), (1, 1), "{daemons:?}");
    }
    assert!(!quick.is_over() && !bulk.is_over());
}

#[tokio::test]
async fn what_never_expires_is_not_believed() {
    let store = Store::redis();
    let daemon = Daemon::on(&store, "a");
    let lease = daemon.register("rabbit", 1).await.unwrap();
    let (node, instance) = (key("node:a/rabbit"), key(&format!("instance:{}", daemon.instance.id)));
    for one in [&node, &instance] {
        assert_eq!(store.query::<u8>(one, &["PERSIST", one]), 1);
    }
    let found = daemon.find("rabbit", &Scope::Cluster).await.unwrap();
    assert_eq!((found.items.len(), places(&found)), (0, vec![&*node]));
    let listed = daemon.backend.list(&Scope::Cluster).await.unwrap();
    assert_eq!((listed.items.len(), places(&listed)), (0, vec![&*node]));
    let daemons = daemon.backend.daemons(&Scope::Cluster).await.unwrap();
    assert_eq!((daemons.items.len(), places(&daemons)), (0, vec![&*instance]));
    // A daemon that is not alive, though its key stays for ever, keeps no name.
    let heir = Daemon::with(&store.url(), "heir", "a", TTL);
    heir.register("rabbit", 2).await.unwrap();
    // And a renewal mends what is its own.
    heir.backend.retire().await.unwrap();
    let _: u8 = store.query(&node, &["DEL", &node]);
    assert_eq!(daemon.renew(from_ref(&lease)).await.unwrap(), [Renewal::Held]);
    assert_eq!(daemon.ports("rabbit", &Scope::Cluster).await, [1]);
    assert_eq!(daemon.backend.daemons(&Scope::Cluster).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_holder_that_is_a_book_is_cut() {
    let store = Store::redis();
    let daemon = Daemon::on(&store, "a");
    let node = key("node:a/rabbit");
    for (length, is_read) in [(100_000, true), (5_000_000, false)] {
        let book = "h".repeat(length);
        let id = "f".repeat(32);
        let instance = key(&format!("instance:{id}"));
        let _: () = store.query(&instance, &["SET", &instance, "1 {}", "PX", "60000"]);
        let record = format!("1 0000000000000000007 {id}-1 7 {book} {{}}");
        let _: () = store.query(&node, &["SET", &node, &record, "PX", "60000"]);
        match daemon.register("rabbit", 1).await.unwrap_err() {
            BackendError::NameTaken { holder, .. } if is_read => assert_eq!(holder, book[..255]),
            BackendError::Corrupt { key, .. } if !is_read => assert_eq!(key, node),
            error => panic!("{length}: {error:?}"),
        }
        let lease = daemon.lease(&daemon.claim("rabbit", 1), repmd_backend_api::Creation::FIRST);
        match &daemon.renew(from_ref(&lease)).await.unwrap()[..] {
            [Renewal::Conflict { holder }] if is_read => assert_eq!(*holder, book[..255]),
            [Renewal::Failed { reason }] if !is_read => assert!(reason.len() < 300, "{reason}"),
            renewals => panic!("{length}: {renewals:?}"),
        }
    }
}

/// Members that lead nowhere, in every index.
#[tokio::test]
async fn a_million_members_of_each_index_stall_nobody_and_are_cleared_away() {
    let store = Store::redis();
    let daemon = Daemon::on(&store, "a");
    let other = Daemon::on(&store, "b");
    let lease = daemon.register("rabbit", 1).await.unwrap();
    let indexes =
        ["names:a", "holders:rabbit", "alias:a.example", "daemons:a", "hosts", "instances"].map(key);
    let fill = "for i = 1, 100000 do redis.call('ZADD', KEYS[1], tonumber(ARGV[1]) + i, ARGV[2] .. i) end";
    let near =
        || (std::time::SystemTime::now() + Duration::from_secs(600)).duration_since(std::time::UNIX_EPOCH);
    for index in &indexes {
        for (number, score) in [near().unwrap().as_millis().to_string(), "1e15".to_owned()].iter().enumerate()
        {
            let _: redis::Value =
                store.query(index, &["EVAL", fill, "1", index, score, &format!("x{number}-")]);
        }
    }
    let members = |index: &str| store.query::<u32>(index, &["ZCARD", index]);
    let before: u32 = indexes.iter().map(|index| members(index)).sum();
    assert!(1_000_000 <= before, "{before}");
    // While that was written, nothing else ran on this thread.
    until_ok("it renews", async || daemon.renew(from_ref(&lease)).await).await;
    until_ok("it finds", async || other.find("rabbit", &scope("a")).await).await;
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    while started.elapsed() < Duration::from_secs(5) {
        assert_eq!(
            timeout(PATIENCE, daemon.renew(from_ref(&lease))).await.unwrap().unwrap(),
            [Renewal::Held]
        );
        let asked = Instant::now();
        let found = timeout(DEADLINE, other.find("rabbit", &scope("a"))).await;
        assert_eq!(found.unwrap().unwrap().items.len(), 1);
        let everywhere = timeout(DEADLINE, other.find("rabbit", &Scope::Cluster)).await.unwrap().unwrap();
        assert!(!everywhere.items.is_empty() || places(&everywhere) == [&*indexes[1]], "{everywhere:?}");
        slowest = slowest.max(asked.elapsed());
    }
    eprintln!(
        "slowest {slowest:?}, members left {}",
        indexes.iter().map(|index| members(index)).sum::<u32>()
    );
    assert!(slowest < DEADLINE / 2, "{slowest:?}");
    until("it is found", async || !other.ports("rabbit", &Scope::Cluster).await.is_empty()).await;
    // A list that is not whole says so, and the next one sees more.
    until("it lists", async || {
        let listed = daemon.backend.list(&scope("a")).await.unwrap();
        assert!(!listed.items.is_empty() || places(&listed) == [&*indexes[0]], "{listed:?}");
        !listed.items.is_empty()
    })
    .await;
}
