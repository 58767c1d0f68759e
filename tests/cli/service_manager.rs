//! Sockets from a service manager, and notifications to it. `systemd-socket-activate` is the manager: it
//! starts the program at the first connection.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use repmd::protocol::decode_names_reply;
use repmd_test_support::{Daemon, Peer, alive2, free_port};
use rustix::process::Signal;

use crate::{SOON, done, epmd, receive, repmd};

/// Where the manager is told how it goes.
struct Notifications {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Notifications {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, folder }
    }

    /// The variable by which the program finds it.
    fn variable(&self) -> String {
        format!("NOTIFY_SOCKET={}", self.folder.path().join("notify").display())
    }

    fn next(&self) -> String {
        receive(&self.socket).trim().to_owned()
    }
}

/// Starts the program with sockets on `addresses` and `port`, at its first connection.
fn activate(notifications: &Notifications, addresses: &[&str], port: u16, arguments: &str) -> Daemon {
    let mut command = Command::new("systemd-socket-activate");
    for address in addresses {
        command.args(["-l", &format!("{address}:{port}")]);
    }
    command.args(["-E", &notifications.variable(), env!("CARGO_BIN_EXE_repmd")]);
    command.args(arguments.split_whitespace()).stderr(Stdio::null());
    Daemon::spawn(command, port)
}

/// The port in front of the reply to NAMES.
fn reported_port(peer: &mut Peer) -> u32 {
    peer.send(b"\0\x01n").unwrap();
    decode_names_reply(&peer.read_to_end(SOON)).unwrap().port
}

#[test]
fn the_stock_flag_takes_the_passed_sockets_and_says_when_it_is_ready() {
    let notifications = Notifications::new();
    let port = free_port();
    let daemon = activate(&notifications, &["127.0.0.1"], port, "epmd -systemd");
    let ready = format!(
        "READY=1\nSTATUS=Processing port mapping requests...\nMAINPID={}",
        daemon.pid().as_raw_nonzero()
    );
    assert_eq!(notifications.next(), ready);
    assert_eq!(reported_port(&mut Peer::connect(port)), u32::from(port));
}

/// The stock daemon reports its own default, and `net_adm:names` then says `{error, address}`.
#[test]
fn names_reports_the_port_of_the_passed_socket_unless_one_is_set() {
    let port = free_port();
    let _daemon = activate(&Notifications::new(), &["127.0.0.1"], port, "epmd -systemd -port 4369");
    assert_eq!(reported_port(&mut Peer::connect(port)), 4369);
}

#[test]
fn the_stock_flag_without_passed_sockets_ends_the_start() {
    let result = done(&mut epmd(&format!("-port {} -systemd", free_port())));
    assert_eq!(result.exit, 1);
    assert!(result.stderr.contains("no listening socket from the service manager"), "{}", result.stderr);
    // Sockets that were meant for the parent.
    let mut command = epmd(&format!("-port {} -systemd", free_port()));
    assert_eq!(
        done(command.env("LISTEN_PID", std::process::id().to_string()).env("LISTEN_FDS", "1")).exit,
        1
    );
}

#[test]
fn serve_takes_the_passed_sockets_all_of_them_and_tells_of_its_start_and_its_end() {
    let notifications = Notifications::new();
    let port = free_port();
    let mut daemon = activate(&notifications, &["127.0.0.1", "127.0.0.2"], port, "serve");
    assert!(notifications.next().starts_with("READY=1\n"));
    for address in ["127.0.0.1", "127.0.0.2"] {
        let place = SocketAddr::new(address.parse().unwrap(), port);
        assert_eq!(
            reported_port(&mut Peer::connect_from(None, place).unwrap()),
            u32::from(port),
            "{address}"
        );
    }
    assert!(TcpStream::connect(("127.0.0.3", port)).is_err());
    daemon.signal(Signal::TERM);
    assert_eq!(notifications.next(), "STOPPING=1");
    assert_eq!(daemon.wait(SOON).code(), Some(0));
}

#[test]
fn serve_listens_itself_and_tells_the_manager_where_no_socket_is_passed() {
    let notifications = Notifications::new();
    let port = free_port();
    let mut command = repmd(["serve", "--port", &port.to_string()]);
    let variable = notifications.variable();
    let (name, path) = variable.split_once('=').unwrap();
    command.env(name, path).stderr(Stdio::null());
    let mut daemon = Daemon::spawn(command, port);
    assert!(notifications.next().starts_with("READY=1\n"));
    daemon.signal(Signal::TERM);
    assert_eq!(notifications.next(), "STOPPING=1");
    assert_eq!(daemon.wait(SOON).code(), Some(0));
}

/// IPv4 peers come as mapped addresses there, which the stock daemon does not take for loopback.
#[test]
fn every_loopback_peer_is_local_on_a_socket_of_both_families() {
    let port = free_port();
    let _daemon = activate(&Notifications::new(), &["[::]"], port, "epmd -systemd");
    for (from, to) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.2", "127.0.0.1"), ("::1", "::1")] {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut node = Peer::connect_from(Some(from), SocketAddr::new(to, port)).unwrap();
        node.send(&alive2("n", 1)).unwrap();
        assert_eq!(node.read(2, SOON), [118, 0], "{from} to {to}");
        node.shutdown_write().unwrap();
        assert_eq!(node.read_to_end(SOON).len(), 4);
    }
}
