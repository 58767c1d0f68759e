//! Answers, and how they are made to fit.

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::Record;

use super::request::{EDNS_MAX, Request};

/// The shortest record that is answered: an address, with a pointer for its name.
const RECORD_BYTES_MIN: usize = 16;

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

    /// Says that the answer is to be had by TCP, whatever it is.
    pub(super) fn by_tcp(request: &Request) -> Vec<u8> {
        let mut message = Message::response(request.id, request.op_code);
        message.metadata.truncation = true;
        message.metadata.recursion_desired = request.recursion_desired;
        message.queries.extend(request.query.clone());
        encode(&message).unwrap_or_default()
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
        // What cannot fit whatever it is is not encoded first: that takes time, and hickory-proto compresses the names
        // of some records alone.
        let records_max = bytes_max.saturating_sub(bare) / RECORD_BYTES_MIN;
        message.metadata.truncation = records_max < self.answers.len();
        self.answers.truncate(records_max);
        message.answers = std::mem::take(&mut self.answers);
        message.authorities = std::mem::take(&mut self.authorities);
        loop {
            let bytes = encode(&message);
            let length = bytes.as_ref().map_or(usize::MAX, Vec::len);
            if length <= bytes_max {
                return (bytes.unwrap_or_default(), message.metadata.truncation);
            }
            message.metadata.truncation = true;
            if !message.authorities.is_empty() {
                message.authorities.clear();
                continue;
            }
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
