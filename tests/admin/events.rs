//! What happens, followed as it happens.

use repmd_test_support::http::{EventStream, StreamEvent, get, request};
use repmd_test_support::{Peer, alive2, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::{SOON, register, serve};

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
