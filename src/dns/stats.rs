//! What is counted of DNS.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::metrics::Counter;

/// The types of questions that are told apart; the last stands for all others.
pub const TYPES: [&str; 7] = ["A", "AAAA", "SRV", "PTR", "SOA", "NS", "other"];

/// The codes of answers that are told apart; the last stands for all others.
pub const CODES: [&str; 6] = ["NOERROR", "NXDOMAIN", "REFUSED", "SERVFAIL", "FORMERR", "other"];

/// Counted since the start of the daemon.
#[derive(Debug, Default)]
pub struct Stats {
    questions: [Counter; TYPES.len()],
    answers: [Counter; CODES.len()],
    /// Answers that were cut, because they did not fit a datagram.
    pub truncated: Counter,
    /// Questions that other name servers were asked.
    pub forwarded: Counter,
    /// Questions that were not answered, or with the advice to come by TCP, because their network asks too much.
    pub limited: Counter,
}

impl Stats {
    pub(super) fn asked(&self, record_type: RecordType) {
        let index = match record_type {
            RecordType::A => 0,
            RecordType::AAAA => 1,
            RecordType::SRV => 2,
            RecordType::PTR => 3,
            RecordType::SOA => 4,
            RecordType::NS => 5,
            _ => 6,
        };
        self.questions[index].add();
    }

    pub(super) fn answered(&self, code: ResponseCode) {
        let index = match code {
            ResponseCode::NoError => 0,
            ResponseCode::NXDomain => 1,
            ResponseCode::Refused => 2,
            ResponseCode::ServFail => 3,
            ResponseCode::FormErr => 4,
            _ => 5,
        };
        self.answers[index].add();
    }

    /// How many questions there were of each of [`TYPES`].
    pub fn questions(&self) -> impl Iterator<Item = (&'static str, u64)> {
        TYPES.into_iter().zip(self.questions.iter().map(Counter::get))
    }

    /// How many answers there were with each of [`CODES`].
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CODES.into_iter().zip(self.answers.iter().map(Counter::get))
    }
}
