//! What is tried on OTP 25 alone.

use repmd_test_support::{ErlangNode, Peer, alive2, lookup_port};

use crate::{otp, output_of, start_daemon, stock_epmd, wait_for_node};

#[test]
fn a_hidden_node_is_found_as_any_other() {
    let daemon = start_daemon();
    let mut a = ErlangNode::start(&otp(25), "a", daemon.port());
    let mut hidden =
        ErlangNode::start_with(&otp(25), daemon.port(), &["-hidden", "-sname", "hidden@localhost"]);
    // The wire does not tell it from a normal one.
    let types = ["a", "hidden"].map(|name| lookup_port(daemon.port(), name).unwrap().node_type);
    assert_eq!(types[0], types[1]);
    assert_eq!(a.ping("hidden"), "pong");
    assert_eq!(a.eval("{nodes(), nodes(hidden)}"), "{[],[hidden@localhost]}");
    assert_eq!(hidden.ping("a"), "pong");
}

/// The race of upstream issue 11083: one start in thirty fails with the stock daemon.
#[test]
fn stopping_and_starting_the_distribution_300_times_never_meets_its_own_name() {
    let daemon = start_daemon();
    let mut node = ErlangNode::start_with(&otp(25), daemon.port(), &[]);
    let failed = node.eval(
        "lists:foldl(fun(Round, Failed) ->
            case net_kernel:start(['a@localhost', shortnames]) of
                {ok, _} -> ok = net_kernel:stop(), Failed;
                Error -> [{Round, Error} | Failed]
            end
        end, [], lists:seq(1, 300))",
    );
    assert_eq!(failed, "[]");
}

#[test]
fn names_outside_ascii_are_listed_and_found() {
    let daemon = start_daemon();
    let mut holder = Peer::connect(daemon.port());
    holder.send(&alive2("žluťoučký-☃", 4711)).unwrap();
    wait_for_node(&daemon, "žluťoučký-☃");

    let printed = output_of(&mut stock_epmd(&otp(25), daemon.port(), &["-names"]));
    assert!(printed.contains("name žluťoučký-☃ at port 4711\n"), "{printed}");
    let mut node = ErlangNode::start(&otp(25), "a", daemon.port());
    // A node takes a name for bytes, when it lists and when it asks.
    let bytes = "binary_to_list(<<\"žluťoučký-☃\"/utf8>>)";
    let asked = format!("erl_epmd:port_please({bytes}, {{127,0,0,1}})");
    assert_eq!(node.eval(&asked), "{port,4711,6}");
    let listed =
        format!("begin {{ok, Names}} = net_adm:names(localhost), lists:member({{{bytes}, 4711}}, Names) end");
    assert_eq!(node.eval(&listed), "true");
}

#[test]
fn a_node_of_the_ipv6_distribution_registers_over_ipv6() {
    let daemon = start_daemon();
    let flags = ["-proto_dist", "inet6_tcp", "-name"];
    let start = |name: &str| ErlangNode::start_with(&otp(25), daemon.port(), &[&flags[..], &[name]].concat());
    let (mut a, _b) = (start("a@::1"), start("b@::1"));
    assert_eq!(a.eval("net_adm:ping('b@::1')"), "pong");
}
