//! Elixir's own way of starting nodes.

use repmd_test_support::{ErlangNode, Root, names};

use crate::start_daemon;

#[test]
fn two_nodes_of_elixir_1_14_connect() {
    two_nodes_connect("bookworm", "1.14.");
}

#[test]
fn two_nodes_of_elixir_1_18_connect() {
    two_nodes_connect("trixie", "1.18.");
}

fn two_nodes_connect(release: &str, version: &str) {
    let daemon = start_daemon();
    let root = Root::of(release);
    let mut a = ErlangNode::start_elixir(&root, "a", daemon.port());
    let _b = ErlangNode::start_elixir(&root, "b", daemon.port());
    assert!(a.eval("System.version()").starts_with(&format!("\"{version}")));
    assert_eq!(a.eval("Node.connect(:b@localhost)"), "true");
    assert_eq!(a.eval("Node.list()"), "[:b@localhost]");
    let listed: Vec<String> = names(daemon.port()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, ["b", "a"]);
}
