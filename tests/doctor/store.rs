//! Faults of the store.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use repmd_test_support::{faketime, wait_for, wait_until};

use crate::{Pair, SOON};

#[test]
fn the_store_is_down() {
    let mut pair = Pair::with_one();
    let _before = pair.a.register("before", 7000);
    let url = pair.url();
    pair.store.kill();
    let _after = pair.a.register("after", 7001);
    let found = pair.a.doctor(&["--backend", &url]);
    assert!(found.saw("store-away").contains(&url) && found.saw("store-away").contains("refused"));
    assert!(found.saw("node-unpublished").contains("after@hosta"));
    assert!(found.saw("daemon-degraded").contains("away"));
}

#[test]
fn two_daemons_of_a_host_hold_one_name() {
    let mut pair = Pair::start(&["--host", "hosta", "--instance-name", "second"]);
    // Each accepts its node while nobody can be asked.
    pair.store.pause();
    let _nodes = [pair.a.register("foo", 7000), pair.b.register("foo", 7001)];
    pair.store.resume();
    let conflict = || {
        let found = [&pair.a, &pair.b].map(|host| host.doctor(&["--backend", &pair.url()]));
        found.into_iter().find(|found| found.has("node-conflict"))
    };
    let found = wait_for("one has lost", SOON, conflict);
    assert!(found.saw("node-conflict").starts_with("foo@hosta is also held by the daemon"));
}

#[test]
fn the_password_is_wrong() {
    let pair = Pair::with_one();
    let set = || pair.store.tell_all(&["ACL", "SETUSER", "repmd", "on", ">right", "~*", "&*", "+@all"]);
    pair.a.inside(set);
    let url = pair.url().replace("redis://", "redis://repmd:wrong@");
    let found = pair.a.doctor(&["--backend", &url]);
    found.are(&["settings-differ", "store-denied"]);
    assert!(
        found.saw("store-denied").contains("redis://repmd:***@")
            && !found.saw("store-denied").contains("wrong@")
    );
    let url = pair.url().replace("redis://", "redis://repmd:right@");
    pair.a.doctor(&["--backend", &url]).is_only("settings-differ", "warning", &[]);
}

#[test]
fn these_settings_are_not_the_daemon_s() {
    let pair = Pair::with_one();
    pair.a.doctor(&[]).is_only("settings-differ", "warning", &[&pair.url(), "memory"]);
}

#[test]
fn the_store_evicts_what_it_has_no_room_for() {
    let pair = Pair::with_one();
    pair.a.inside(|| {
        pair.store.tell_all(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    });
    // Without a bound it never does.
    pair.a.doctor(&["--backend", &pair.url()]).are(&[]);
    pair.a.inside(|| pair.store.tell_all(&["CONFIG", "SET", "maxmemory", "100mb"]));
    let found = pair.a.doctor(&["--backend", &pair.url()]);
    found.is_only("store-evicts", "warning", &["allkeys-lru", "of 100 MiB"]);
}

#[test]
fn the_store_is_full() {
    let pair = Pair::with_one();
    pair.a.inside(|| {
        pair.store.tell_all(&["SET", "others", &"x".repeat(4 << 20)]);
        pair.store.tell_all(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        pair.store.tell_all(&["CONFIG", "SET", "maxmemory", "4mb"]);
    });
    let _node = pair.a.register("foo", 7000);
    let full = || pair.a.doctor(&["--backend", &pair.url()]);
    wait_until("the daemon has met it", SOON, || full().has("daemon-degraded"));
    let found = full();
    assert!(found.saw("store-full").contains("of 4 MiB"));
    assert!(found.saw("daemon-degraded").contains("OOM"), "{found:?}");
}

#[test]
fn the_store_is_nearly_full() {
    let pair = Pair::with_one();
    pair.a.inside(|| {
        pair.store.tell_all(&["SET", "others", &"x".repeat(94 << 20)]);
        pair.store.tell_all(&["CONFIG", "SET", "maxmemory", "100mb"]);
    });
    pair.a.doctor(&["--backend", &pair.url()]).is_only("store-nearly-full", "warning", &["of 100 MiB"]);
}

/// A way to the store on which everything takes `delay`.
fn slow_way(store: String, delay: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (Ok(near), Ok(far)) = (near, TcpStream::connect(&store)) else { continue };
            for (mut from, mut to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))]
                .map(|(from, to)| (from.unwrap(), to.unwrap()))
            {
                std::thread::spawn(move || {
                    let mut bytes = [0; 65_536];
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        std::thread::sleep(delay);
                        if to.write_all(&bytes[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    port
}

#[test]
fn the_store_is_slow() {
    let pair = Pair::bare();
    let store = pair.url().replace("redis://", "");
    // A listening thread stays in the network that it was started in.
    let port = pair.a.inside(|| slow_way(store, Duration::from_millis(60)));
    let url = format!("redis://127.0.0.1:{port}");
    let _daemon = pair.a.serve(&["--advertise", "10.99.0.1", "--backend", &url]);
    pair.a.doctor(&["--backend", &url]).is_only("store-slow", "warning", &["ms"]);
}

#[test]
fn the_clock_is_wrong() {
    let pair = Pair::with_one();
    let found = pair.a.doctor_with(&["--backend", &pair.url()], &faketime("+1h"));
    found.is_only("clock-skew", "warning", &["behind", "360"]);
}
