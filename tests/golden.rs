//! Replays exchanges that were recorded from the stock daemon (`tests/golden/epmd.json`) against the built
//! program. What repmd answers otherwise on purpose is in `tests/golden/decided.toml`, each with its row in
//! `docs/decisions/0001-differences-from-stock.md`.
//!
//! `REPMD_TEST_EPMD=/usr/bin/epmd cargo test --test golden` plays them against another program: that each
//! "decided" exchange fails there shows that the comparison can tell.
#![allow(clippy::unwrap_used)] // All of this file is a test.

#[path = "golden/pattern.rs"]
mod pattern;
#[path = "golden/play.rs"]
mod play;
#[path = "golden/vector.rs"]
mod vector;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use play::{Setup, play};
use repmd_test_stores::Store;
use repmd_test_support::{Sources, epmd_program, quoted, table};
use vector::{Need, Vector, recorded};

const DIFFERENCES: &str = include_str!("../docs/decisions/0001-differences-from-stock.md");

/// Exchanges of one group that are played at once; most of them wait.
const AT_ONCE: usize = 4;

/// Groups of exchanges: the start of their ids, up to the first `-`.
macro_rules! groups {
    ($($test:ident: $($group:literal),+;)+) => {
        const GROUPS: &[&str] = &[$($($group),+),+];
        $(#[test] fn $test() { vectors_pass(&[$($group),+], &[], &decided().always); })+
    };
}

groups! {
    names_are_listed: "names";
    nodes_register: "alive";
    taken_names_are_refused: "dup";
    nodes_unregister: "unregister", "garbage", "request", "register", "reregister";
    creations_tell_lives_apart: "creation";
    names_are_looked_up: "lookup";
    frames_are_read: "frame", "no", "many";
    silent_connections_time_out: "timeout";
    the_dump_shows_what_was: "dump";
    the_daemon_can_be_killed: "kill";
    nodes_can_be_stopped: "stop";
    local_peers_may_do_more: "local", "remote";
    the_program_answers_on_the_command_line: "cli", "already";
    addresses_are_listened_on: "address";
    descriptors_run_out: "fd";
}

/// Each daemon in a cluster of its own, or it would meet the nodes of others.
#[test]
fn every_exchange_is_the_same_with_a_shared_registry() {
    let store = Store::redis();
    let Decisions { mut always, shared } = decided();
    always.extend(shared);
    vectors_pass(GROUPS, &[("REPMD_BACKEND", &store.url()), ("REPMD_CLUSTER", "{port}")], &always);
}

#[test]
fn every_recorded_exchange_is_in_one_group() {
    let vectors = recorded();
    let played: BTreeSet<_> = vectors.iter().map(|vector| group(&vector.id)).collect();
    assert_eq!(played, GROUPS.iter().copied().collect::<BTreeSet<_>>());
    let ids: BTreeSet<_> = vectors.iter().map(|vector| &vector.id).collect();
    assert_eq!(ids.len(), vectors.len(), "an id stands twice");
}

#[test]
fn every_difference_names_a_test_that_exists_and_every_decided_exchange_has_its_row() {
    let sources = Sources::read();
    let (vectors, decided) = (recorded(), decided());
    let rows = |heading| table(DIFFERENCES, heading);
    let headings =
        ["## Answers that differ\n", "## Answers that differ with a shared registry\n", "## Starting"];
    for row in headings.into_iter().flat_map(rows) {
        let (tests, ids): (Vec<_>, Vec<_>) =
            quoted(row.last().unwrap()).partition(|name| !name.contains('-'));
        assert!(!tests.is_empty(), "no test: {row:?}");
        for test in tests {
            assert!(sources.have_test(test), "{test}");
        }
        for id in ids {
            assert!(vectors.iter().any(|vector| vector.id == id), "{id}: {row:?}");
        }
    }
    let Decisions { always, shared } = decided;
    for (heading, decided) in
        [("## Answers that differ\n", always), ("## Answers that differ with a shared registry\n", shared)]
    {
        for id in decided.keys() {
            assert!(
                vectors.iter().any(|vector| vector.id == *id),
                "decided.toml: no exchange is called {id}"
            );
        }
        let listed: BTreeSet<_> = rows(heading).flat_map(|row| quoted(row[3])).collect();
        assert_eq!(listed, decided.keys().map(String::as_str).collect(), "the page, and decided.toml");
    }
}

/// Plays every recorded exchange of `groups` against a daemon with more environment, and fails unless each
/// is answered as recorded, or otherwise and decided.
///
/// `{port}` in a value of `extra_env` is filled in. No two exchanges have the same, so that each can have
/// a registry of its own in a store that they share.
fn vectors_pass(groups: &[&str], extra_env: &[(&str, &str)], decided: &BTreeMap<String, Decided>) {
    let folder = tempfile::tempdir().unwrap();
    let program = match std::env::var_os("REPMD_TEST_EPMD") {
        Some(path) => PathBuf::from(path),
        None => epmd_program(env!("CARGO_BIN_EXE_repmd"), folder.path()),
    };
    let setup = Setup { program: &program, host_ip: host_ip(), extra_env };
    let lacking = lacking(setup.host_ip);
    let mut vectors = recorded();
    vectors.retain(|vector| groups.contains(&group(&vector.id)));
    assert!(!vectors.is_empty(), "no exchange is in {groups:?}");
    let all = vectors.len();
    vectors.retain(|vector| {
        let here = !vector.needs.iter().any(|need| lacking.contains(need));
        if !here {
            println!("SKIP {}: this machine lacks {:?}", vector.id, vector.needs);
        }
        here
    });

    let failures = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(vector) = vectors.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let failure = match (caught(vector, setup), decided.get(&vector.id)) {
                        (Ok(()), None) => continue,
                        (Err(difference), Some(decided)) if difference.starts_with(&decided.at) => continue,
                        (Err(difference), _) => difference,
                        (Ok(()), Some(Decided { why, .. })) => format!("as recorded, but decided: {why}"),
                    };
                    failures.lock().unwrap().push(format!("{}: {failure}", vector.id));
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("{} played, {} failed, {} skipped", vectors.len(), failures.len(), all - vectors.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Plays, and turns a panic (a daemon that does not start) into a difference like others.
fn caught(vector: &Vector, setup: Setup<'_>) -> Result<(), String> {
    let played = std::thread::scope(|scope| {
        let name = format!("recorded exchange {}", vector.id);
        let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, || play(vector, setup));
        thread.unwrap().join()
    });
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

fn group(id: &str) -> &str {
    id.split('-').next().unwrap()
}

/// What repmd answers otherwise on purpose.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Decided {
    /// The step that differs, so that no other difference hides behind the decision.
    at: String,
    why: String,
}

/// The decisions by the ids of their exchanges.
#[derive(Debug, serde::Deserialize)]
struct Decisions {
    #[serde(flatten)]
    always: BTreeMap<String, Decided>,
    /// With a shared registry only.
    shared: BTreeMap<String, Decided>,
}

fn decided() -> Decisions {
    toml::from_str(include_str!("golden/decided.toml"))
        .expect("decided.toml has a step and a reason for each id")
}

fn lacking(host_ip: Option<Ipv4Addr>) -> Vec<Need> {
    let ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    [(Need::HostIp, host_ip.is_some()), (Need::Ipv6, ipv6)]
        .into_iter()
        .filter_map(|(need, there)| (!there).then_some(need))
        .collect()
}

/// This machine's own address towards others. Nothing is sent.
fn host_ip() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) if !address.ip().is_loopback() => Some(*address.ip()),
        _ => None,
    }
}
