//! What happens, followed as it happens.

use repmd_test_support::http::{EventStream, StreamEvent, get, request};
use repmd_test_support::{Peer, alive2, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::{SOON, json, register, serve};

const PATH: &str = "/api/v1/events";

fn told(event: &StreamEvent) -> (String, Value) {
    (event.kind.clone(), serde_json::from_str::<Value>(&event.data).unwrap()["node"].clone())
}

#[test]
fn nodes_that_come_and_go_and_are_refused_are_told_as_it_happens() {
    let (daemon, admin) = serve(&[]);
    let mut events = EventStream::open(admin, PATH, &[]);
    let node = register(daemon.port(), "rabbit");
    let registered = events.next_event().unwrap();
    assert_eq!(told(&registered), ("registered".to_owned(), "rabbit@here".into()));
    assert_eq!(serde_json::from_str::<Value>(&registered.data).unwrap()["port"], 1234);

    let mut second = Peer::connect(daemon.port());
    second.send(&alive2("rabbit", 4321)).unwrap();
    assert_eq!(second.read_to_end(SOON), [118, 1, 0, 0, 0, 99]);
    let refused = events.next_event().unwrap();
    assert_eq!(told(&refused), ("refused".to_owned(), "rabbit@here".into()));

    drop(node);
    let released = events.next_event().unwrap();
    assert_eq!(told(&released), ("released".to_owned(), "rabbit@here".into()));

    let numbers: Vec<u64> =
        [&registered, &refused, &released].map(|event| event.id.parse().unwrap()).to_vec();
    assert_eq!(numbers, [numbers[0], numbers[0] + 1, numbers[0] + 2]);

    // Who comes back goes on from the last event that it saw.
    let mut again = EventStream::open(admin, PATH, &[("Last-Event-ID", &registered.id)]);
    assert_eq!(again.next_event().as_ref(), Some(&refused));
    assert_eq!(again.next_event().as_ref(), Some(&released));
    let mut stranger = EventStream::open(admin, PATH, &[("Last-Event-ID", "7")]);
    assert_eq!(stranger.next_event().unwrap().kind, "missed");
    assert_eq!(stranger.next_event().as_ref(), Some(&registered));
    assert_eq!(get(admin, PATH, &[("Last-Event-ID", "x")]).status, 400);
}

#[test]
fn a_stream_ends_with_the_daemon_which_does_not_wait_for_it() {
    let (mut daemon, admin) = serve(&[]);
    let mut events = EventStream::open(admin, PATH, &[]);
    let started = std::time::Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(events.next_event(), None);
    assert_eq!(daemon.wait(SOON).code(), Some(0));
    assert!(started.elapsed().as_secs() < 3, "{:?}", started.elapsed());
}

#[test]
fn followers_are_bounded_and_others_still_get_answers() {
    let (daemon, admin) = serve(&[]);
    let mut followers: Vec<_> = (0..16).map(|_| EventStream::open(admin, PATH, &[])).collect();
    assert_eq!(get(admin, PATH, &[]).status, 503);
    assert_eq!(get(admin, "/livez", &[]).status, 200);
    let _node = register(daemon.port(), "rabbit");
    followers.iter_mut().for_each(|events| assert_eq!(events.next_event().unwrap().kind, "registered"));
    followers.pop();
    wait_until("a place is free", SOON, || {
        // The daemon notices that a follower has gone when it writes to it.
        drop(register(daemon.port(), "hare"));
        request("HEAD", admin, PATH, &[], "").status == 200
    });
}

/// How many events of a kind the last hour has, and of which nodes.
fn in_the_last_hour(admin: u16, kind: &str) -> (u64, Vec<String>) {
    let hour = json(admin, "/api/v1/history");
    let of = |minute: &Value, list: &str| -> Vec<Value> {
        let all = minute[list].as_array().unwrap().iter();
        all.filter(|one| one["event"] == kind).cloned().collect()
    };
    let minutes = hour["minutes"].as_array().unwrap().iter();
    minutes.fold((0, Vec::new()), |(count, mut nodes), minute| {
        let counts = of(minute, "counts").iter().map(|one| one["count"].as_u64().unwrap()).sum::<u64>();
        let events = of(minute, "events");
        assert!(events.iter().all(|event| minute["at"].as_str() <= event["at"].as_str()), "{minute}");
        nodes.extend(events.iter().map(|event| event["node"].as_str().unwrap().to_owned()));
        (count + counts, nodes)
    })
}

#[test]
fn the_last_hour_has_what_happened_by_minutes_for_whoever_comes_later() {
    let (daemon, admin) = serve(&[]);
    let begin = json(admin, "/api/v1/history");
    assert_eq!(begin["minutes"].as_array().unwrap().len(), 0);
    assert!(begin["since"].as_str() <= begin["now"].as_str());

    let node = register(daemon.port(), "rabbit");
    let mut second = Peer::connect(daemon.port());
    second.send(&alive2("rabbit", 4321)).unwrap();
    assert_eq!(second.read_to_end(SOON).len(), 6);
    drop(node);
    wait_until("all of it is noted", SOON, || in_the_last_hour(admin, "released").0 == 1);
    for kind in ["registered", "refused", "released"] {
        assert_eq!(in_the_last_hour(admin, kind), (1, vec!["rabbit@here".to_owned()]), "{kind}");
    }

    // More than the last events that are kept for followers: each is counted, and memory has its bound.
    let nodes = 1100;
    (0..nodes).for_each(|number| drop(register(daemon.port(), &format!("n{number}"))));
    wait_until("each is counted", SOON, || in_the_last_hour(admin, "released").0 == 1 + nodes);
    let (count, kept) = in_the_last_hour(admin, "registered");
    assert_eq!((count, &*kept[..2].join(" ")), (1 + nodes, "rabbit@here n0@here"));
    assert!(kept.len() < 40, "{kept:?}");
}
