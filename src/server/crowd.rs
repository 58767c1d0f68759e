//! Connections that wait for their peer, and the bound on how many may.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;

use super::table::hang_up;
use crate::metrics::Counter;

/// A bounded set of connections. Whoever comes when it is full ends the one that has waited longest: a
/// peer that means it is done in microseconds, so the oldest is the least likely to be missed.
#[derive(Debug)]
pub(super) struct Crowd {
    members_max: usize,
    members_per_peer_max: usize,
    members: Mutex<Members>,
    ended: Counter,
}

#[derive(Debug, Default)]
struct Members {
    next: u64,
    by_age: BTreeMap<u64, (IpAddr, Arc<TcpStream>)>,
    by_peer: HashMap<IpAddr, BTreeSet<u64>>,
}

/// A connection's membership; it ends with this value.
#[derive(Debug)]
pub(super) struct Member<'a> {
    crowd: &'a Crowd,
    number: u64,
}

impl Crowd {
    pub(super) fn new(members_max: usize, members_per_peer_max: usize) -> Self {
        Self { members_max, members_per_peer_max, members: Mutex::default(), ended: Counter::default() }
    }

    /// Lets a connection in, and hangs up on the oldest one if that makes one too many.
    pub(super) fn join(&self, peer: IpAddr, socket: &Arc<TcpStream>) -> Member<'_> {
        let mut members = self.lock();
        let number = members.next;
        members.next += 1;
        members.by_age.insert(number, (peer, Arc::clone(socket)));
        let of_peer = members.by_peer.entry(peer).or_default();
        of_peer.insert(number);
        let one_too_many = self.members_per_peer_max < of_peer.len() && !peer.is_loopback();
        if let Some(oldest) = of_peer.first().copied().filter(|_| one_too_many) {
            members.end(oldest);
            self.ended.add();
        }
        if self.members_max < members.by_age.len() && members.end_oldest() {
            self.ended.add();
        }
        Member { crowd: self, number }
    }

    /// Hangs up on the connection that has waited longest. `false`: nobody waits.
    pub(super) fn end_oldest(&self) -> bool {
        let is_ended = self.lock().end_oldest();
        if is_ended {
            self.ended.add();
        }
        is_ended
    }

    /// How many connections wait.
    pub(super) fn len(&self) -> usize {
        self.lock().by_age.len()
    }

    /// How many were hung up on.
    pub(super) fn ended(&self) -> u64 {
        self.ended.get()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members {
    fn end_oldest(&mut self) -> bool {
        let oldest = self.by_age.first_key_value().map(|(number, _)| *number);
        oldest.map(|oldest| self.end(oldest)).is_some()
    }

    fn end(&mut self, number: u64) {
        if let Some(socket) = self.forget(number) {
            hang_up(&*socket);
        }
    }

    fn forget(&mut self, number: u64) -> Option<Arc<TcpStream>> {
        let (peer, socket) = self.by_age.remove(&number)?;
        if let Some(of_peer) = self.by_peer.get_mut(&peer) {
            of_peer.remove(&number);
            if of_peer.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
        Some(socket)
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.crowd.lock().forget(self.number);
    }
}
