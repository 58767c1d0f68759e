//! Sockets from a service manager, and notifications to it. `systemd-socket-activate` is the manager: it
//! starts the program at the first connection.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use repmd::protocol::decode_names_reply;
use repmd_test_support::{Daemon, Peer, alive2, free_port, wait_until};
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

    fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
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
    let variable = format!("NOTIFY_SOCKET={}", notifications.path().display());
    command.args(["-E", &variable, env!("CARGO_BIN_EXE_repmd")]);
    command.args(arguments.split_whitespace()).stderr(Stdio::null());
    Daemon::spawn(command, port)
}

/// Starts the program with a socket of its own, and with variables that a manager sets as well.
fn serve(notifications: &Notifications, variables: &[(&str, &str)]) -> Daemon {
    let port = free_port();
    let mut command = repmd(["serve", "--admin", "off", "--port", &port.to_string()]);
    command.env("NOTIFY_SOCKET", notifications.path()).envs(variables.iter().copied());
    command.stderr(Stdio::null());
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
    let mut daemon = serve(&notifications, &[]);
    assert!(notifications.next().starts_with("READY=1\n"));
    daemon.signal(Signal::TERM);
    assert_eq!(notifications.next(), "STOPPING=1");
    assert_eq!(daemon.wait(SOON).code(), Some(0));
}

/// `@name` was taken for a path, and the manager ended the daemon again and again.
#[test]
fn a_manager_that_listens_under_an_abstract_name_is_told_too() {
    let name = format!("repmd-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let port = free_port();
    let mut command = repmd(["serve", "--admin", "off", "--port", &port.to_string()]);
    command.env("NOTIFY_SOCKET", format!("@{name}")).stderr(Stdio::null());
    let mut daemon = Daemon::spawn(command, port);
    assert!(receive(&socket).starts_with("READY=1\n"));
    daemon.signal(Signal::TERM);
    assert_eq!(receive(&socket).trim(), "STOPPING=1");
    assert_eq!(daemon.wait(SOON).code(), Some(0));
}

/// Sends what the manager's queue takes, so that the next message would wait.
fn fill(socket: &UnixDatagram, notifications: &Notifications) -> usize {
    socket.set_nonblocking(true).unwrap();
    let path = notifications.folder.path().join("notify");
    (0..).take_while(|_| socket.send_to(b"STATUS=of another", &path).is_ok()).count()
}

#[test]
fn a_manager_that_does_not_read_holds_nobody_up_and_is_told_when_it_does() {
    let notifications = Notifications::new();
    let waiting = fill(&UnixDatagram::unbound().unwrap(), &notifications);
    assert!(0 < waiting);
    let mut daemon = serve(&notifications, &[]);
    let port = daemon.port();
    let started = Instant::now();
    assert_eq!(reported_port(&mut Peer::connect(port)), u32::from(port));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    (0..waiting).for_each(|_| assert_eq!(notifications.next(), "STATUS=of another"));
    assert!(notifications.next().starts_with("READY=1\n"));
    fill(&UnixDatagram::unbound().unwrap(), &notifications);
    let stopped = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(SOON).code(), Some(0));
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
}

/// It is given what it is to keep as it has room for that.
#[test]
fn a_manager_that_keeps_descriptors_and_does_not_read_holds_no_node_up() {
    let notifications = Notifications::new();
    let mut daemon = serve(&notifications, &[("FDSTORE", "100")]);
    let port = daemon.port();
    let said = |words: &str| (0..9).any(|_| notifications.next().contains(words));
    assert!(said("FDSTORE=1\nFDNAME=s"), "the state is kept");
    fill(&UnixDatagram::unbound().unwrap(), &notifications);
    let started = Instant::now();
    let nodes: Vec<_> = (0..200).map(|number| Peer::registered(port, &format!("n{number}"))).collect();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    notifications.socket.set_nonblocking(false).unwrap();
    let mut text = [0; 4096];
    let mut batches = 0;
    while batches == 0 {
        let length = notifications.socket.recv(&mut text).unwrap();
        batches += usize::from(text[..length].starts_with(b"FDSTORE=1\nFDNAME=n\n"));
    }
    assert!(nodes.iter().all(Peer::is_open));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(SOON).code(), Some(0));
    // What it was given lives for as long as it does.
    drop(notifications);
    wait_until("no node is kept any longer", SOON, || !nodes.iter().any(Peer::is_open));
}

#[test]
fn the_watchdog_hears_from_an_event_loop_that_turns_and_from_no_other() {
    let notifications = Notifications::new();
    let daemon = serve(&notifications, &[("WATCHDOG_USEC", "400000")]);
    let next = || (0..2).map(|_| notifications.next()).find(|said| said == "WATCHDOG=1");
    assert!(next().is_some());
    let started = Instant::now();
    (0..5).for_each(|_| assert_eq!(notifications.next(), "WATCHDOG=1"));
    let time = started.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_millis(2500)).contains(&time), "{time:?}");
    daemon.signal(Signal::STOP);
    notifications.socket.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    let mut text = [0; 100];
    // One may be under way.
    let silent = (0..2).any(|_| notifications.socket.recv(&mut text).is_err());
    daemon.signal(Signal::CONT);
    assert!(silent, "an event loop that stands still says nothing");
}

#[test]
fn a_watchdog_that_waits_for_another_process_is_not_fed() {
    let notifications = Notifications::new();
    let mut daemon = serve(&notifications, &[("WATCHDOG_USEC", "20000"), ("WATCHDOG_PID", "1")]);
    assert!(notifications.next().starts_with("READY=1\n"));
    std::thread::sleep(Duration::from_millis(100));
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
