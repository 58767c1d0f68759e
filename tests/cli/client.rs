//! The stock client commands where the daemon is odd, or is not there.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use repmd_test_support::{epmd_program, free_port};
use socket2::SockRef;

use crate::{Done, done, epmd, start};

/// Whatever listens on an EPMD's port answers one request with `reply`, and ends it by a FIN or a reset.
/// Then the result of the command, and the request's bytes.
fn asked(command: &str, reply: &[u8], reset: bool) -> (Done, Vec<u8>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut body = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut body).unwrap();
            stream.write_all(reply).unwrap();
            if reset {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            body
        });
        let done = done(&mut epmd(&format!("-port {port} {command}")));
        (done, served.join().unwrap())
    })
}

#[test]
fn a_link_called_epmd_takes_the_stock_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let link = epmd_program(env!("CARGO_BIN_EXE_repmd"), folder.path());
    let daemon = start("");
    let mut command = std::process::Command::new(link);
    command.args(["-port", &daemon.port().to_string(), "-names"]);
    let head = format!("epmd: up and running on port {} with data:\n", daemon.port());
    assert_eq!(done(&mut command), Done::new(0, &head, ""));
}

#[test]
fn a_command_without_a_daemon_says_so_and_fails() {
    let port = free_port();
    for command in ["-names", "-dump", "-kill", "-stop n"] {
        let result = done(&mut epmd(&format!("-port {port} {command}")));
        assert_eq!(result, Done::new(1, "", "epmd: Cannot connect to local epmd\n"), "{command}");
    }
    assert_eq!(done(&mut epmd(&format!("-port {port} -started"))), Done::new(1, "", ""));
}

#[test]
fn each_command_sends_its_request() {
    for (command, request) in
        [("-names", &b"n"[..]), ("-dump", b"d"), ("-started", b"n"), ("-kill", b"k"), ("-stop nom", b"snom")]
    {
        assert_eq!(asked(command, b"", false).1, request, "{command}");
    }
}

#[test]
fn a_listing_is_shown_as_it_comes_with_the_port_of_the_reply() {
    let reply = b"\0\0\x11\x11some\0thing\n";
    let shown = "epmd: up and running on port 4369 with data:\nsome\0thing\n";
    for command in ["-names", "-dump"] {
        assert_eq!(asked(command, reply, false).0, Done::new(0, shown, ""), "{command}");
    }
    assert_eq!(asked("-started", reply, false).0, Done::new(0, "", ""));
}

#[test]
fn a_reply_without_a_port_is_no_response() {
    for reply in [&b""[..], b"\0\0\x11"] {
        for command in ["-names", "-dump"] {
            let said = Done::new(1, "epmd: no response from local epmd\n", "");
            assert_eq!(asked(command, reply, false).0, said, "{command}");
        }
        assert_eq!(asked("-started", reply, false).0, Done::new(1, "", ""));
    }
}

#[test]
fn a_listing_that_breaks_off_is_shown_as_far_as_it_came() {
    let shown = "epmd: up and running on port 4369 with data:\nname a at port 1\n";
    assert_eq!(asked("-names", b"\0\0\x11\x11name a at port 1\n", true).0, Done::new(0, shown, ""));
    assert_eq!(asked("-names", b"", true).0, Done::new(1, "epmd: no response from local epmd\n", ""));
}

#[test]
fn kill_says_what_the_daemon_said() {
    let refused = "Killing not allowed - living nodes in database.\n";
    for (reply, exit, stdout) in [
        (&b"OK"[..], 0, "Killed\n"),
        (b"NO", 1, refused),
        (b"xx", 1, refused),
        (b"", 1, "epmd: local epmd responded with <>\n"),
        (b"O", 1, "epmd: local epmd responded with <O>\n"),
    ] {
        assert_eq!(asked("-kill", reply, false).0, Done::new(exit, stdout, ""), "{reply:?}");
    }
    let broken = Done::new(1, "epmd: failed to read answer from local epmd\n", "");
    assert_eq!(asked("-kill", b"", true).0, broken);
}

#[test]
fn stop_shows_seven_bytes_of_the_answer() {
    for (reply, exit, stdout) in [
        (&b"STOPPED"[..], 0, "STOPPED\n"),
        // The stock daemon's answer for a name that it does not know.
        (b"NOEXISTSTOPPED", 0, "NOEXIST\n"),
        (b"", 1, "epmd: local epmd responded with <>\n"),
        (b"STOP", 1, "epmd: local epmd responded with <STOP>\n"),
    ] {
        assert_eq!(asked("-stop n", reply, false).0, Done::new(exit, stdout, ""), "{reply:?}");
    }
    let broken = Done::new(1, "epmd: failed to read answer from local epmd\n", "");
    assert_eq!(asked("-stop n", b"", true).0, broken);
}

/// Both families may have a daemon of their own; the stock client asks IPv6 first.
#[test]
fn the_daemon_of_ipv6_is_asked_first() {
    let port = free_port();
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).unwrap();
    let four = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    four.set_nonblocking(true).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, peer): (_, SocketAddr) = six.accept().unwrap();
            assert!(peer.is_ipv6());
            stream.read_exact(&mut [0; 3]).unwrap();
            stream.write_all(b"\0\0\0\x07").unwrap();
        });
        let said = Done::new(0, "epmd: up and running on port 7 with data:\n", "");
        assert_eq!(done(&mut epmd(&format!("-port {port} -names"))), said);
    });
    assert!(four.accept().is_err());
}

#[test]
fn what_is_no_command_line_is_answered_with_usage() {
    for line in [
        "-h",
        "--help",
        "-version",
        "names",
        "-port",
        "-port 0",
        "-port x",
        "-port -names",
        "-address",
        "-packet_timeout",
        "-packet_timeout 0",
        "-packet_timeout x",
        "-delay_accept 0",
        "-delay_write",
        "-stop",
        "-stop a b",
        "-kill x",
        "-names -d",
        "-names -names",
        "-started -port 5",
        "-dump x",
    ] {
        let result = done(&mut epmd(line));
        assert_eq!((result.exit, &*result.stdout), (1, ""), "{line}");
        assert!(
            result.stderr.starts_with("usage: epmd [-d|-debug] [DbgExtra...] [-address List]\n"),
            "{line}"
        );
    }
}
