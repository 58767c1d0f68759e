//! Answers, and how they are made to fit.

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::Record;

use super::request::{EDNS_MAX, Request};

/// What is answered.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    /// Whether it is about one of our zones.
    pub(super) is_authoritative: bool,
}

impl Reply {
    /// A code alone.
    pub(super) fn code(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new(), is_authoritative: false }
    }

    /// Writes the answer in `bytes_max` bytes at most: where not all of it fits, the first records that do, and the
    /// mark that there are more. Whether it was cut is told too.
    pub(super) fn write(mut self, request: &Request, recurses: bool, bytes_max: usize) -> (Vec<u8>, bool) {
        let mut message = Message::response(request.id, request.op_code);
        message.metadata.authoritative = self.is_authoritative;
        message.metadata.recursion_desired = request.recursion_desired;
        message.metadata.recursion_available = recurses;
        message.metadata.response_code = self.code;
        message.queries.extend(request.query.clone());
        if request.has_edns {
            let mut edns = Edns::new();
            edns.set_max_payload(EDNS_MAX).set_version(0);
            message.edns = Some(edns);
        }
        // Bytes are counted here: hickory-proto 0.26.3 drops the OPT record when it cuts, and leaves rests of records.
        let bare = encode(&message).map_or(usize::MAX, |bytes| bytes.len());
        message.answers = std::mem::take(&mut self.answers);
        message.authorities = std::mem::take(&mut self.authorities);
        loop {
            let bytes = encode(&message);
            let length = bytes.as_ref().map_or(usize::MAX, Vec::len);
            if length <= bytes_max {
                return (bytes.unwrap_or_default(), message.metadata.truncation);
            }
            message.metadata.truncation = true;
            message.authorities.clear();
            let count = message.answers.len();
            if count == 0 {
                // The question alone is too long for the asker: the head says so.
                message.queries.clear();
                message.edns = None;
                return (encode(&message).unwrap_or_default(), true);
            }
            let fits = (bytes_max.saturating_sub(bare) * count).checked_div(length - bare).unwrap_or(0);
            message.answers.truncate(fits.min(count - 1));
        }
    }
}

/// `None`: it is more than any message can be.
fn encode(message: &Message) -> Option<Vec<u8>> {
    message.to_vec().ok()
}
