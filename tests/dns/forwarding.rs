//! Names of other zones, when this is the only name server of a machine.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use repmd::dns;
use repmd::server::Policy;

use crate::stage::{Face, addresses, name, options};

fn forwarding_to(face: &Face) -> dns::Options {
    dns::Options { forward: vec![face.asked.0], ..options() }
}

/// One daemon asks another, which has a zone that the first has not.
#[test]
fn other_zones_are_asked_for_elsewhere_and_ours_are_not() {
    let there = Face::start(dns::Options { zones: vec![name("other")], ..options() }, Policy::default());
    let face = Face::start(forwarding_to(&there), Policy::default());
    let answer = face.asked.ask("here.other", RecordType::A);
    assert_eq!(addresses(&answer), ["10.0.0.1"]);
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    let absent = face.asked.ask("nobody.other", RecordType::A);
    assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
    assert!(matches!(absent.authorities[0].data, RData::SOA(_)));
    let none = face.asked.ask("here.other", RecordType::MX);
    assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(addresses(&face.asked.ask("here.repmd", RecordType::A)), ["10.0.0.1"]);
}

#[test]
fn a_name_server_that_never_answers_holds_up_nobody_else() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let options = dns::Options { forward: vec![silent.local_addr().unwrap()], ..options() };
    let face = Face::start(options, Policy::default());
    let asking = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..300 {
        let asked = format!("host{number}.example");
        asking.send_to(&crate::stage::question(&asked, RecordType::A, None), face.asked.0).unwrap();
        // As fast as it is answered: what does not fit the socket is lost.
        if number % 50 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let begin = Instant::now();
    assert_eq!(addresses(&face.asked.ask("here.repmd", RecordType::A)), ["10.0.0.1"]);
    assert!(begin.elapsed() < Duration::from_millis(200), "{:?}", begin.elapsed());
    asking.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut buffer = [0; 2048];
    let length = asking.recv(&mut buffer).expect("those that find no place are told so");
    let code = Message::from_vec(&buffer[..length]).unwrap().metadata.response_code;
    assert_eq!(code, ResponseCode::ServFail);
}

/// An address may be one of the registry's, which is known only once that has been asked.
#[test]
fn names_of_the_registry_wait_for_no_name_server() {
    use repmd_backend_faulty::Link;

    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let options = dns::Options { forward: vec![silent.local_addr().unwrap()], ..options() };
    let face = Face::start(options, Policy::default());
    // What was known at the start counts no longer.
    std::thread::sleep(Duration::from_millis(1100));
    face.link.set_link(Link::Stalled);
    let asking = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..64 {
        let asked = format!("{number}.2.0.192.in-addr.arpa");
        asking.send_to(&crate::stage::question(&asked, RecordType::PTR, None), face.asked.0).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    face.link.set_link(Link::Up);
    // Now it is known that all of them are for the name server.
    std::thread::sleep(Duration::from_millis(100));
    let code = face.asked.ask("nobody.nodes.repmd", RecordType::A).metadata.response_code;
    assert_eq!(code, ResponseCode::NXDomain);
}

/// Another server's answers are passed on as they are.
#[test]
fn an_answer_of_another_server_is_remembered_as_long_as_it_says() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let options = dns::Options { forward: vec![server.local_addr().unwrap()], ..options() };
    let face = Face::start(options, Policy::default());
    let serving = std::thread::spawn(move || {
        server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let mut buffer = [0; 2048];
        let mut answered = 0;
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
            reply.queries.clone_from(&asked.queries);
            let data = RData::A(A::new(192, 0, 2, 1));
            reply.add_answer(Record::from_rdata(asked.queries[0].name.clone(), 60, data));
            server.send_to(&reply.to_vec().unwrap(), from).unwrap();
            answered += 1;
        }
        answered
    });
    for _ in 0..5 {
        let answer = face.asked.ask("www.example", RecordType::A);
        assert_eq!(addresses(&answer), ["192.0.2.1"]);
        assert!((58..=60).contains(&answer.answers[0].ttl));
    }
    assert_eq!(serving.join().unwrap(), 1);
}
