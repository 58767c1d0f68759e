//! Tasks that take a place, and the bound on how many may.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::metrics::Counter;

/// A bounded queue. Whoever comes when it is full takes the place of the one that came first.
#[derive(Debug)]
pub(crate) struct Queue {
    places_max: usize,
    places_per_peer_max: usize,
    places: Mutex<VecDeque<(Option<IpAddr>, Arc<CancellationToken>)>>,
    ended: Counter,
}

/// A place in the queue, which ends with this value.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    queue: &'a Queue,
    over: Arc<CancellationToken>,
}

impl Queue {
    pub(crate) fn new(places_max: usize) -> Self {
        Self {
            places_max,
            places_per_peer_max: usize::MAX,
            places: Mutex::default(),
            ended: Counter::default(),
        }
    }

    /// The same, with so many places for one address at most: whoever takes more loses its own first one.
    pub(crate) fn with_places_per_peer_max(self, places_per_peer_max: usize) -> Self {
        Self { places_per_peer_max, ..self }
    }

    pub(crate) fn join(&self, peer: Option<IpAddr>) -> Place<'_> {
        let over = Arc::new(CancellationToken::new());
        let mut places = self.lock();
        places.push_back((peer, Arc::clone(&over)));
        let of_peer = |(other, _): &&(Option<IpAddr>, _)| peer.is_some() && *other == peer;
        if self.places_per_peer_max < places.iter().filter(of_peer).count() {
            let first = places.iter().position(|place| of_peer(&place));
            self.end(first.and_then(|first| places.remove(first)));
        }
        if self.places_max < places.len() {
            self.end(places.pop_front());
        }
        drop(places);
        Place { queue: self, over }
    }

    /// Ends the oldest place. `false`: nobody has one.
    pub(crate) fn end_oldest(&self) -> bool {
        let oldest = self.lock().pop_front();
        self.end(oldest)
    }

    fn end(&self, place: Option<(Option<IpAddr>, Arc<CancellationToken>)>) -> bool {
        let Some((_, over)) = place else { return false };
        over.cancel();
        self.ended.add();
        true
    }

    /// How many were ended.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.get()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Option<IpAddr>, Arc<CancellationToken>)>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Until others need the place.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.lock().retain(|(_, over)| !Arc::ptr_eq(over, &self.over));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_over(place: &Place<'_>) -> bool {
        place.over.is_cancelled()
    }

    #[test]
    fn whoever_comes_to_a_full_queue_takes_the_place_of_the_first() {
        let queue = Queue::new(2);
        let (one, two) = (queue.join(None), queue.join(None));
        drop(two);
        let (two, three) = (queue.join(None), queue.join(None));
        assert_eq!([&one, &two, &three].map(is_over), [true, false, false]);
        assert!(queue.end_oldest() && is_over(&two) && !is_over(&three));
        assert_eq!(queue.ended(), 2);
    }

    #[test]
    fn one_peer_takes_no_place_of_another() {
        let queue = Queue::new(4).with_places_per_peer_max(2);
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from).map(Some);
        let kept = queue.join(other);
        let flood: Vec<_> = (0..9).map(|_| queue.join(one)).collect();
        assert!(!is_over(&kept));
        assert_eq!(flood.iter().filter(|place| !is_over(place)).count(), 2);
    }
}
