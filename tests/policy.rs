//! Who may ask what, on a machine with public addresses.
#![allow(clippy::unwrap_used)] // All of this is tests.

use std::net::{IpAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use repmd::protocol::{Request, encode_request};
use repmd_test_stores::Store;
use repmd_test_support::{Daemon, Peer, alive2, free_port, run, wait_until};

const REPMD: &str = env!("CARGO_BIN_EXE_repmd");
const SOON: Duration = Duration::from_secs(10);

/// The machine's own addresses, at which it is asked from the others.
const INSIDE: &str = "10.1.0.1";
const OUTSIDE: &str = "203.0.113.1";

/// Askers: of a private network, of the internet, and one of whose host a daemon is in the registry.
const NEIGHBOUR: &str = "10.1.0.9";
const STRANGER: &str = "203.0.113.9";
const MEMBER: &str = "203.0.113.8";

/// Runs a test on a machine with all of these addresses.
fn with_addresses(test: impl FnOnce() + Send) {
    repmd_test_support::in_own_network(|| {
        for address in [INSIDE, OUTSIDE, NEIGHBOUR, STRANGER, MEMBER] {
            run("ip", &["address", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        test();
    });
}

fn daemon(arguments: &[&str]) -> Daemon {
    let port = free_port();
    let mut command = Command::new(REPMD);
    command.args(arguments).stderr(Stdio::null());
    command.arg(if arguments[0] == "epmd" { "-port" } else { "--port" }).arg(port.to_string());
    Daemon::spawn(command, port)
}

/// What `from` is answered at one of the machine's addresses.
fn answer(daemon: &Daemon, from: &str, at: &str, request: &Request<'_>) -> Vec<u8> {
    let at = (at.parse::<std::net::IpAddr>().unwrap(), daemon.port()).into();
    let mut peer = Peer::connect_from(Some(from.parse().unwrap()), at).unwrap();
    peer.send(&encode_request(request)).unwrap();
    peer.read_to_end(SOON)
}

fn register(daemon: &Daemon) -> Peer {
    Peer::registered(daemon.port(), "app")
}

/// The request by which the internet is scanned for EPMD.
const SCAN: Request<'_> = Request::Names;

#[test]
fn a_scan_of_the_internet_finds_no_names_and_look_ups_from_there_are_answered() {
    with_addresses(|| {
        let daemon = daemon(&["serve", "--admin", "off"]);
        let _node = register(&daemon);
        assert_eq!(answer(&daemon, STRANGER, OUTSIDE, &SCAN), b"");
        assert_eq!(answer(&daemon, STRANGER, OUTSIDE, &Request::PortPlease2("app"))[..2], [119, 0]);
        for (from, at) in
            [(NEIGHBOUR, INSIDE), (NEIGHBOUR, OUTSIDE), (OUTSIDE, OUTSIDE), ("127.0.0.1", "127.0.0.1")]
        {
            let listed = answer(&daemon, from, at, &SCAN);
            assert!(listed.ends_with(b"name app at port 5000\n"), "{from} at {at}: {listed:?}");
        }
    });
}

#[test]
fn the_stock_command_line_is_as_open_as_the_stock_daemon() {
    with_addresses(|| {
        let daemon = daemon(&["epmd"]);
        let _node = register(&daemon);
        assert!(answer(&daemon, STRANGER, OUTSIDE, &SCAN).ends_with(b"name app at port 5000\n"));
        assert_eq!(answer(&daemon, NEIGHBOUR, INSIDE, &Request::Dump), b"");
    });
}

#[test]
fn hosts_of_the_cluster_may_list_names_from_public_addresses_and_others_may_not() {
    with_addresses(|| {
        let store = Store::redis();
        let on = |host: &str, address: &str| {
            daemon(&[
                "serve",
                "--admin",
                "off",
                "--backend",
                &store.url(),
                "--host",
                host,
                "--advertise",
                address,
            ])
        };
        let here = on("here", OUTSIDE);
        let _node = register(&here);
        assert_eq!(answer(&here, MEMBER, OUTSIDE, &SCAN), b"");
        let _there = on("there", MEMBER);
        wait_until("the other host may list", SOON, || {
            answer(&here, MEMBER, OUTSIDE, &SCAN).ends_with(b"name app at port 5000\n")
        });
        assert_eq!(answer(&here, STRANGER, OUTSIDE, &SCAN), b"");
    });
}

#[test]
fn each_setting_opens_or_closes_what_it_names() {
    with_addresses(|| {
        let admin = free_port();
        let at = format!("0.0.0.0:{admin}");
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "0123456789abcdef0123456789abcdef").unwrap();
        let daemon = daemon(&[
            "serve",
            "--admin",
            &at,
            "--admin-token-file",
            token.path().to_str().unwrap(),
            "--allow-lookups-from",
            "private",
            "--allow-lists-from",
            MEMBER,
            "--command-from",
            "10.1.0.0/24",
            "--register-from",
            STRANGER,
            "--allow-admin-from",
            "private",
        ]);
        let _node = register(&daemon);
        let look_up = Request::PortPlease2("app");
        assert_eq!(answer(&daemon, STRANGER, OUTSIDE, &look_up), b"");
        assert_eq!(answer(&daemon, NEIGHBOUR, INSIDE, &look_up)[..2], [119, 0]);
        assert_eq!(answer(&daemon, NEIGHBOUR, INSIDE, &SCAN), b"");
        assert!(!answer(&daemon, MEMBER, OUTSIDE, &SCAN).is_empty());
        assert!(!answer(&daemon, NEIGHBOUR, INSIDE, &Request::Dump).is_empty());
        let mut node = Peer::connect_from(
            Some(STRANGER.parse().unwrap()),
            (OUTSIDE.parse::<std::net::IpAddr>().unwrap(), daemon.port()).into(),
        )
        .unwrap();
        node.register("theirs", 5001);
        let probe = |from: &str, to: &str| {
            let to = (to.parse::<std::net::IpAddr>().unwrap(), admin).into();
            let mut peer = Peer::connect_from(Some(from.parse().unwrap()), to).unwrap();
            let _ = peer.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            peer.read_to_end(SOON).starts_with(b"HTTP/1.1 200")
        };
        assert_eq!([probe(NEIGHBOUR, INSIDE), probe(STRANGER, OUTSIDE)], [true, false]);
    });
}

/// What `from` is told by DNS at one of the machine's addresses, by UDP and by TCP.
fn dns_codes(port: u16, from: &str, at: &str) -> [ResponseCode; 2] {
    let mut question = Message::query();
    question.metadata.id = 7;
    question.add_query(Query::query(Name::from_ascii("here.repmd.").unwrap(), RecordType::A));
    let question = question.to_vec().unwrap();
    let code = |reply: &[u8]| Message::from_vec(reply).unwrap().metadata.response_code;
    let (from, at) = (from.parse::<IpAddr>().unwrap(), (at.parse::<IpAddr>().unwrap(), port));
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.send_to(&question, at).unwrap();
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply).unwrap();
    let mut peer = Peer::connect_from(Some(from), at.into()).unwrap();
    let framed = [&(question.len() as u16).to_be_bytes()[..], &question].concat();
    peer.send(&framed).unwrap();
    let length_by_tcp = u16::from_be_bytes(peer.read(2, SOON).try_into().unwrap());
    [code(&reply[..length]), code(&peer.read(length_by_tcp.into(), SOON))]
}

#[test]
fn dns_is_answered_to_whom_it_is_allowed_and_refused_to_others() {
    with_addresses(|| {
        let port = free_port();
        // The same UDP port of 127.0.0.1 is taken by what says that this test has it.
        let at = [INSIDE, OUTSIDE, "127.0.0.2"].map(|address| format!("{address}:{port}")).join(",");
        let with = |setting: &[&str]| {
            let always = ["serve", "--admin", "off", "--host", "here", "--advertise", INSIDE, "--dns", &at];
            let _daemon = daemon(&[&always, setting].concat());
            [(NEIGHBOUR, INSIDE), (STRANGER, OUTSIDE), (OUTSIDE, OUTSIDE), ("127.0.0.1", "127.0.0.2")]
                .map(|(from, at)| dns_codes(port, from, at))
        };
        let (yes, no) = ([ResponseCode::NoError; 2], [ResponseCode::Refused; 2]);
        assert_eq!(with(&[]), [yes, yes, yes, yes]);
        assert_eq!(with(&["--allow-dns-from", "private"]), [yes, no, yes, yes]);
        assert_eq!(with(&["--allow-dns-from", STRANGER]), [no, yes, yes, yes]);
        assert_eq!(with(&["--allow-dns-from", "loopback"]), [no, no, yes, yes]);
        // Who may not look up by the wire may not by DNS, unless somebody says otherwise.
        assert_eq!(with(&["--allow-lookups-from", "private"]), [yes, no, yes, yes]);
    });
}

#[test]
fn whoever_asks_too_fast_is_not_answered_and_this_machine_always_is() {
    with_addresses(|| {
        let daemon = daemon(&["serve", "--admin", "off", "--request-rate", "5"]);
        let _node = register(&daemon);
        let answered = |from, at| {
            let look_up = Request::PortPlease2("app");
            (0..20).filter(|_| !answer(&daemon, from, at, &look_up).is_empty()).count()
        };
        // A second may begin meanwhile.
        assert!((5..=10).contains(&answered(STRANGER, OUTSIDE)));
        assert!((5..=10).contains(&answered(MEMBER, OUTSIDE)), "each address by itself");
        assert_eq!([answered("127.0.0.1", "127.0.0.1"), answered(OUTSIDE, OUTSIDE)], [20, 20]);
    });
}

#[test]
fn a_node_at_a_port_that_no_firewall_lets_through_is_told_of_or_turned_away() {
    let registers = |arguments: &[&str], port| {
        let log = tempfile::NamedTempFile::new().unwrap();
        let own = free_port();
        let mut command = Command::new(REPMD);
        command.args(["serve", "--admin", "off", "--node-ports", "9100-9199", "--port", &own.to_string()]);
        command.args(arguments).stderr(log.reopen().unwrap());
        let daemon = Daemon::spawn(command, own);
        let mut node = Peer::connect(daemon.port());
        node.send(&alive2("app", port)).unwrap();
        let reply = node.read(6, SOON);
        // Its last lines are written by the time that it has ended.
        drop(daemon);
        let said = std::fs::read_to_string(log.path()).unwrap();
        (
            reply.starts_with(&[118, 0]),
            reply.len(),
            said.contains("app listens on port 5000, which is not of node-ports"),
        )
    };
    assert_eq!(registers(&[], 9100), (true, 6, false));
    assert_eq!(registers(&[], 5000), (true, 6, true));
    assert_eq!(registers(&["--node-ports-strict"], 9199), (true, 6, false));
    // Not a refusal, which the node would show as a duplicate name.
    assert_eq!(registers(&["--node-ports-strict"], 5000), (false, 0, true));
}

#[test]
fn the_command_says_who_may_what_a_line_each() {
    let output =
        Command::new(REPMD).args(["policy", "--allow-lookups-from", "203.0.113.0/24"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.lines().count() == 9, "{said}");
    assert!(said.contains("list names          this machine, 203.0.113.0/24"), "{said}");
}
