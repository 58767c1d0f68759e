//! A daemon that answers by DNS, and resolvers that come to it or do not.

use crate::{Host, hosts};

const DNS: [&str; 4] = ["--dns", "127.0.0.1:53", "--advertise", "10.99.0.1"];

fn doctor(host: &Host, more: &[&str]) -> crate::host::Found {
    host.doctor(&[&DNS[..], more].concat())
}

#[test]
fn a_resolver_that_asks_the_daemon_alone_is_healthy() {
    let (mut host, _other) = hosts();
    host.ask_of("nameserver 127.0.0.1\nsearch repmd\n");
    let _daemon = host.serve(&DNS);
    doctor(&host, &[]).are(&[]);
}

#[test]
fn what_keeps_resolvers_from_the_daemon_is_named() {
    let (mut host, _other) = hosts();
    host.ask_of("nameserver 127.0.0.1\nsearch repmd\n");
    let daemon = host.serve(&["--advertise", "10.99.0.1"]);
    doctor(&host, &[]).is_only("dns-silent", "failure", &["127.0.0.1:53", "repmd."]);
    drop(daemon);
    let _daemon = host.serve(&DNS);
    host.ask_of("nameserver 127.0.0.1\nnameserver 10.99.0.2\nsearch repmd\n");
    doctor(&host, &[]).is_only("dns-second", "warning", &["10.99.0.2"]);
    host.ask_of("nameserver 127.0.0.1\n");
    doctor(&host, &[]).is_only("dns-search", "warning", &["repmd."]);
    host.ask_of("nameserver 127.0.0.9\nsearch repmd\n");
    doctor(&host, &[]).is_only("dns-unasked", "warning", &["hosta.repmd."]);
}

#[test]
fn a_node_whose_name_dns_cannot_have_is_told_so() {
    let (mut host, _other) = hosts();
    host.ask_of("nameserver 127.0.0.1\nsearch repmd\n");
    let _daemon = host.serve(&DNS);
    let _node = host.erlang(&["-sname", "MyApp@hosta"]);
    doctor(&host, &["MyApp@hosta"]).is_only("dns-nameless", "warning", &["MyApp", "upper-case"]);
}
