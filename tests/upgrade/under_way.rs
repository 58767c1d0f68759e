//! Connections between their request and the last byte of its answer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use repmd::protocol::{Request, decode_names_reply, encode_request};
use repmd_test_support::{alive2, lookup_port, raise_open_files};
use socket2::{Domain, Socket, Type};

use crate::SOON;
use crate::stage::Stage;

fn asks_half(stage: &Stage, request: &[u8]) -> (repmd_test_support::Peer, Vec<u8>) {
    let mut peer = stage.connect();
    let (first, rest) = request.split_at(request.len() / 2);
    peer.send(first).unwrap();
    (peer, rest.to_vec())
}

#[test]
fn a_request_that_is_half_there_is_answered_when_the_rest_comes() {
    let stage = Stage::start(&[]);
    let _node = stage.register("n", 5000);
    let half = [
        asks_half(&stage, &encode_request(&Request::PortPlease2("n"))),
        asks_half(&stage, &alive2("other", 5001)),
    ];
    // One that has sent nothing, too.
    let mut silent = stage.connect();
    stage.upgrade();
    let mut replies = half.map(|(mut peer, rest)| {
        peer.send(&rest).unwrap();
        (peer.read(2, SOON), peer)
    });
    assert_eq!(replies.each_mut().map(|(reply, _)| std::mem::take(reply)), [vec![119, 0], vec![118, 0]]);
    assert_eq!(lookup_port(stage.port(), "other").map(|found| found.port), Some(5001));
    silent.send(&encode_request(&Request::PortPlease2("n"))).unwrap();
    assert_eq!(silent.read(2, SOON), [119, 0]);
}

#[test]
fn a_long_list_that_is_read_slowly_comes_to_its_end() {
    raise_open_files();
    let stage = Stage::start(&[]);
    let long_name = |number: usize| format!("{number:04}{}", "😀".repeat(251));
    // 2.5 MB, of which the kernel takes 1.6 MB for somebody who does not read.
    let nodes: Vec<_> = (0..2500).map(|number| stage.register(&long_name(number), 5000)).collect();
    let slow = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, stage.port())).into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all(&encode_request(&Request::Names)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    };
    let readers = [0; 3].map(slow);
    let mut first = [0; 1000];
    (&readers[0]).read_exact(&mut first).unwrap();
    stage.upgrade();
    stage.upgrade();
    for (number, mut reader) in readers.into_iter().enumerate() {
        let mut reply = if number == 0 { first.to_vec() } else { Vec::new() };
        reader.read_to_end(&mut reply).unwrap();
        assert_eq!(decode_names_reply(&reply).unwrap().nodes().count(), nodes.len());
    }
}

#[test]
fn whoever_follows_the_api_is_let_go_and_finds_it_at_the_same_address() {
    let stage = Stage::start(&[]);
    let _node = stage.register("n", 5000);
    let before = stage.nodes();
    stage.upgrade();
    assert_eq!(stage.nodes(), before);
}
