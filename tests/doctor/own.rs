//! Faults of the host itself.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use repmd_test_stores::Store;
use repmd_test_support::{Daemon, ErlangNode, Root, wait_until};
use rustix::process::Signal;

use crate::{PORT, RELEASE, SOON, hosts};

#[test]
fn no_daemon_runs() {
    let (host, _other) = hosts();
    host.doctor(&[]).is_only("daemon-absent", "failure", &["port 4369"]);
}

#[test]
fn a_stock_epmd_has_the_port() {
    let (host, _other) = hosts();
    let epmd = host.stock_epmd();
    let process = format!("process {}", epmd.pid().as_raw_nonzero());
    host.doctor(&[]).is_only("daemon-stock", "failure", &["bin/epmd", &process]);
    host.doctor_apart(&[]).is_only("daemon-stock", "failure", &["only root can see"]);
}

/// Greets whoever connects, as a mail server does.
fn greet(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
            let _ = stream.read(&mut [0; 1024]);
        }
    });
}

#[test]
fn another_program_has_the_port() {
    let (host, _other) = hosts();
    host.inside(|| greet(TcpListener::bind(("127.0.0.1", PORT)).unwrap()));
    let process = format!("process {}", std::process::id());
    host.doctor(&[]).is_only("port-foreign", "failure", &[&process]);
}

#[test]
fn another_program_has_the_port_at_another_address() {
    let (host, _other) = hosts();
    let _daemon = host.serve(&["--address", "127.0.0.1"]);
    let _stranger = host.inside(|| TcpListener::bind(("10.99.0.1", PORT)).unwrap());
    let process = format!("process {}", std::process::id());
    host.doctor(&[]).is_only("port-shared", "failure", &[&process]);
}

#[test]
fn a_socket_of_systemd_has_the_port() {
    let (host, _other) = hosts();
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", &format!("127.0.0.1:{PORT}"), "/bin/false"]).stderr(Stdio::null());
    let mut holder = host.inside(|| command.spawn()).unwrap();
    let listens = || {
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", holder.id())).unwrap();
        table.contains(":1111 00000000:0000 0A")
    };
    wait_until("it listens", SOON, listens);
    let process = format!("process {}", holder.id());
    host.doctor(&[]).is_only("port-systemd", "warning", &["systemd-socket-activate", &process]);
    // Nobody has connected: that would have started what it stands for, and ended it.
    assert!(holder.try_wait().unwrap().is_none());
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn the_daemon_stands_still() {
    let (host, _other) = hosts();
    let daemon = host.serve(&["--admin", "off"]);
    daemon.signal(Signal::STOP);
    let found = host.doctor(&[]);
    daemon.signal(Signal::CONT);
    found.is_only("daemon-silent", "failure", &["repmd"]);
}

#[test]
fn the_api_wants_a_token() {
    let (host, _other) = hosts();
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "0123456789abcdef").unwrap();
    let path = token.path().to_str().unwrap();
    let _daemon = host.serve(&["--admin-token-file", path]);
    host.doctor(&[]).is_only("api-token", "warning", &["127.0.0.1:4370"]);
    host.doctor(&["--admin-token-file", path]).are(&[]);
}

#[test]
fn the_api_is_another_daemon_s() {
    let (host, _other) = hosts();
    let _daemon = host.serve(&["--admin", "off"]);
    let mut command = host.repmd("serve");
    command.args(["--port", "5000"]).stderr(Stdio::null());
    let _second = host.inside(|| Daemon::spawn(command, 5000));
    let is_shown = || host.inside(|| std::net::TcpStream::connect(("127.0.0.1", 4370)).is_ok());
    wait_until("the other's API answers", SOON, is_shown);
    host.doctor(&["--admin", "127.0.0.1:4370"]).is_only("api-other", "warning", &["port 5000"]);
    // Without the flag, the daemon itself says that it has none.
    host.doctor(&[]).are(&[]);
}

#[test]
fn what_is_wrong_is_said_first_and_what_was_left_out_last() {
    let (host, _other) = hosts();
    let _daemon = host.serve(&["--admin", "off"]);
    let said = host.doctor_said(&["n@nowhere"]);
    let place = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text}: {said}"));
    assert_eq!(place("the host\n  failure  host-unresolvable: "), 0);
    let (fine, left_out) = (place("\n\nthe daemon of this host\n  ok  "), place("\n\nnot looked at\n"));
    assert!(fine < left_out, "{said}");
    for what in [
        "\n  what only the admin API tells: ",
        "\n  the EPMD of nowhere, the name and the node: the way ends",
    ] {
        assert!(left_out < place(what), "{said}");
    }
    assert_eq!(said.matches("\n\n").count(), 2, "{said}");
}

/// Nothing leads to other networks, and the store is on this machine.
#[test]
fn the_daemon_knows_no_address_to_tell_others() {
    let (host, _other) = hosts();
    let store = host.inside(Store::redis);
    let _daemon = host.serve(&["--backend", &store.url()]);
    let doctor = || host.doctor(&["--backend", &store.url()]);
    wait_until("its first round is over", SOON, || doctor().has("daemon-no-address"));
    doctor().is_only("daemon-no-address", "warning", &["no address to tell others"]);
}

/// Of an address that the machine had once: its nodes do not even find each other.
#[test]
fn the_machine_s_own_name_leads_to_an_address_that_it_no_longer_has() {
    let (mut host, _other) = hosts();
    host.know("127.0.0.1 localhost\n10.99.0.77 hosta\n");
    let _daemon = host.serve(&[]);
    host.doctor(&[]).is_only("own-name-elsewhere", "failure", &["hosta", "10.99.0.77"]);
    // A node that reads the same.
    let answer_where = |address: &str| {
        let inetrc = format!("{{lookup, [file]}}. {{host, {address}, [\"hosta\"]}}. ");
        let start = |name| {
            let flags = ["-sname", name];
            host.inside(|| ErlangNode::start_knowing(&Root::of(RELEASE), &inetrc, PORT, &flags))
        };
        let (mut one, _two) = (start("one@hosta"), start("two@hosta"));
        one.eval("net_adm:ping(two@hosta)")
    };
    assert_eq!(answer_where("{10, 99, 0, 77}"), "pang");
    assert_eq!(answer_where("{127, 0, 0, 1}"), "pong");
}

#[test]
fn the_machine_s_own_name_leads_to_an_address_at_which_the_daemon_does_not_listen() {
    let (mut host, _other) = hosts();
    host.know("127.0.0.1 localhost\n127.0.1.1 hosta\n");
    let daemon = host.serve(&["--address", "127.0.0.1"]);
    host.doctor(&[]).is_only("own-name-unanswered", "warning", &["hosta", "127.0.1.1"]);
    drop(daemon);
    let _daemon = host.serve(&["--address", "127.0.1.1"]);
    host.doctor(&[]).are(&[]);
}
