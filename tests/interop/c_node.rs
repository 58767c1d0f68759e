//! Nodes and clients that use `ei`, Erlang's C library.

use std::net::Ipv4Addr;

use repmd_backend_api::NodeType;
use repmd_test_support::{CNode, COOKIE, CProgram, ErlangNode, lookup_port, wait_until};

use crate::{SOON, otp, output_of, start_daemon, wait_for_node};

#[test]
fn a_c_node_registers_is_found_and_its_name_goes_with_it() {
    let daemon = start_daemon();
    let (program, address) = (CProgram::compile(&otp(25)), Ipv4Addr::LOCALHOST.into());
    let mut c_node = CNode::start(&program, ["c1", "localhost"], address, daemon.port(), None);
    let registered = lookup_port(daemon.port(), "c1").expect("a C node is registered when ei says so");
    assert_eq!(NodeType(registered.node_type), NodeType::C);
    assert_eq!((registered.highest_version, registered.lowest_version), (6, 6));

    let mut node = ErlangNode::start(&otp(25), "a", daemon.port());
    let ask =
        "begin {any, c1@localhost} ! {self(), hello}, receive Answer -> Answer after 10000 -> none end end";
    assert_eq!(node.eval(ask), "answered");
    assert_eq!(node.eval("nodes(hidden)"), "[c1@localhost]");
    // `ei` has read four bytes of a reply of six, so its end is a reset.
    assert_eq!(node.eval("erlang:disconnect_node(c1@localhost)"), "true");
    wait_until("the C node ends", SOON, || c_node.has_ended());
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
