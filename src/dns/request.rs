//! What a packet asks for.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

/// Most bytes of an answer in a datagram for those who do not say what they can take (RFC 1035).
const PLAIN_MAX: usize = 512;

/// Most bytes for those who say that they can take more: what passes every network whole (DNS flag day 2020).
pub(super) const EDNS_MAX: u16 = 1232;

/// A question, and what its answer must repeat.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: u16,
    pub(super) op_code: OpCode,
    pub(super) recursion_desired: bool,
    /// None where the packet cannot be read.
    pub(super) query: Option<Query>,
    /// Whether the asker speaks EDNS (RFC 6891).
    pub(super) has_edns: bool,
    /// What fits a datagram for this asker.
    pub(super) datagram_max: usize,
    /// How long the packet was.
    pub(super) length: usize,
}

impl Request {
    /// Reads a packet. `None`: it gets no answer, because it is one itself or too short for any. With the code of the
    /// answer, where that does not depend on what is asked for.
    pub(super) fn read(packet: &[u8]) -> Option<(Self, Result<(), ResponseCode>)> {
        let [id0, id1, flags, _, _, _, _, _, _, _, _, _, ..] = *packet else { return None };
        if flags & 0x80 != 0 {
            return None;
        }
        let unreadable = Self {
            id: u16::from_be_bytes([id0, id1]),
            op_code: OpCode::from_u8((flags >> 3) & 0x0f),
            recursion_desired: flags & 1 != 0,
            query: None,
            has_edns: false,
            datagram_max: PLAIN_MAX,
            length: packet.len(),
        };
        if unreadable.op_code != OpCode::Query {
            return Some((unreadable, Err(ResponseCode::NotImp)));
        }
        let Ok(message) = Message::from_vec(packet) else {
            return Some((unreadable, Err(ResponseCode::FormErr)));
        };
        let query = match &*message.queries {
            [query] if message.metadata.message_type == MessageType::Query => query.clone(),
            _ => return Some((unreadable, Err(ResponseCode::FormErr))),
        };
        let result = match &message.edns {
            Some(edns) if edns.version() != 0 => Err(ResponseCode::BADVERS),
            _ if !matches!(query.query_class, DNSClass::IN | DNSClass::ANY) => Err(ResponseCode::Refused),
            _ if matches!(query.query_type, RecordType::AXFR | RecordType::IXFR) => {
                Err(ResponseCode::Refused)
            }
            _ => Ok(()),
        };
        let edns_max = message.edns.as_ref().map(|edns| edns.max_payload().min(EDNS_MAX));
        let request = Self {
            query: Some(query),
            has_edns: edns_max.is_some(),
            datagram_max: edns_max.map_or(PLAIN_MAX, |max| usize::from(max).max(PLAIN_MAX)),
            ..unreadable
        };
        Some((request, result))
    }
}
