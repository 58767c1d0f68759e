//! Built daemons with a shared registry, and the programs that people ask with.

use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use repmd_test_stores::Store;
use repmd_test_support::{Daemon, Peer, alive2, free_port, wait_until};

use crate::SOON;
use crate::stage::{Asked, addresses};

struct Host {
    daemon: Daemon,
    asked: Asked,
}

fn start(store: &Store, host: &str, address: &str) -> Host {
    let (port, dns) = (free_port(), free_port());
    // The UDP port of this number at 127.0.0.1 is the sign that it is taken.
    let name_server = format!("127.0.0.2:{dns}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
    command.args(["serve", "--admin", "off", "--address", "127.0.0.1", "--lookup", "host"]);
    command.args(["--port", &port.to_string(), "--dns", &name_server]);
    command.args(["--host", host, "--advertise", address, "--backend", &store.url()]);
    let daemon = Daemon::spawn(command, port);
    Host { daemon, asked: Asked(([127, 0, 0, 2], dns).into()) }
}

#[test]
fn a_node_that_registers_at_one_host_is_answered_by_dns_of_another_within_100_ms() {
    let store = Store::redis();
    let (a, b) = (start(&store, "hosta", "10.0.0.7"), start(&store, "hostb", "10.0.0.8"));
    let asked = |name: &str| addresses(&b.asked.ask(name, RecordType::A));
    wait_until("hosta is known", SOON, || asked("hosta.repmd") == ["10.0.0.7"]);
    let mut times: Vec<Duration> = (0..20)
        .map(|number| {
            let name = format!("n{number}");
            let asked_for = format!("{name}.nodes.repmd");
            assert!(asked(&asked_for).is_empty(), "that it is not there is remembered");
            let mut node = Peer::connect(a.daemon.port());
            node.send(&alive2(&name, 9000)).unwrap();
            assert_eq!(node.read(2, SOON)[1], 0, "it is granted");
            let granted = Instant::now();
            wait_until("it is answered", SOON, || asked(&asked_for) == ["10.0.0.7"]);
            granted.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[times.len() - 2] < Duration::from_millis(100), "{times:?}");
}

/// As systemd passes them: the names say what each is for.
#[test]
fn sockets_of_the_service_manager_are_used_by_their_names() {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::OwnedFd;

    let wire = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.3:0").unwrap();
    // Nobody else is at that address.
    let tcp = TcpListener::bind(udp.local_addr().unwrap()).unwrap();
    let (port, asked) = (wire.local_addr().unwrap().port(), Asked(udp.local_addr().unwrap()));
    const SCRIPT: &str = "exec 3<&0 4<&1 5<&2 0</dev/null 1>/dev/null 2>/dev/null && LISTEN_FDS=3 \
                          LISTEN_FDNAMES=dns:repmd.socket:dns LISTEN_PID=$$ exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "sh", env!("CARGO_BIN_EXE_repmd"), "serve", "--admin", "off"]);
    command.args(["--host", "hosta", "--advertise", "10.0.0.7"]);
    command.stdin(OwnedFd::from(udp)).stdout(OwnedFd::from(wire)).stderr(OwnedFd::from(tcp));
    let mut child = command.spawn().unwrap();
    drop(command);
    assert_eq!(addresses(&asked.ask("hosta.repmd", RecordType::A)), ["10.0.0.7"]);
    assert_eq!(addresses(&asked.ask_by_tcp("hosta.repmd", RecordType::A)), ["10.0.0.7"]);
    let mut node = Peer::connect(port);
    node.send(&alive2("n", 9000)).unwrap();
    assert_eq!(node.read(2, SOON)[1], 0, "it is granted");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What people ask with says by which names DNS has it.
#[test]
fn a_look_up_tells_the_names_by_dns_and_what_is_asked_is_counted() {
    let (port, admin, dns) = (free_port(), free_port(), free_port());
    let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
    command.args(["serve", "--host", "hosta", "--admin", &format!("127.0.0.1:{admin}")]);
    command.args(["--port", &port.to_string(), "--dns", &format!("127.0.0.2:{dns}")]);
    let daemon = Daemon::spawn(command, port);
    let mut node = Peer::connect(daemon.port());
    node.send(&alive2("my_app", 9000)).unwrap();
    assert_eq!(node.read(2, SOON)[1], 0, "it is granted");
    let mut look_up = Command::new(env!("CARGO_BIN_EXE_repmd"));
    look_up.args(["lookup", "my_app", "--port", &port.to_string()]);
    look_up.args(["--admin", &format!("127.0.0.1:{admin}")]);
    let said = String::from_utf8(look_up.output().unwrap().stdout).unwrap();
    assert!(said.ends_with("\n  by DNS my_app.nodes.repmd, on hosta.repmd\n"), "{said}");
    let status = repmd_test_support::http::get(admin, "/api/v1/status", &[]).body;
    assert!(status.contains("\"dns_zones\":[\"repmd.\"]"), "{status}");

    let asked = Asked(([127, 0, 0, 2], dns).into());
    asked.ask("my_app.nodes.repmd", RecordType::SRV);
    asked.ask("nobody.repmd", RecordType::A);
    asked.ask("github.com", RecordType::A);
    let metrics = repmd_test_support::http::get(admin, "/metrics", &[]).body;
    for line in [
        "repmd_dns_questions_total{type=\"A\"} 2",
        "repmd_dns_questions_total{type=\"SRV\"} 1",
        "repmd_dns_answers_total{code=\"NOERROR\"} 1",
        "repmd_dns_answers_total{code=\"NXDOMAIN\"} 1",
        "repmd_dns_answers_total{code=\"REFUSED\"} 1",
        "repmd_dns_truncated_total 0",
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line}: {metrics}");
    }
}
