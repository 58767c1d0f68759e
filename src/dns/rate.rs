//! A bound on the answers to one network: whoever forges the address of another must not drown it with ours
//! (response rate limiting).

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Networks that are told apart. Those that share a place share a rate; who does differs from run to run.
const PLACES: usize = 4096;

const SECOND: Duration = Duration::from_secs(1);

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

#[derive(Debug)]
pub(super) struct Rate {
    a_second: u32,
    places: Vec<(Instant, u32)>,
    hash: RandomState,
}

impl Rate {
    pub(super) fn new(a_second: u32) -> Self {
        Self { a_second, places: vec![(Instant::now(), 0); PLACES], hash: RandomState::new() }
    }

    /// `peer` asks at `now`.
    pub(super) fn judge(&mut self, peer: IpAddr, now: Instant) -> Verdict {
        let place = self.hash.hash_one(network_of(peer)) as usize % PLACES;
        let (since, count) = &mut self.places[place];
        if SECOND <= now.saturating_duration_since(*since) {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        if *count <= self.a_second {
            Verdict::Answer
        } else if *count % 2 == 0 {
            Verdict::Slip
        } else {
            Verdict::Drop
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
    use super::*;

    #[test]
    fn beyond_its_rate_a_network_gets_every_second_answer_by_tcp_and_others_get_all() {
        let mut rate = Rate::new(10);
        let start = Instant::now();
        let mut verdicts = |last: u8, net: u8, now| {
            let judged = (0..20).map(|_| rate.judge(IpAddr::from([198, 51, net, last]), now));
            let judged: Vec<_> = judged.collect();
            [Verdict::Answer, Verdict::Slip, Verdict::Drop]
                .map(|verdict| judged.iter().filter(|judged| **judged == verdict).count())
        };
        assert_eq!(verdicts(1, 1, start), [10, 5, 5]);
        assert_eq!(verdicts(2, 1, start), [0, 10, 10], "the same network");
        // One in 4,096 runs two networks share a place.
        assert_eq!(verdicts(1, 2, start), [10, 5, 5], "another network");
        assert_eq!(verdicts(1, 1, start + SECOND), [10, 5, 5], "a second later");
    }

    #[test]
    fn a_network_is_a_24_or_a_56() {
        let network = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.77"), "192.0.2.0");
        assert_eq!(network("2001:db8:1:2ff::9"), "2001:db8:1:200::");
    }
}
