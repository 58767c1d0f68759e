//! What holds for vanilla nodes of each release.

use std::time::{Duration, Instant};

use repmd_test_support::{ErlangNode, lookup_port, names};
use rustix::process::Signal;

use crate::{otp, output_of, run, start_daemon, start_daemon_on, stock_epmd, wait_for_node};

macro_rules! on_release {
    ($module:ident, $otp:literal) => {
        mod $module {
            #[test]
            fn the_root_has_the_release_that_it_is_taken_for() {
                super::the_root_has_the_release_that_it_is_taken_for($otp);
            }

            #[test]
            fn two_nodes_ping_each_other() {
                super::two_nodes_ping_each_other($otp);
            }

            #[test]
            fn nodes_are_listed_by_net_adm_and_by_the_stock_client() {
                super::nodes_are_listed_by_net_adm_and_by_the_stock_client($otp);
            }

            #[test]
            fn a_restarted_node_has_another_creation_and_is_found() {
                super::a_restarted_node_has_another_creation_and_is_found($otp);
            }

            #[test]
            fn the_name_of_a_killed_node_is_gone_at_once() {
                super::the_name_of_a_killed_node_is_gone_at_once($otp);
            }

            #[test]
            fn a_second_node_of_a_name_does_not_start() {
                super::a_second_node_of_a_name_does_not_start($otp);
            }
        }
    };
}

on_release!(otp_23, 23);
on_release!(otp_25, 25);
on_release!(otp_27, 27);
on_release!(otp_29, 29);

fn the_root_has_the_release_that_it_is_taken_for(release: u32) {
    let daemon = start_daemon();
    let mut node = ErlangNode::start(&otp(release), "a", daemon.port());
    assert_eq!(node.eval("erlang:system_info(otp_release)"), format!("\"{release}\""));
}

fn two_nodes_ping_each_other(release: u32) {
    let daemon = start_daemon();
    let mut a = ErlangNode::start(&otp(release), "a", daemon.port());
    let mut b = ErlangNode::start(&otp(release), "b", daemon.port());
    assert_eq!(a.ping("b"), "pong");
    assert_eq!(b.ping("a"), "pong");
    assert_eq!(b.eval("nodes()"), "[a@localhost]");
    assert_eq!(a.ping("nobody"), "pang");
}

fn nodes_are_listed_by_net_adm_and_by_the_stock_client(release: u32) {
    let daemon = start_daemon();
    let mut a = ErlangNode::start(&otp(release), "a", daemon.port());
    let _b = ErlangNode::start(&otp(release), "b", daemon.port());
    let (port_a, port_b) = (wait_for_node(&daemon, "a"), wait_for_node(&daemon, "b"));

    let listed = a.eval("begin {ok, Names} = net_adm:names(localhost), lists:sort(Names) end");
    assert_eq!(listed, format!("[{{\"a\",{port_a}}},{{\"b\",{port_b}}}]"));
    let printed = output_of(&mut stock_epmd(&otp(release), daemon.port(), &["-names"]));
    let mut lines: Vec<&str> = printed.lines().collect();
    lines[1..].sort_unstable();
    let head = format!("epmd: up and running on port {} with data:", daemon.port());
    assert_eq!(lines, [head, format!("name a at port {port_a}"), format!("name b at port {port_b}")]);
}

fn a_restarted_node_has_another_creation_and_is_found(release: u32) {
    let daemon = start_daemon();
    let mut a = ErlangNode::start(&otp(release), "a", daemon.port());
    let mut b = ErlangNode::start(&otp(release), "b", daemon.port());
    assert_eq!(a.ping("b"), "pong");
    let first = b.eval("erlang:system_info(creation)");
    b.halt();
    let mut b = ErlangNode::start(&otp(release), "b", daemon.port());
    assert_ne!(b.eval("erlang:system_info(creation)"), first);
    assert_eq!(a.ping("b"), "pong");
}

fn the_name_of_a_killed_node_is_gone_at_once(release: u32) {
    let daemon = start_daemon();
    let node = ErlangNode::start(&otp(release), "a", daemon.port());
    wait_for_node(&daemon, "a");
    node.kill();
    let killed = Instant::now();
    while lookup_port(daemon.port(), "a").is_some() {
        assert!(killed.elapsed() < Duration::from_secs(1), "the name outlives its node");
    }
    // And it is free.
    let _next = ErlangNode::start(&otp(release), "a", daemon.port());
}

fn a_second_node_of_a_name_does_not_start(release: u32) {
    let daemon = start_daemon();
    let mut a = ErlangNode::start(&otp(release), "a", daemon.port());
    let root = otp(release);
    let home = root.scratch();
    let mut second = root.command("erl");
    second.env("HOME", home.inside()).env("ERL_EPMD_PORT", daemon.port().to_string());
    second.args(["-start_epmd", "false", "-noshell", "-setcookie", "x", "-sname", "a@localhost"]);
    let output = run(second.args(["-eval", "halt()."]));
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(text.contains("seems to be in use by another Erlang node"), "{text}");
    // Its holder is undisturbed.
    assert_eq!(names(daemon.port()), [("a".to_owned(), wait_for_node(&daemon, "a"))]);
    assert_eq!(a.eval("node()"), "a@localhost");
}

/// OTP 26 and later do not talk to nodes as old as 23, but may ask for them all the same.
#[test]
fn nodes_of_every_release_share_one_registry() {
    let daemon = start_daemon();
    let releases = [23, 25, 27, 29];
    let mut nodes = releases.map(|release| {
        // Else nodes part again from those that a third one cannot reach.
        let flags = ["-connect_all", "false", "-sname", &format!("n{release}@localhost")];
        (release, ErlangNode::start_with(&otp(release), daemon.port(), &flags))
    });
    for (release, node) in &mut nodes {
        for other in releases.into_iter().filter(|other| other != release) {
            let name = format!("n{other}");
            let port = wait_for_node(&daemon, &name);
            let asked = node.eval(&format!("element(2, erl_epmd:port_please(\"{name}\", {{127,0,0,1}}))"));
            assert_eq!(asked, port.to_string(), "n{release} asks for {name}");
            let talk = other.min(*release) != 23 || other.max(*release) <= 25;
            assert_eq!(node.ping(&name), if talk { "pong" } else { "pang" }, "n{release} pings {name}");
        }
    }
    assert_eq!(names(daemon.port()).len(), releases.len());
}

/// A node that has lost its daemon tries again every 2 s, but not one of OTP 23.2 and before.
#[test]
fn when_the_daemon_comes_back_nodes_register_again_but_those_of_23_2_never_do() {
    let mut daemon = start_daemon();
    let nodes = [23, 25, 27, 29].map(|release| {
        let name = format!("n{release}");
        let mut node = ErlangNode::start(&otp(release), &name, daemon.port());
        let creation = node.eval("erlang:system_info(creation)");
        (node, creation, wait_for_node(&daemon, &name))
    });
    // Twice, so that a node that is slower than the others would show too.
    for _ in 0..2 {
        daemon.signal(Signal::KILL);
        daemon.wait(Duration::from_secs(5));
        let ended = Instant::now();
        daemon = start_daemon_on(daemon.port());
        for name in ["n25", "n27", "n29"] {
            wait_for_node(&daemon, name);
        }
        assert!(ended.elapsed() < Duration::from_secs(4), "back after {:?}", ended.elapsed());
        assert_eq!(lookup_port(daemon.port(), "n23"), None);
    }
    let [mut n23, mut n25, ..] = nodes;
    assert_eq!(wait_for_node(&daemon, "n25"), n25.2, "at its old port");
    assert_eq!(n25.0.eval("erlang:system_info(creation)"), n25.1, "with its old creation");
    // The one that is not listed can still reach the others, and they know it from then on.
    assert_eq!(n25.0.ping("n23"), "pang");
    assert_eq!(n23.0.ping("n25"), "pong");
    assert_eq!(n25.0.ping("n23"), "pong");
}
