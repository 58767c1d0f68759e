//! Nodes that register once in their life: OTP before 23.3, and those of `ei`.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use repmd_test_support::{CNode, CProgram, Daemon, ErlangNode, free_port, lookup_port, wait_until};
use rustix::process::Signal;

use crate::{REPMD, SOON, otp};

fn start(port: u16, file: &Path) -> Daemon {
    let mut command = Command::new(REPMD);
    command.args(["serve", "--log", "warn", "--admin", "off", "--port", &port.to_string()]);
    Daemon::spawn(
        {
            command.arg("--orphans-file").arg(file);
            command
        },
        port,
    )
}

#[test]
fn nodes_that_register_once_are_found_after_a_restart_of_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let (port, file) = (free_port(), folder.path().join("orphans"));
    let mut daemon = start(port, &file);
    let mut old = ErlangNode::start(&otp(23), "old", port);
    let program = CProgram::compile(&otp(25));
    let mut c_node = CNode::start(&program, ["c1", "localhost"], Ipv4Addr::LOCALHOST.into(), port, None);
    let remembers = |name: &str| std::fs::read_to_string(&file).is_ok_and(|text| text.contains(name));
    wait_until("both are remembered", SOON, || remembers("\"old\"") && remembers("\"c1\""));
    for signal in [Signal::KILL, Signal::TERM] {
        daemon.signal(signal);
        daemon.wait(SOON);
        daemon = start(port, &file);
        for name in ["old", "c1"] {
            wait_until(&format!("{name} is found"), SOON, || lookup_port(port, name).is_some());
        }
    }
    let mut new = ErlangNode::start(&otp(25), "new", port);
    assert_eq!(new.ping("old"), "pong");
    // It waits for its first connection, and ends if that is none: nobody has looked by one whether it is there.
    let ask =
        "begin {any, c1@localhost} ! {self(), hello}, receive Answer -> Answer after 10000 -> none end end";
    assert_eq!(new.eval(ask), "answered");
    assert_eq!(new.eval("erlang:disconnect_node(c1@localhost)"), "true");
    wait_until("the C node ends", SOON, || c_node.has_ended());
    wait_until("nobody answers for it any longer", SOON, || lookup_port(port, "c1").is_none());
    assert_eq!(old.eval("node()"), "old@localhost");
}
