//! The hosts file for nodes without DNS, as hosts and the store come and go.

use std::fs::read_to_string;
use std::path::Path;
use std::time::{Duration, Instant};

use repmd_test_support::wait_until;
use tempfile::TempDir;

use crate::stage::{Plan, Stage};
use crate::{INTERVAL, SLACK, SOON, TTL};

fn plan(stage: &Stage, file: &Path) -> Plan {
    plan_at(stage, "a", "10.0.0.1").set("hosts-file", file.to_str().unwrap())
}

fn plan_at(stage: &Stage, host: &str, address: &str) -> Plan {
    // Without one it is the name of this machine, which all of them have.
    stage.plan(host).set("advertise", address).set("alias", &format!("{host}.example"))
}

/// The lines below the heading.
fn lines(file: &Path) -> Vec<String> {
    read_to_string(file).unwrap_or_default().lines().skip(1).map(str::to_owned).collect()
}

fn wait_for_lines(file: &Path, expected: &[&str]) -> Duration {
    let started = Instant::now();
    wait_until(&format!("the file says {expected:?}"), SOON, || lines(file) == expected);
    started.elapsed()
}

#[test]
fn the_hosts_file_has_a_new_host_at_once_and_one_that_stopped_until_a_lease_is_over() {
    let (stage, folder) = (Stage::redis(), TempDir::new().unwrap());
    let file = folder.path().join("hosts");
    let _a = plan(&stage, &file).start();
    wait_for_lines(&file, &["10.0.0.1 a a.example"]);

    let b = plan_at(&stage, "b", "10.0.0.2").start();
    let node = b.register("n", 1);
    // A node looks into the file each 5 s, and is to dial within 6.
    let took = wait_for_lines(&file, &["10.0.0.1 a a.example", "10.0.0.2 b b.example"]);
    assert!(took < INTERVAL + SLACK, "{took:?}");

    drop(node);
    let stopped = Instant::now();
    b.stop();
    // It was last seen an interval before at most, and what a busy machine adds.
    while stopped.elapsed() < TTL - INTERVAL - SLACK {
        assert_eq!(
            lines(&file),
            ["10.0.0.1 a a.example", "10.0.0.2 b b.example"],
            "after {:?}",
            stopped.elapsed()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    wait_for_lines(&file, &["10.0.0.1 a a.example"]);
    assert!(stopped.elapsed() < TTL + INTERVAL + SLACK, "{:?}", stopped.elapsed());
}

#[test]
fn the_hosts_file_stays_as_it_is_while_the_store_is_away() {
    let (mut stage, folder) = (Stage::redis(), TempDir::new().unwrap());
    let (file, other_file) = (folder.path().join("hosts"), folder.path().join("other"));
    let a = plan(&stage, &file).start();
    let _b = plan_at(&stage, "b", "10.0.0.2").start();
    let both = ["10.0.0.1 a a.example", "10.0.0.2 b b.example"];
    wait_for_lines(&file, &both);

    stage.store.kill();
    a.wait_until_degraded("the registry is away");
    std::thread::sleep(TTL + INTERVAL);
    assert_eq!(lines(&file), both, "beyond all leases");
    let next = plan(&stage, &file).start();
    next.wait_until_degraded("the registry is away");
    assert_eq!(lines(&file), both, "after a restart");
    next.stop();
    // Where there was no file, it has what the daemon knows by itself.
    let _other = plan(&stage, &other_file).start();
    wait_for_lines(&other_file, &both[..1]);

    let back = Instant::now();
    stage.store.restart_empty();
    while back.elapsed() < INTERVAL + SLACK {
        assert_eq!(lines(&file), both, "with a store that does not know all daemons yet");
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_for_lines(&other_file, &both);
}
