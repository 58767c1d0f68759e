//! A bound on the answers to one network: whoever forges the address of another must not drown it with ours
//! (response rate limiting).

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use crate::rate::Rate;

/// What to do with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer it.
    Answer,
    /// Say that the answer is to be had by TCP, where nobody can forge an address: who really asks comes again.
    Slip,
    /// Say nothing.
    Drop,
}

/// The rates of all networks.
#[derive(Debug)]
pub(super) struct Rates(Rate);

impl Rates {
    pub(super) fn new(a_second: u32) -> Self {
        Self(Rate::new(a_second))
    }

    /// `peer` asks at `now`.
    pub(super) fn judge(&mut self, peer: IpAddr, now: Instant) -> Verdict {
        match self.0.excess(network_of(peer), now) {
            0 => Verdict::Answer,
            excess if excess % 2 == 1 => Verdict::Slip,
            _ => Verdict::Drop,
        }
    }
}

/// The /24 or /56 that an address is in.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            [a, b, c, 0].into()
        }
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 72 << 72).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn beyond_its_rate_a_network_gets_every_second_answer_by_tcp_and_others_get_all() {
        let mut rates = Rates::new(10);
        let start = Instant::now();
        let mut verdicts = |last: u8, net: u8, now| {
            let judged = (0..20).map(|_| rates.judge(IpAddr::from([198, 51, net, last]), now));
            let judged: Vec<_> = judged.collect();
            [Verdict::Answer, Verdict::Slip, Verdict::Drop]
                .map(|verdict| judged.iter().filter(|judged| **judged == verdict).count())
        };
        assert_eq!(verdicts(1, 1, start), [10, 5, 5]);
        assert_eq!(verdicts(2, 1, start), [0, 10, 10], "the same network");
        assert_eq!(verdicts(1, 2, start), [10, 5, 5], "another network");
        assert_eq!(verdicts(1, 1, start + Duration::from_secs(1)), [10, 5, 5], "a second later");
    }

    #[test]
    fn a_network_is_a_24_or_a_56() {
        let network = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.77"), "192.0.2.0");
        assert_eq!(network("2001:db8:1:2ff::9"), "2001:db8:1:200::");
    }
}
