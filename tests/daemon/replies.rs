//! Replies as clients read them: whole, and without waiting for others.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use repmd::protocol::{Request, decode_names_reply, encode_request};
use repmd_backend_api::{AliveName, Node};
use repmd_test_support::{Daemon, Peer, alive2, beside, lookup_port, wait_until};
use socket2::{Domain, SockRef, Socket, Type};

use super::{SOON, look_up, raise_open_files, register, start, start_with_descriptors};

/// A node takes `{garbage_from_epmd, ...}` from half a reply, and jinterface reads each with one read.
#[test]
fn every_reply_comes_in_one_read() {
    let daemon = start(&[]);
    let nodes: Vec<_> = (0..100).map(|number| register(daemon.port(), &format!("node{number}"))).collect();
    let lines = nodes.len() * "name node12 at port 1234\n".len() - 10;
    let requests = [
        (look_up("node7"), 19),
        (look_up("nobody"), 2),
        (b"\0\x01n".to_vec(), 4 + lines),
        (alive2("node7", 1), 6),
    ];
    for (request, length) in requests {
        for _ in 0..50 {
            let mut peer = Peer::connect(daemon.port());
            peer.send(&request).unwrap();
            assert!(peer.fill(Instant::now() + SOON));
            assert_eq!(peer.received().len(), length, "the first read of the reply to {request:02x?}");
        }
    }
    for number in 0..50 {
        let mut peer = Peer::connect(daemon.port());
        peer.send(&alive2(&format!("new{number}"), 1)).unwrap();
        assert!(peer.fill(Instant::now() + SOON));
        assert_eq!(peer.received().len(), 6);
    }
}

/// `repmd_epmd` would dial what they name.
#[test]
fn a_node_s_extra_that_reads_like_a_daemon_s_words_is_not_passed_on() {
    let daemon = start(&[]);
    let extras = ["repmd/1 addr=127.0.0.66 host=other", " repmd/1 addr=127.0.0.66 host=other", "repmd/2"];
    for (extra, passed_on) in
        extras.map(|extra| (extra, "")).into_iter().chain([("repmd", "repmd"), (" ", " ")])
    {
        let mut node = Node::ordinary(AliveName::parse(b"forger").unwrap(), 1234);
        node.extra = extra.as_bytes().into();
        let mut peer = Peer::connect(daemon.port());
        peer.send(&encode_request(&Request::Alive2(node))).unwrap();
        assert_eq!(peer.read(2, SOON), [118, 0]);
        let found = lookup_port(daemon.port(), "forger").unwrap();
        assert_eq!((found.port, &*found.extra), (1234, passed_on.as_bytes()), "{extra:?}");
    }
}

#[test]
fn a_name_of_255_characters_is_listed_and_found_in_every_width() {
    let daemon = start(&[]);
    for character in ["a", "é", "€", "😀"] {
        let name = character.repeat(255);
        let _node = register(daemon.port(), &name);
        let found = lookup_port(daemon.port(), &name).unwrap();
        assert_eq!((found.port, &*found.name), (1234, name.as_bytes()));
    }
}

const NAMES: &[u8] = b"\0\x01n";

/// Names of 1,020 bytes, so many that their list is more than the kernel takes for a peer that does not read.
struct LongList {
    _nodes: Vec<Peer>,
    names: usize,
}

fn register_a_long_list(daemon: &Daemon) -> LongList {
    raise_open_files();
    let names = 6000;
    let name = |number| format!("{number:04}{}", "😀".repeat(251));
    let nodes = (0..names).map(|number| register(daemon.port(), &name(number))).collect();
    LongList { _nodes: nodes, names }
}

/// Asks for the list, with room for a few bytes of it.
fn ask_and_do_not_read(port: u16, request: &[u8]) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(request).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// The stock daemon blocks in its write, and with it everybody.
#[test]
fn slow_readers_of_names_disturb_nobody() {
    let daemon = start(&[]);
    let list = register_a_long_list(&daemon);
    let before = daemon.open_files();
    let mut slow: Vec<_> = (0..20).map(|_| ask_and_do_not_read(daemon.port(), NAMES)).collect();
    for _ in 0..200 {
        let begin = Instant::now();
        assert!(lookup_port(daemon.port(), "nobody").is_none());
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }
    drop(register(daemon.port(), "another"));
    wait_until("all replies are on their way, and nothing else", SOON, || {
        daemon.open_files() == before + slow.len()
    });
    let mut reply = Vec::new();
    slow[0].read_to_end(&mut reply).unwrap();
    assert_eq!(decode_names_reply(&reply).unwrap().nodes().count(), list.names);
}

#[test]
fn a_reader_that_stands_still_is_given_up_after_the_packet_timeout() {
    let daemon = start(&["-packet_timeout", "1"]);
    let _list = register_a_long_list(&daemon);
    let before = daemon.open_files();
    let slow = ask_and_do_not_read(daemon.port(), NAMES);
    wait_until("it is served", SOON, || before < daemon.open_files());
    wait_until("it is given up", SOON, || daemon.open_files() == before);
    drop(slow);
}

#[test]
fn of_many_slow_readers_the_oldest_give_way() {
    let daemon = start(&[]);
    let _list = register_a_long_list(&daemon);
    let before = daemon.open_files();
    let _slow: Vec<_> = (0..100).map(|_| ask_and_do_not_read(daemon.port(), NAMES)).collect();
    wait_until("64 are left", SOON, || daemon.open_files() == before + 64);
    assert!(lookup_port(daemon.port(), "nobody").is_none());
}

/// They may stay for ever, and nobody else waits whom the daemon could end in their place.
#[test]
fn slow_readers_give_way_when_descriptors_run_out() {
    let daemon = start_with_descriptors(6064 + 128, &[]);
    let _list = register_a_long_list(&daemon);
    let _slow: Vec<_> = (0..100).map(|_| ask_and_do_not_read(daemon.port(), NAMES)).collect();
    let mut peer = Peer::connect(daemon.port());
    peer.send(&look_up("nobody")).unwrap();
    assert_eq!(peer.read_to_end(SOON), [119, 1]);
}

/// Bytes behind the extra are ignored within the length of the request, so it can have any length.
#[test]
fn a_surplus_byte_closes_the_connection_however_long_the_request_is() {
    let daemon = start(&[]);
    let node = alive2("n", 1234);
    for length in (15..=3057).step_by(61).chain(1020..=1025).chain(2044..=2049).chain(3050..=3057) {
        let mut request = u16::try_from(length).unwrap().to_be_bytes().to_vec();
        request.extend(&node[2..]);
        request.resize(2 + length, 0);
        for (surplus, answered) in [(&b""[..], 6), (b"\0", 0)] {
            let mut peer = Peer::connect(daemon.port());
            peer.send(&[&request, surplus].concat()).unwrap();
            assert_eq!(peer.read(6, SOON).len(), answered, "{length} bytes and {} more", surplus.len());
        }
    }
}

/// How much memory a daemon has, in MiB.
fn memory(daemon: &Daemon) -> u64 {
    daemon.memory() / 1024
}

/// Each of them keeps a list of its own. Names of 1 KB, 64 readers and their lists of 6 MB were 400 MB, for ever.
#[test]
fn lists_that_change_under_slow_readers_take_bounded_memory_and_give_it_back() {
    let daemon = start(&[]);
    let _list = register_a_long_list(&daemon);
    let with_nodes = memory(&daemon);
    for request in [NAMES, b"\0\x01d"] {
        let mut slow = Vec::new();
        for number in 0..70 {
            drop(register(daemon.port(), &format!("changes{number}")));
            slow.push(ask_and_do_not_read(daemon.port(), request));
        }
        let most = memory(&daemon);
        assert!(most < with_nodes + 64 + 40, "{with_nodes} MiB grew to {most} MiB");
        drop(slow);
        wait_until("the memory is given back", 2 * SOON, || memory(&daemon) <= with_nodes * 3 / 2);
    }
}

/// Each list took as long to make as a hundred look-ups, and 64 of them came before anybody else's turn, and most were
/// for askers who had gone.
#[test]
fn a_flood_of_dumps_makes_no_registration_wait() {
    let daemon = start(&[]);
    let _list = register_a_long_list(&daemon);
    let dump = |is_over: &AtomicBool| {
        while !is_over.load(Ordering::Relaxed) {
            let mut stream = TcpStream::connect(("127.0.0.1", daemon.port())).unwrap();
            stream.write_all(b"\0\x01d").unwrap();
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    };
    let median = || {
        let register_one = |number| {
            let started = Instant::now();
            drop(register(daemon.port(), &format!("node{number}")));
            started.elapsed()
        };
        let mut took: Vec<_> = (0..40).map(register_one).collect();
        took.sort_unstable();
        took[20]
    };
    let one_list = |number| {
        drop(register(daemon.port(), &format!("other{number}")));
        let started = Instant::now();
        let mut peer = Peer::connect(daemon.port());
        peer.send(b"\0\x01d").unwrap();
        peer.read_to_end(SOON);
        started.elapsed()
    };
    let list = (0..5).map(one_list).max().unwrap();
    // Other programs of this machine may be busy for a while.
    let medians = beside(2, dump, || [(); 3].map(|()| median()));
    assert!(medians.iter().any(|median| *median < 4 * list), "{medians:?}, and {list:?} for a list");
}
