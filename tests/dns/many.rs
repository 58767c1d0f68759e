//! More answers than fit.

use std::collections::HashSet;

use hickory_proto::rr::RecordType;
use repmd::server::Policy;
use repmd_test_support::wait_until;

use crate::SOON;
use crate::stage::{Face, addresses, instance, options};

const HOSTS: usize = 300;

fn start() -> Face {
    let face = Face::start(options(), Policy::default());
    for number in 0..HOSTS {
        let address = format!("10.1.{}.{}", number / 250, number % 250 + 1);
        let v6 = format!("2001:db8::{number}");
        face.register(instance(&format!("host{number}"), &[], &[&address, &v6]), "my_app", 9100);
    }
    wait_until("all are known", SOON, || {
        addresses(&face.asked.ask_by_tcp("my_app.nodes.repmd", RecordType::A)).len() == HOSTS
    });
    face
}

#[test]
fn of_300_hosts_a_datagram_has_a_random_part_that_fits_and_tcp_has_all() {
    let face = start();
    for (kind, edns, fits) in [
        (RecordType::A, None, 29),
        (RecordType::AAAA, None, 17),
        (RecordType::SRV, None, 10),
        (RecordType::A, Some(4096), 73),
        (RecordType::A, Some(1232), 73),
        (RecordType::A, Some(100), 28),
    ] {
        let answer = face.asked.ask_with("my_app.nodes.repmd", kind, edns);
        let bytes = answer.to_vec().unwrap().len();
        let max = edns.map_or(512, |max| max.clamp(512, 1232)).into();
        assert!(bytes <= max, "{kind} {edns:?}: {bytes} bytes");
        assert!(answer.metadata.truncation, "{kind} {edns:?}");
        assert!(fits <= answer.answers.len(), "{kind} {edns:?}: {} fit", answer.answers.len());
        assert_eq!(answer.edns.is_some(), edns.is_some(), "{kind} {edns:?}");
    }
    let parts = (0..100).flat_map(|_| addresses(&face.asked.ask("my_app.nodes.repmd", RecordType::A)));
    assert_eq!(parts.collect::<HashSet<_>>().len(), HOSTS, "over time all are told");
    let whole = face.asked.ask_by_tcp("my_app.nodes.repmd", RecordType::SRV);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (HOSTS, false));
}
