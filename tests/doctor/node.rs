//! Faults on the way to a node of another host.

use std::io::Write;
use std::net::TcpListener;
use std::process::Command;

use repmd_test_support::{Root, run};
use rustix::process::Signal;

use crate::{Pair, RELEASE, hosts};

/// Drops what comes to a port of the host that this is called in.
fn filter(port: &str) {
    run("iptables", &["-A", "INPUT", "-p", "tcp", "--dport", port, "-j", "DROP"]);
}

#[test]
fn the_host_has_no_address() {
    let mut pair = Pair::start(&[]);
    pair.a.know("127.0.0.1 localhost\n10.99.0.1 hosta\n");
    pair.examine("foo@hostb").is_only("host-unresolvable", "failure", &["hostb", "10.99.0.2"]);
}

#[test]
fn the_host_is_loopback_here() {
    let mut pair = Pair::start(&[]);
    pair.a.know("127.0.0.1 localhost\n10.99.0.1 hosta\n127.0.1.1 hostb\n");
    pair.examine("foo@hostb").is_only("host-is-loopback", "failure", &["hostb", "127.0.1.1"]);
}

#[test]
fn the_host_is_another_machine_here() {
    let mut pair = Pair::start(&[]);
    let _node = pair.b.erlang(&["-sname", "foo@hostb"]);
    pair.a.know("127.0.0.1 localhost\n10.99.0.1 hosta hostb\n");
    let words = ["hostb is 10.99.0.1", "10.99.0.2"];
    pair.examine("foo@hostb").is_only("host-elsewhere", "failure", &words);
    // Where nobody is, too.
    pair.a.know("127.0.0.1 localhost\n10.99.0.1 hosta\n10.99.0.77 hostb\n");
    let words = ["hostb is 10.99.0.77", "10.99.0.2"];
    pair.examine("foo@hostb").is_only("host-elsewhere", "failure", &words);
}

#[test]
fn there_is_no_way_to_the_host() {
    let mut pair = Pair::start(&[]);
    pair.a.know("127.0.0.1 localhost\n10.99.0.1 hosta\n10.200.0.1 far\n");
    pair.examine("foo@far").is_only("host-unreachable", "failure", &["10.200.0.1"]);
}

#[test]
fn the_host_has_no_epmd() {
    let pair = Pair::with_one();
    pair.examine("foo@hostb").is_only("epmd-absent", "failure", &["10.99.0.2:4369"]);
}

#[test]
fn the_epmd_of_the_host_is_behind_a_firewall() {
    let pair = Pair::start(&[]);
    let _node = pair.b.erlang(&["-sname", "foo@hostb"]);
    pair.b.inside(|| filter("4369"));
    pair.examine("foo@hostb").is_only("epmd-filtered", "failure", &["10.99.0.2:4369"]);
}

#[test]
fn the_epmd_of_the_host_does_not_answer_this_machine() {
    let pair = Pair::start(&["--allow-lookups-from", "10.200.0.0/24"]);
    pair.examine("foo@hostb").is_only("epmd-foreign", "failure", &["10.99.0.2:4369"]);
}

#[test]
fn the_node_is_not_registered() {
    let pair = Pair::start(&[]);
    pair.examine("foo@hostb").is_only("name-unknown", "failure", &["foo", "10.99.0.2:4369"]);
}

#[test]
fn the_node_is_on_another_host() {
    let pair = Pair::start(&["--lookup", "host"]);
    let _node = pair.a.erlang(&["-sname", "foo@hosta"]);
    pair.examine("foo@hostb").is_only("name-elsewhere", "failure", &["foo@hosta"]);
}

#[test]
fn the_daemon_of_the_host_answers_for_another_host_s_node() {
    let pair = Pair::start(&[]);
    let _node = pair.a.erlang(&["-sname", "foo@hosta"]);
    pair.examine("foo@hostb").is_only("name-elsewhere", "failure", &["hosta"]);
}

#[test]
fn the_registry_knows_what_the_epmd_of_the_host_does_not() {
    let mut pair = Pair::start(&["--lease-ttl", "10m"]);
    let node = pair.b.register("foo", 7000);
    let daemon = pair.daemons.pop().unwrap();
    daemon.signal(Signal::KILL);
    drop((daemon, node));
    let _stock = pair.b.stock_epmd();
    pair.examine("foo@hostb").is_only("registry-disagrees", "failure", &["held by the daemon hostb"]);
}

#[test]
fn the_host_is_of_another_cluster() {
    let pair = Pair::start(&["--cluster", "other"]);
    let _node = pair.b.erlang(&["-sname", "foo@hostb"]);
    pair.examine("foo@hostb").is_only("host-not-shared", "warning", &["hostb"]);
}

#[test]
fn the_host_has_a_stock_epmd() {
    let pair = Pair::with_one();
    let _stock = pair.b.stock_epmd();
    let _node = pair.b.erlang(&["-sname", "foo@hostb"]);
    pair.examine("foo@hostb").is_only("host-not-shared", "warning", &["hostb"]);
}

#[test]
fn the_node_listens_on_loopback_alone() {
    let pair = Pair::start(&[]);
    let flags = ["-sname", "foo@hostb", "-kernel", "inet_dist_use_interface", "{127,0,0,1}"];
    let _node = pair.b.erlang(&flags);
    pair.examine("foo@hostb").is_only("dist-refused", "failure", &["10.99.0.2:"]);
}

#[test]
fn the_node_is_behind_a_firewall() {
    let pair = Pair::start(&[]);
    let range = ["-kernel", "inet_dist_listen_min", "9100", "inet_dist_listen_max", "9100"];
    let _node = pair.b.erlang(&[&["-sname", "foo@hostb"][..], &range].concat());
    pair.b.inside(|| filter("9100"));
    pair.examine("foo@hostb").is_only("dist-filtered", "failure", &["10.99.0.2:9100"]);
}

#[test]
fn the_node_has_another_host_part() {
    let pair = Pair::start(&[]);
    let _node = pair.b.erlang(&["-sname", "foo@localhost"]);
    pair.examine("foo@hostb").is_only("name-differs", "failure", &["foo@localhost", "foo@hostb"]);
}

#[test]
fn the_node_has_a_long_name_and_a_short_one_is_asked_for() {
    let pair = Pair::start(&[]);
    let _node = pair.b.erlang(&["-name", "foo@hostb.example"]);
    pair.examine("foo@hostb").is_only("name-form", "failure", &["foo@hostb.example"]);
}

#[test]
fn the_node_takes_connections_of_some_nodes_only() {
    let pair = Pair::start(&[]);
    let mut node = pair.b.erlang(&["-sname", "foo@hostb"]);
    assert_eq!(node.eval("net_kernel:allow(['friend@hosta'])"), "ok");
    pair.examine("foo@hostb").is_only("node-refuses", "failure", &["not_allowed"]);
}

#[test]
fn the_node_speaks_tls() {
    let (host, _other) = hosts();
    let _daemon = host.serve(&[]);
    let root = Root::of(RELEASE);
    let folder = root.scratch();
    let (certificate, key) = (folder.path().join("certificate"), folder.path().join("key"));
    let subject = ["-subj", "/CN=hosta", "-days", "2", "-newkey", "rsa:2048"];
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .args(subject)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let inside = |name: &str| folder.inside().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (inside("certificate"), inside("key"));
    let options = ["-ssl_dist_opt", "server_certfile", &certificate, "-ssl_dist_opt", "server_keyfile", &key];
    let _node = host.erlang(&[&["-sname", "foo@hosta", "-proto_dist", "inet_tls"][..], &options].concat());
    host.doctor(&["foo@hosta"]).is_only("dist-tls", "warning", &["TLS"]);
}

#[test]
fn something_else_listens_where_the_node_should() {
    let pair = Pair::start(&[]);
    let _node = pair.b.register("foo", 7000);
    pair.b.inside(|| {
        let listener = TcpListener::bind(("10.99.0.2", 7000)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(b"220 mail.example ESMTP\r\n");
            }
        });
    });
    pair.examine("foo@hostb").is_only("dist-foreign", "failure", &["10.99.0.2:7000"]);
    // Nor does anything listen at a port that nobody has.
    let _gone = pair.b.register("gone", 7001);
    pair.examine("gone@hostb").is_only("dist-refused", "failure", &["10.99.0.2:7001"]);
}
