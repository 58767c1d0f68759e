//! What the targets in `fuzz/` reach of DNS.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_proto::op::Message;
use repmd_backend_api::{HostId, Instance, InstanceId};
use repmd_backend_memory::Memory;
use tokio_util::sync::CancellationToken;

use super::face::{Asker, Face, Step};
use super::request::EDNS_MAX;
use super::{Options, Rules};
use crate::registry::{self, Lookup, Registry};
use crate::server::{Daemon, Limits, Policy, Topology};

/// Any packet gets an answer that can be read and fits, or none; a stranger's is at most ten times as long.
///
/// # Panics
/// Where that is not so.
pub fn question(packet: &[u8]) {
    static FACE: OnceLock<Face> = OnceLock::new();
    let face = FACE.get_or_init(face);
    for (peer, by_tcp) in [([127, 0, 0, 1], false), ([127, 0, 0, 1], true), ([198, 51, 100, 1], false)] {
        let is_stranger = peer[0] != 127;
        let asker = Asker { peer: peer.into(), local: None, by_tcp };
        let reply = match face.begin(packet, asker) {
            Step::Reply(reply) => reply,
            Step::Silence => continue,
            Step::Wait(_) => unreachable!("a registry in memory never keeps anybody waiting"),
        };
        let read = Message::from_vec(&reply).expect("it can be read");
        assert_eq!(read.metadata.id.to_be_bytes(), packet[..2]);
        assert!(by_tcp || reply.len() <= usize::from(EDNS_MAX));
        assert!(!is_stranger || reply.len() <= 10 * packet.len());
    }
}

fn face() -> Face {
    let host = |name| HostId::parse(name).expect("it is a name");
    let instance = Instance {
        id: InstanceId(1),
        name: "here:4369".to_owned(),
        host: host("here"),
        aliases: vec![host("here.deep.site"), host("here.repmd")],
        addresses: (1..100).map(|last| [10, 0, 0, last].into()).collect(),
        port: 4369,
    };
    let options = registry::Options {
        lookup: Lookup::Cluster,
        stale_for: None,
        deadline: Duration::from_millis(500),
        clock: Arc::new(|| Duration::from_secs(1_800_000_000)),
        probe: Arc::new(|_, _| Box::pin(async { false })),
    };
    let instance = Arc::new(instance);
    let backend = Arc::new(Memory::new().attach(Arc::clone(&instance)));
    let registry = Arc::new(Registry::new(backend, instance, options));
    let (policy, limits) = (Policy::default(), Limits::for_descriptors(1024));
    let daemon = Daemon::new(registry, policy, Topology::default(), limits, CancellationToken::new());
    let second = Duration::from_secs(1);
    let options = Options {
        addresses: Vec::new(),
        zones: ["repmd.", "deep.site."].map(|zone| zone.parse().expect("it is a zone")).into(),
        ttl: second,
        negative_ttl: second,
        forward: Vec::new(),
        rate: u32::MAX,
    };
    let rules = Rules { virtual_hosts: std::collections::BTreeMap::new() };
    Face::new(Arc::new(daemon), options, rules, Arc::default()).expect("nothing is forwarded")
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Query};
    use hickory_proto::rr::RecordType;

    use super::*;

    #[test]
    fn a_stranger_gets_ten_times_the_bytes_that_came_at_most_and_others_what_fits() {
        let mut message = Message::query();
        message.add_query(Query::query("here.repmd.".parse().unwrap(), RecordType::A));
        let plain = message.to_vec().unwrap();
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_MAX);
        message.edns = Some(edns);
        let with_edns = message.to_vec().unwrap();
        let face = face();
        let told = |packet: &[u8], peer: &str| {
            let asker = Asker { peer: peer.parse().unwrap(), local: None, by_tcp: false };
            let Step::Reply(reply) = face.begin(packet, asker) else { panic!("it is known") };
            let message = Message::from_vec(&reply).unwrap();
            assert!(message.metadata.truncation && !message.answers.is_empty());
            reply.len()
        };
        for packet in [&plain, &with_edns] {
            question(packet);
            let (stranger, near) = (told(packet, "198.51.100.1"), told(packet, "10.9.9.9"));
            assert!(stranger <= 10 * packet.len(), "{stranger} for {}", packet.len());
            assert!(10 * packet.len() < near, "{near} for {}", packet.len());
        }
    }
}
