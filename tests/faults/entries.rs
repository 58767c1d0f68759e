//! Entries of the store that others wrote: by hand, or by a daemon of another version.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Instant, SystemTime};

use repmd_test_stores::Store;
use repmd_test_support::names;

use crate::stage::{Host, Stage};
use crate::{INTERVAL, SOON, TTL};

fn key(rest: &str) -> String {
    format!("repmd:{{default}}:{rest}")
}

fn tell(store: &Store, command: &[&str]) {
    let _: redis::Value = store.query("", command);
}

/// When a member of an index may be forgotten: in a minute, in milliseconds since the Unix epoch.
fn soon() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    (now.as_millis() + 60_000).to_string()
}

/// The registration of a node, as its daemon wrote it.
fn entry(store: &Store, node: &str) -> String {
    let node = key(&format!("node:{node}"));
    store.query("", &["GET", &node])
}

/// Puts an entry where a registration would be, and leads to it as a daemon would.
fn write(store: &Store, host: &str, name: &str, entry: &str) {
    tell(store, &["SET", &key(&format!("node:{host}/{name}")), entry, "PX", "60000"]);
    for (index, member) in [(format!("names:{host}"), name), (format!("holders:{name}"), host)] {
        tell(store, &["ZADD", &key(&index), &soon(), member]);
    }
    tell(store, &["ZADD", &key("hosts"), &soon(), host]);
}

/// Whoever can write to the store knows a daemon's id, and can guess the number of its next claim.
#[test]
fn an_entry_under_a_daemons_own_next_claim_changes_nothing_of_its_node() {
    let stage = Stage::redis();
    let (a, b) = (stage.host("a"), stage.host("b"));
    let _first = a.register("first", 1000);
    b.wait_until_it_finds("first@a", Some(1000));
    let first = entry(&stage.store, "a/first");
    let [version, order, token, creation, rest] = *first.splitn(5, ' ').collect::<Vec<_>>() else {
        panic!("{first}")
    };
    let (id, last_claim) = token.split_once('-').unwrap();
    let last_claim: u64 = last_claim.parse().unwrap();
    let mut nodes = Vec::new();
    for (claim, name, extra) in [(1, "mine", String::new()), (2, "large", vec!["7"; 70_000].join(","))] {
        let claim = last_claim + claim;
        let rest = rest.replace("first", name).replace(":1000,", ":6666,");
        let rest = rest.replacen("\"registered_at\"", &format!("\"extra\":[{extra}],\"registered_at\""), 1);
        assert!(rest.contains(":6666,") && rest.contains("extra"), "{rest:.500}");
        write(&stage.store, "a", name, &format!("{version} {order} {id}-{claim} {creation} {rest}"));
        let _ = b.find(&format!("{name}@a"));
        nodes.push(a.register(name, 2000));
        assert_eq!(a.find(name), Some(2000), "{}", a.log());
        b.wait_until_it_finds(&format!("{name}@a"), Some(2000));
        assert!(
            entry(&stage.store, &format!("a/{name}")).contains(&format!("{id}-{claim} ")),
            "it was not it"
        );
    }
    assert_eq!((a.find("mine"), a.find("large"), a.find("first")), (Some(2000), Some(2000), Some(1000)));
}

/// Daemons are upgraded one after the other. Those that write a format that others do not know cost these the
/// names that they hold, and nothing else.
#[test]
fn daemons_of_a_later_record_format_and_of_this_one_share_a_store() {
    let stage = Stage::redis();
    let (a, b) = (stage.host("a"), stage.host("b"));
    let _of_a = a.register_some("n", 1000, 5);
    let _of_b = b.register_some("m", 2000, 5);
    b.wait_until_it_finds("n4@a", Some(1004));
    a.wait_until_it_finds("m4@b", Some(2004));
    let (over, is_over) = mpsc::channel::<()>();
    let _beside = std::thread::scope(|scope| {
        // Dropped at the end, also when the test fails.
        let _over = over;
        // A daemon of the later format on another host, and one beside `a`.
        let store = &stage.store;
        scope.spawn(move || {
            while is_over.recv_timeout(INTERVAL / 4) == Err(RecvTimeoutError::Timeout) {
                for (id, host, name) in [("0f2", "c", "later"), ("0f3", "a", "beside"), ("0f4", "c", "n0")] {
                    let daemon = format!("2 {{\"daemon\":\"{host}\"}}");
                    tell(store, &["SET", &key(&format!("instance:{id}")), &daemon, "PX", "2000"]);
                    tell(store, &["ZADD", &key("instances"), &soon(), id]);
                    write(store, host, name, &format!("2 0000000000000000001 {id}-1 what comes later"));
                }
            }
        });
        let noted = |host: &Host| 0 < host.logged(&["cannot be read", "instance:0f2"]);
        let _late = a.register("late", 3000);
        let started = Instant::now();
        while started.elapsed() < 3 * TTL || !noted(&a) {
            assert!(started.elapsed() < SOON, "{}", a.log());
            assert!(a.finds_all("m", "b", 2000, 5) && b.finds_all("n", "a", 1000, 5));
            assert_eq!((a.find("late"), a.find("later@c"), a.find("n0@c")), (Some(3000), None, None));
            // The names of this host that can be read, by whichever of its daemons.
            let _ = a.find("@c");
            assert_eq!(a.find("@b"), Some(b.port()));
            let mut listed: Vec<_> = names(a.port()).into_iter().map(|(name, _)| name).collect();
            listed.sort_unstable();
            assert_eq!(listed, ["late", "n0", "n1", "n2", "n3", "n4"]);
            std::thread::sleep(INTERVAL / 10);
        }
        b.wait_until_it_finds("late@a", Some(3000));
        for host in [&a, &b] {
            assert_eq!(
                host.logged(&["conflict"]) + host.logged(&["the registry refuses"]),
                0,
                "{}",
                host.log()
            );
            // Each entry is told once.
            assert!(host.logged(&["cannot be read", "node:c/later"]) <= 1, "{}", host.log());
        }
        // A node of this host whose name the other daemon holds is not turned away by what cannot be read, and
        // waits for the name to be free.
        let beside = a.register_within_a_second("beside", 4000);
        a.wait_until_degraded("beside");
        assert_eq!(a.find("beside"), Some(4000));
        beside
    });
    // Upgraded, or gone: the names are free.
    for node in ["c/later", "c/n0", "a/beside"] {
        tell(&stage.store, &["DEL", &key(&format!("node:{node}"))]);
    }
    for id in ["0f2", "0f3", "0f4"] {
        tell(&stage.store, &["DEL", &key(&format!("instance:{id}"))]);
    }
    b.wait_until_it_finds("beside@a", Some(4000));
}
