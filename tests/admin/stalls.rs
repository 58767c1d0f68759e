//! Operators who stand still: nobody else waits for them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use repmd_test_support::http::{EventStream, get};
use socket2::{Domain, Socket, Type};

use super::{SOON, register, serve};
use repmd_test_support::{raise_open_files, wait_until};

/// Opens connections that do nothing but what `begin` does.
fn stand_still(admin: u16, count: usize, begin: &[u8]) -> Vec<TcpStream> {
    let open = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], admin)).into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_nonblocking(true).unwrap();
        // As much as there is room for.
        let _ = stream.write(begin);
        stream
    };
    (0..count).map(open).collect()
}

fn answers_at_once(admin: u16) {
    let started = Instant::now();
    assert_eq!(get(admin, "/livez", &[]).status, 200);
    assert!(started.elapsed() < Duration::from_secs(1), "after {:?}", started.elapsed());
}

#[test]
fn probes_are_answered_beside_operators_that_are_silent_or_never_read() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&token, "0123456789abcdef").unwrap();
    let with_token = ["--admin-token-file", token.path().to_str().unwrap()];
    for flags in [&[][..], &with_token] {
        let (_daemon, admin) = serve(flags);
        let pipelined = "GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
        for begin in [pipelined.as_bytes(), b"", b"GET /livez HTTP/1.1\r\nHost: lo"] {
            let standing = stand_still(admin, 100, begin);
            for _ in 0..10 {
                answers_at_once(admin);
            }
            drop(standing);
        }
    }
}

#[test]
fn those_who_follow_events_do_not_give_way_to_those_who_stand_still() {
    let (daemon, admin) = serve(&[]);
    let mut follower = EventStream::open(admin, "/api/v1/events", &[]);
    let _standing = stand_still(admin, 100, b"");
    let _node = register(daemon.port(), "rabbit");
    assert_eq!(follower.next_event().unwrap().kind, "registered");
}

#[test]
fn a_silent_operator_is_ended_after_five_seconds() {
    let (_daemon, admin) = serve(&[]);
    let started = Instant::now();
    for mut stream in stand_still(admin, 3, b"") {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(2 * SOON)).unwrap();
        // Whatever it is told, the connection then ends.
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    let took = started.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(12)).contains(&took), "{took:?}");
}

/// Each list of 10,000 nodes is some megabytes, and was in memory for as long as its reader liked.
#[test]
fn long_lists_that_nobody_reads_are_few_and_end() {
    raise_open_files();
    let (daemon, admin) = serve(&[]);
    let _nodes: Vec<_> = (0..4000)
        .map(|number| register(daemon.port(), &format!("n{number:04}{}", "😀".repeat(250))))
        .collect();
    let list = b"GET /api/v1/nodes?limit=10000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let standing = stand_still(admin, 8, list);
    wait_until("two are on their way", SOON, || get(admin, "/api/v1/nodes?limit=10000", &[]).status == 503);
    // Shorter ones are had all the same.
    assert_eq!(get(admin, "/api/v1/nodes?limit=10", &[]).status, 200);
    wait_until("they are given up", 3 * SOON, || get(admin, "/api/v1/nodes?limit=10000", &[]).status == 200);
    drop(standing);
}
