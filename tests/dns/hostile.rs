//! Packets that no resolver sends, and peers that ask too much.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use repmd::server::Policy;

use crate::SOON;
use crate::stage::{Face, addresses, options, question};

#[test]
fn what_cannot_be_read_is_said_to_be_so_and_answers_get_none() {
    let face = Face::start(options(), Policy::default());
    let whole = question("here.repmd", RecordType::A, Some(1232));
    let code = |packet: &[u8]| {
        let reply = face.asked.send(packet)?;
        assert_eq!(reply[..2], packet[..2], "the number of the question");
        Some(Message::from_vec(&reply).unwrap().metadata.response_code)
    };
    assert_eq!(code(&whole), Some(ResponseCode::NoError));
    assert_eq!(code(&whole[..whole.len() - 1]), Some(ResponseCode::FormErr), "cut short");
    assert_eq!(code(&whole[..12]), Some(ResponseCode::FormErr), "a head alone");
    assert_eq!(code(&whole[..11]), None, "less than a head");
    let with = |at: usize, byte: u8| {
        let mut packet = whole.clone();
        packet[at] = byte;
        packet
    };
    assert_eq!(code(&with(2, 0x81)), None, "an answer");
    assert_eq!(code(&with(2, 0x20)), Some(ResponseCode::NotImp), "another operation");
    assert_eq!(code(&with(5, 0)), Some(ResponseCode::FormErr), "no question");
    assert_eq!(code(&with(5, 2)), Some(ResponseCode::FormErr), "two questions");
    let axfr = question("repmd", RecordType::AXFR, None);
    assert_eq!(code(&axfr), Some(ResponseCode::Refused), "a whole zone");
}

/// Deterministic, so that a packet that fails can be found again.
#[test]
fn a_hundred_thousand_mutated_packets_change_nothing() {
    let face = Face::start(options(), Policy::default());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(face.asked.0).unwrap();
    socket.set_nonblocking(true).unwrap();
    let seeds = [
        question("here.repmd", RecordType::A, Some(1232)),
        question("app.nodes.repmd", RecordType::SRV, None),
        question("1.0.0.10.in-addr.arpa", RecordType::PTR, Some(512)),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut buffer = [0; 2048];
    for number in 0..100_000 {
        let mut packet = seeds[random.usize(..seeds.len())].clone();
        for _ in 0..random.usize(1..6) {
            match random.u8(..3) {
                0 => packet.truncate(random.usize(..=packet.len())),
                1 => packet.extend((0..random.usize(..40)).map(|_| random.u8(..))),
                _ if packet.is_empty() => {}
                _ => {
                    let at = random.usize(..packet.len());
                    packet[at] = random.u8(..);
                }
            }
        }
        // A full buffer of the socket loses packets; that is no matter here.
        let _ = socket.send(&packet);
        if number % 16 == 0 {
            while let Ok(length) = socket.recv(&mut buffer) {
                assert!(length <= 1232);
            }
        }
    }
    assert_eq!(addresses(&face.asked.ask("here.repmd", RecordType::A)), ["10.0.0.1"]);
}

#[test]
fn silent_connections_keep_nobody_from_asking_by_tcp() {
    let face = Face::start(options(), Policy::default());
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(face.asked.0).unwrap()).collect();
    let answer = face.asked.ask_by_tcp("here.repmd", RecordType::A);
    assert_eq!(addresses(&answer), ["10.0.0.1"]);
    let begin = Instant::now();
    for mut stream in silent {
        stream.set_read_timeout(Some(SOON)).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "it is ended");
    }
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
}

#[test]
fn questions_on_one_connection_are_answered_one_after_the_other() {
    let face = Face::start(options(), Policy::default());
    let mut stream = TcpStream::connect(face.asked.0).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let question = question("here.repmd", RecordType::A, None);
    let framed = [&u16::try_from(question.len()).unwrap().to_be_bytes(), &*question].concat();
    stream.write_all(&framed.repeat(10)).unwrap();
    for _ in 0..10 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(addresses(&Message::from_vec(&reply).unwrap()), ["10.0.0.1"]);
    }
}
