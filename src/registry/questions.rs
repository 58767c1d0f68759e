//! A bound on the questions to the store that are under way: in all, and for each asker.
//!
//! Whoever may look up can ask for as many names as fit the wire, and each that nobody has asked for of late is a
//! question to the one store of all daemons.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::metrics::Counter;

/// Questions under way in all.
const ALL_MAX: usize = 1024;

/// Questions under way for one asker.
const OF_ASKER_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Questions {
    all: Semaphore,
    /// Of those who ask now.
    askers: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
    /// How many waited for their turn in vain.
    pub(super) left_out: Counter,
}

impl Default for Questions {
    fn default() -> Self {
        Self { all: Semaphore::new(ALL_MAX), askers: Mutex::default(), left_out: Counter::new() }
    }
}

/// The right to ask the store one question.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    _of_all: SemaphorePermit<'a>,
    _of_asker: Option<OfAsker<'a>>,
}

impl Questions {
    /// Waits for a turn in the order of those who came, for `patience` at most; `None` then. `asker`: who
    /// asks, if it is not the daemon itself.
    pub(super) async fn admit(&self, asker: Option<IpAddr>, patience: Duration) -> Option<Permit<'_>> {
        let admitted = timeout(patience, async {
            let of_asker = match asker {
                Some(asker) => Some(OfAsker::wait(self, network_of(asker)).await),
                None => None,
            };
            let of_all = self.all.acquire().await.expect("it is never closed");
            Permit { _of_all: of_all, _of_asker: of_asker }
        });
        let admitted = admitted.await.ok();
        if admitted.is_none() {
            self.left_out.add();
        }
        admitted
    }

    fn askers(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of an asker's questions, or the wait for it.
#[derive(Debug)]
struct OfAsker<'a> {
    questions: &'a Questions,
    asker: IpAddr,
    turns: Arc<Semaphore>,
    is_admitted: bool,
}

impl<'a> OfAsker<'a> {
    async fn wait(questions: &'a Questions, asker: IpAddr) -> Self {
        let turns = || Arc::new(Semaphore::new(OF_ASKER_MAX));
        let turns = Arc::clone(questions.askers().entry(asker).or_insert_with(turns));
        let mut waiting = Self { questions, asker, turns, is_admitted: false };
        waiting.turns.acquire().await.expect("it is never closed").forget();
        waiting.is_admitted = true;
        waiting
    }
}

impl Drop for OfAsker<'_> {
    fn drop(&mut self) {
        if self.is_admitted {
            self.turns.add_permits(1);
        }
        let mut askers = self.questions.askers();
        // Its last: the map has the other reference.
        if Arc::strong_count(&self.turns) == 2 {
            askers.remove(&self.asker);
        }
    }
}

/// Whom an address counts for: whoever has an IPv6 address usually has 2^64 of them.
fn network_of(asker: IpAddr) -> IpAddr {
    match asker {
        IpAddr::V4(_) => asker,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(500);

    fn address(number: usize) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()]))
    }

    #[tokio::test(start_paused = true)]
    async fn one_asker_leaves_room_for_others_and_all_askers_together_have_a_bound() {
        let questions = Questions::default();
        let mut under_way = Vec::new();
        for asker in 0..ALL_MAX / OF_ASKER_MAX {
            for _ in 0..OF_ASKER_MAX {
                under_way.push(questions.admit(address(asker), PATIENCE).await.unwrap());
            }
            assert!(questions.admit(address(asker), PATIENCE).await.is_none());
        }
        assert!(questions.admit(address(99), PATIENCE).await.is_none());
        assert!(questions.admit(None, PATIENCE).await.is_none());
        assert_eq!(questions.left_out.get(), 6);
        let (next, ()) = tokio::join!(questions.admit(address(0), PATIENCE), async { under_way.clear() });
        drop(next.expect("its turn came while it waited"));
        assert!(questions.askers().is_empty(), "nobody asks");
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_asker() {
        let [one, two, other] =
            ["2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        assert_eq!(network_of(one), network_of(two));
        assert_ne!(network_of(one), network_of(other));
    }
}
