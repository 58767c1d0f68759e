//! Other ways for the bytes of nodes: IPv6, both families, TLS.

use std::process::{Command, Stdio};

use repmd_test_support::{Root, Scratch};

use crate::lab::{Epmd, Families, Lab, NO_DNS, dns};
use crate::{Module, RELEASE, ping};

const IPV6: [&str; 2] = ["-proto_dist", "inet6_tcp"];

#[test]
fn machines_that_have_ipv6_alone_share_a_registry_and_their_nodes_reach_each_other() {
    let (_lab, [a, b]) = Lab::with(Families::IPv6);
    let _daemons = [a.serve(Epmd::Repmd, &[]), b.serve(Epmd::Repmd, &[])];
    let (module, dns) = (Module::compile(), dns(&[&a, &b]));
    let _foo = a.node("foo@a", NO_DNS, &IPV6);
    let mut with_module = b.node("module@b", NO_DNS, &[&IPV6[..], &module.flags()].concat());
    let mut with_dns = b.node("dns@b", &dns, &IPV6);
    assert_eq!(ping(&mut with_module, "foo@a"), "pong");
    assert_eq!(ping(&mut with_dns, "foo@a"), "pong");
}

#[test]
fn on_machines_of_both_families_nodes_of_each_reach_their_like() {
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [a.serve(Epmd::Repmd, &[]), b.serve(Epmd::Repmd, &[])];
    let module = Module::compile();
    let _of_a = [a.node("four@a", NO_DNS, &[]), a.node("six@a", NO_DNS, &IPV6)];
    let mut four = b.node("four@b", NO_DNS, &module.flags());
    let mut six = b.node("six@b", NO_DNS, &[&IPV6[..], &module.flags()].concat());
    assert_eq!(ping(&mut four, "four@a"), "pong");
    assert_eq!(ping(&mut six, "six@a"), "pong");
}

/// A certificate for each host, of an authority that all trust, and the options for nodes.
fn certificates(root: &Root, hosts: &[&str]) -> Scratch {
    let folder = root.scratch();
    let make = |arguments: &str| {
        let mut openssl = Command::new("openssl");
        openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '));
        openssl.args(arguments.split(' ')).current_dir(folder.path()).stderr(Stdio::null());
        assert!(openssl.status().unwrap().success(), "{openssl:?}");
    };
    make("-subj /CN=lab -keyout ca.key -out ca.pem");
    let inside = folder.inside().display();
    for host in hosts {
        make(&format!(
            "-subj /CN={host} -addext subjectAltName=DNS:{host} -CA ca.pem -CAkey ca.key -keyout {host}.key -out {host}.pem"
        ));
        let own = format!("{{certfile, \"{inside}/{host}.pem\"}}, {{keyfile, \"{inside}/{host}.key\"}}");
        let trust = format!("{{cacertfile, \"{inside}/ca.pem\"}}, {{verify, verify_peer}}");
        let options = format!(
            "[{{server, [{own}, {trust}, {{fail_if_no_peer_cert, true}}]}}, {{client, [{own}, {trust}]}}]."
        );
        std::fs::write(folder.path().join(host), options).unwrap();
    }
    folder
}

/// Each checks the other's certificate, and the dialler that it is of the host that it dials.
#[test]
fn nodes_that_talk_by_tls_reach_each_other_without_dns() {
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [a.serve(Epmd::Repmd, &[]), b.serve(Epmd::Repmd, &[])];
    let module = Module::compile();
    let folder = certificates(&Root::of(RELEASE), &["a", "b"]);
    let options = ["a", "b"].map(|host| folder.inside().join(host).display().to_string());
    let tls = options.each_ref().map(|options| ["-proto_dist", "inet_tls", "-ssl_dist_optfile", options]);
    let _foo = a.node("foo@a", NO_DNS, &tls[0]);
    let mut bar = b.node("bar@b", NO_DNS, &[&tls[1][..], &module.flags()].concat());
    let mut plain = b.node("plain@b", NO_DNS, &module.flags());
    assert_eq!(ping(&mut bar, "foo@a"), "pong");
    assert_eq!(ping(&mut plain, "foo@a"), "pang", "the other does not insist on TLS");
}
