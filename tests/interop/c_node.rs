//! Nodes and clients that use `ei`, Erlang's C library.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use repmd_backend_api::NodeType;
use repmd_test_support::{COOKIE, Daemon, ErlangNode, Root, lookup_port, wait_until};

use crate::{SOON, otp, output_of, start_daemon, wait_for_node};

/// Compiles the C node with the `ei` of a release.
fn compile(root: &Root, folder: &Path) -> PathBuf {
    let program = folder.join("c_node");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/c_node.c");
    let mut command = Command::new("cc");
    command.args(["-Wall", "-Werror", "-pthread", "-I"]).arg(root.path().join("usr/include"));
    command.arg("-o").arg(&program).arg(source);
    output_of(command.arg(root.path().join("usr/lib/libei.a")));
    program
}

/// Killed on drop.
struct CNode(Child);

impl CNode {
    fn start(program: &Path, name: &str, daemon: &Daemon) -> Self {
        let mut command = Command::new(program);
        command.args([name, COOKIE]).env("ERL_EPMD_PORT", daemon.port().to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a compiled program starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("standard output is a pipe");
        BufReader::new(output).read_line(&mut line).expect("the program writes text");
        let node = Self(child);
        assert_eq!(line, "registered\n");
        node
    }
}

impl Drop for CNode {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_c_node_registers_is_found_and_its_name_goes_with_it() {
    let daemon = start_daemon();
    let folder = tempfile::tempdir().unwrap();
    let mut c_node = CNode::start(&compile(&otp(25), folder.path()), "c1", &daemon);
    let registered = lookup_port(daemon.port(), "c1").expect("a C node is registered when ei says so");
    assert_ne!(NodeType(registered.node_type), NodeType::NORMAL);
    assert_eq!((registered.highest_version, registered.lowest_version), (6, 6));

    let mut node = ErlangNode::start(&otp(25), "a", daemon.port());
    let ask =
        "begin {any, c1@localhost} ! {self(), hello}, receive Answer -> Answer after 10000 -> none end end";
    assert_eq!(node.eval(ask), "answered");
    assert_eq!(node.eval("nodes(hidden)"), "[c1@localhost]");
    // `ei` has read four bytes of a reply of six, so its end is a reset.
    assert_eq!(node.eval("erlang:disconnect_node(c1@localhost)"), "true");
    wait_until("the C node ends", SOON, || c_node.0.try_wait().unwrap().is_some());
    wait_until("its name is gone", SOON, || lookup_port(daemon.port(), "c1").is_none());
}

#[test]
fn erl_call_finds_a_node_and_starts_one() {
    let daemon = start_daemon();
    let root = otp(25);
    let _node = ErlangNode::start(&root, "a", daemon.port());
    // Not contained, what it starts in the background would outlive the test.
    let home = root.scratch();
    let erl_call = |flags: &str| {
        let mut command = root.contained_command("sh", &[]);
        command.env("HOME", home.inside()).env("ERL_EPMD_PORT", daemon.port().to_string());
        command.args(["-c", &format!("erl_call -c {COOKIE} {flags}")]);
        output_of(&mut command)
    };
    assert_eq!(erl_call("-n a@localhost -a 'erlang node'"), "a@localhost");

    // It starts a node, which starts the stock daemon, which finds the port in use.
    let started = "-s -sname b -a 'erlang node'";
    let found = "-sname b -a 'net_adm ping [a@localhost]'";
    assert_eq!(erl_call(&format!("{started} && erl_call -c {COOKIE} {found}")), "b@localhostpong");
    wait_until("the node has ended", SOON, || lookup_port(daemon.port(), "b").is_none());
    wait_for_node(&daemon, "a");
}
