//! Nodes under a daemon whose program is replaced.

use std::process::Command;

use repmd_test_support::{Daemon, ErlangNode, free_port};
use tempfile::TempDir;

use super::{REPMD, otp, output_of, wait_for_node};

/// What the audit log says of registrations: a node that had noticed would have registered again.
fn registrations(audit_log: &std::path::Path) -> usize {
    std::fs::read_to_string(audit_log).unwrap().matches("\"registered\"").count()
}

#[test]
fn nodes_of_two_releases_stay_registered_and_connect_to_those_that_come_later() {
    let folder = TempDir::new().unwrap();
    let (port, audit_log) = (free_port(), folder.path().join("audit.log"));
    let mut command = Command::new(REPMD);
    command.args(["serve", "--log", "warn", "--port", &port.to_string(), "--admin", "off", "--audit-log"]);
    command.arg(&audit_log);
    let daemon = Daemon::spawn(command, port);
    let (old, new) = (otp(25), otp(27));
    let nodes = [("old", &old), ("new", &new)].map(|(name, root)| ErlangNode::start(root, name, port));
    let ports = ["old", "new"].map(|name| wait_for_node(&daemon, name));
    let pid = daemon.pid().as_raw_nonzero().to_string();
    for _ in 0..3 {
        let said = output_of(Command::new(REPMD).args(["upgrade", "--pid", &pid]));
        assert!(said.contains("2 nodes kept, 0 lost"), "{said}");
    }
    let mut late = ErlangNode::start(&new, "late", port);
    assert_eq!(["old", "new"].map(|name| late.ping(name)), ["pong", "pong"]);
    assert_eq!(["old", "new"].map(|name| wait_for_node(&daemon, name)), ports);
    assert_eq!(registrations(&audit_log), 3);
    nodes.into_iter().for_each(ErlangNode::halt);
    late.halt();
}
