//! Where nothing is wrong, nothing is found.

use repmd_test_support::{Daemon, ErlangNode, Root, wait_until};

use crate::{PORT, Pair, SOON};

#[test]
fn two_hosts_that_share_a_registry_are_healthy() {
    let pair = Pair::start(&[]);
    let _nodes = [
        pair.a.erlang(&["-sname", "own@hosta"]),
        pair.b.erlang(&["-sname", "foo@hostb"]),
        pair.b.erlang(&["-sname", "bar@hostb", "-hidden"]),
        pair.b.erlang(&["-name", "long@hostb.example"]),
    ];
    pair.examine("own@hosta").are(&[]);
    pair.b.doctor(&["--backend", &pair.url(), "own@hosta"]).are(&[]);
    pair.examine("foo@hostb").are(&[]);
    pair.examine("bar@hostb").are(&[]);
    pair.examine("long@hostb.example").are(&[]);
}

/// The handshake is theirs, and what they demand of others differs.
#[test]
fn nodes_of_every_release_are_met() {
    let (host, _other) = crate::hosts();
    let _daemon = host.serve(&[]);
    for release in ["bullseye", "bookworm", "trixie", "sid"] {
        let name = format!("{release}@hosta");
        let start = || ErlangNode::start_with(&Root::of(release), PORT, &["-sname", &name]);
        let _node = host.inside(start);
        host.doctor(&[&name]).are(&[]);
    }
}

#[test]
fn a_host_of_its_own_is_healthy_also_with_the_stock_command_line() {
    let (host, _other) = crate::hosts();
    let mut command = host.repmd("epmd");
    command.stderr(std::process::Stdio::null());
    let _daemon = host.inside(|| Daemon::spawn(command, PORT));
    let _node = host.erlang(&["-sname", "foo@hosta"]);
    host.doctor(&[]).are(&[]);
    host.doctor(&["foo@hosta"]).are(&[]);
    // By the wire alone, and though these settings do not say which host it serves.
    host.doctor_apart(&["foo@hosta"]).are(&[]);
    host.doctor_apart(&["--host", "somewhere"]).are(&[]);
    host.doctor(&["foo@localhost"]).is_only("name-differs", "failure", &["foo@hosta"]);
}

#[test]
fn debian_s_line_for_the_machine_itself_is_no_fault() {
    let (mut host, _other) = crate::hosts();
    host.know("127.0.0.1 localhost\n127.0.1.1 hosta.example hosta\n");
    let _daemon = host.serve(&[]);
    let _node = host.erlang(&["-sname", "foo@hosta"]);
    host.doctor(&["foo@hosta"]).are(&[]);
}

/// The node that was asked goes on as if nothing had been.
#[test]
fn a_node_that_was_asked_is_not_disturbed() {
    let pair = Pair::start(&[]);
    let mut node = pair.b.erlang(&["-sname", "foo@hostb"]);
    for _ in 0..3 {
        pair.examine("foo@hostb").are(&[]);
    }
    // The handshakes that were broken off are over, and have left one name behind.
    wait_until("no connection is pending", SOON, || node.eval("net_kernel:nodes_info()") == "{ok,[]}");
    assert_eq!(node.eval("nodes(known) -- [node(), nonode@nohost]"), "['repmd-doctor@localhost']");
    let mut friend = pair.a.erlang(&["-sname", "friend@hosta"]);
    // Its root file system has an /etc/hosts of its own.
    friend.eval("inet_db:set_lookup([file]), inet_db:add_host({10,99,0,2}, [\"hostb\"])");
    assert_eq!(friend.eval("net_kernel:connect_node(foo@hostb)"), "true");
}
