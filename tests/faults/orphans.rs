//! Nodes that do not come back by themselves when their daemon does.

use std::net::TcpListener;
use std::time::Instant;

use repmd_test_support::{names, wait_until};

use crate::stage::Stage;
use crate::{INTERVAL, SOON, TTL};

#[test]
fn a_node_that_does_not_come_back_is_answered_for_while_its_port_listens() {
    let stage = Stage::redis();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orphans");
    let remembers = |name: &str| std::fs::read_to_string(&file).is_ok_and(|text| text.contains(name));
    let plan = stage.plan("a").set("orphans-file", &file.display().to_string());
    let (mut daemon, other) = (plan.start(), stage.host("b"));
    let [first, second] = [0; 2].map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let [port, other_port] = [&first, &second].map(|at| at.local_addr().unwrap().port());
    let nodes = (daemon.register("old", port), daemon.register("left", 1));
    wait_until("they are remembered", SOON, || remembers("old") && remembers("left"));
    daemon.kill();
    drop(nodes);
    for _ in 0..2 {
        daemon = plan.start();
        wait_until("the daemon answers for it", SOON, || daemon.find("old") == Some(port));
        assert_eq!(daemon.find("old@a"), Some(port));
        // Until then others are answered by the lease of before.
        wait_until("it is adopted", SOON, || daemon.logged(&["has not come back"]) == 1);
        // For longer than any lease of before.
        let until = Instant::now() + TTL + INTERVAL;
        wait_until("others find it", SOON, || other.find("old@a") == Some(port));
        while Instant::now() < until {
            assert_eq!((daemon.find("old"), other.find("old@a")), (Some(port), Some(port)));
        }
        assert_eq!(daemon.find("left"), None, "nothing listens there");
        assert_eq!(names(daemon.port()), [], "a node that finds its name in a list does not boot");
        assert!(remembers("old"));
        daemon.kill();
    }
    daemon = plan.start();
    wait_until("the daemon answers for it", SOON, || daemon.find("old") == Some(port));
    // A new life takes the name, and ends with its connection.
    let node = daemon.register("old", other_port);
    wait_until("others find the new one", SOON, || other.find("old@a") == Some(other_port));
    let until = Instant::now() + INTERVAL * 2;
    while Instant::now() < until {
        assert_eq!((daemon.find("old"), other.find("old@a")), (Some(other_port), Some(other_port)));
    }
    assert_eq!(names(daemon.port()), [("old".to_owned(), other_port)]);
    drop(node);
    wait_until("it is gone", SOON, || daemon.find("old").is_none() && other.find("old@a").is_none());
    assert_eq!(daemon.logged(&["conflict"]), 0, "{}", daemon.log());
    // And one that is answered for ends with its port.
    drop(daemon.register("again", other_port));
    let node = daemon.register("again", other_port);
    wait_until("it is remembered", SOON, || remembers("again"));
    daemon.kill();
    drop(node);
    daemon = plan.start();
    wait_until("it is answered for", SOON, || daemon.logged(&["has not come back"]) == 1);
    assert_eq!(other.find("again@a"), Some(other_port));
    drop(second);
    wait_until("it is gone everywhere", SOON, || {
        daemon.find("again").is_none() && other.find("again@a").is_none()
    });
    assert_eq!(daemon.logged(&["no longer answered for"]), 1, "{}", daemon.log());
}

#[test]
fn a_file_of_orphans_that_cannot_be_read_is_told_of_and_written_anew() {
    let stage = Stage::redis();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orphans");
    for text in
        ["", "{}", "\u{0}", r#"{"format":2,"host":"a","nodes":[]}"#, r#"{"format":1,"host":"b","nodes":[]}"#]
    {
        std::fs::write(&file, text).unwrap();
        let daemon = stage.plan("a").set("orphans-file", &file.display().to_string()).start();
        let _node = daemon.register("n", 1);
        wait_until("it is told", SOON, || daemon.logged(&["cannot read the nodes of before"]) == 1);
        let is_new = || std::fs::read_to_string(&file).is_ok_and(|text| text.contains("\"name\":\"n\""));
        wait_until("it is written", SOON, is_new);
    }
}
