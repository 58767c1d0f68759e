//! Connections that wait for their peer, and the bound on how many may.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;

use super::table::{forget_unread, hang_up};
use crate::metrics::Counter;

/// A bounded set of connections. Whoever comes when it is full ends the one that has waited longest: a
/// peer that means it is done in microseconds, so the oldest is the least likely to be missed.
#[derive(Debug)]
pub(super) struct Crowd {
    members_max: usize,
    members_per_peer_max: usize,
    bytes_max: usize,
    members: Mutex<Members>,
    ended: Counter,
}

#[derive(Debug, Default)]
struct Members {
    next: u64,
    by_age: BTreeMap<u64, Waits>,
    by_peer: HashMap<IpAddr, BTreeSet<u64>>,
    /// The replies that members keep in memory, by their address, and how many keep each.
    replies: HashMap<usize, usize>,
    /// Of all these replies together.
    bytes: usize,
}

#[derive(Debug)]
struct Waits {
    peer: IpAddr,
    socket: Arc<TcpStream>,
    /// What it has yet to read, or nothing. Members may share one.
    reply: Arc<Vec<u8>>,
}

/// A connection's membership; it ends with this value.
#[derive(Debug)]
pub(super) struct Member<'a> {
    crowd: &'a Crowd,
    number: u64,
}

impl Crowd {
    pub(super) fn new(members_max: usize, members_per_peer_max: usize) -> Self {
        Self {
            members_max,
            members_per_peer_max,
            bytes_max: usize::MAX,
            members: Mutex::default(),
            ended: Counter::default(),
        }
    }

    /// The same, whose members keep so many bytes of replies in all. The newest may keep its own, however long.
    pub(super) fn with_bytes_max(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }

    /// Lets a connection in, and hangs up on the oldest ones that are then too many.
    pub(super) fn join(&self, peer: IpAddr, socket: &Arc<TcpStream>) -> Member<'_> {
        self.join_with(peer, socket, &Arc::default())
    }

    /// The same for one that has yet to read `reply`.
    pub(super) fn join_with(
        &self,
        peer: IpAddr,
        socket: &Arc<TcpStream>,
        reply: &Arc<Vec<u8>>,
    ) -> Member<'_> {
        let mut members = self.lock();
        let number = members.add(Waits { peer, socket: Arc::clone(socket), reply: Arc::clone(reply) });
        let of_peer = &members.by_peer[&peer];
        let one_too_many = self.members_per_peer_max < of_peer.len() && !peer.is_loopback();
        if let Some(oldest) = of_peer.first().copied().filter(|_| one_too_many) {
            members.end(oldest);
            self.ended.add();
        }
        while 1 < members.by_age.len()
            && (self.members_max < members.by_age.len() || self.bytes_max < members.bytes)
            && members.end_oldest()
        {
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

    /// How many have waited since the start.
    pub(super) fn joined(&self) -> u64 {
        self.lock().next
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
    fn add(&mut self, waits: Waits) -> u64 {
        let number = self.next;
        self.next += 1;
        self.by_peer.entry(waits.peer).or_default().insert(number);
        let sharers = self.replies.entry(address_of(&waits.reply)).or_default();
        *sharers += 1;
        if *sharers == 1 {
            self.bytes += waits.reply.len();
        }
        self.by_age.insert(number, waits);
        number
    }

    fn end_oldest(&mut self) -> bool {
        let oldest = self.by_age.first_key_value().map(|(number, _)| *number);
        oldest.map(|oldest| self.end(oldest)).is_some()
    }

    fn end(&mut self, number: u64) {
        if let Some(Waits { socket, reply, .. }) = self.forget(number) {
            if !reply.is_empty() {
                forget_unread(&*socket);
            }
            hang_up(&*socket);
        }
    }

    fn forget(&mut self, number: u64) -> Option<Waits> {
        let waits = self.by_age.remove(&number)?;
        if let Some(of_peer) = self.by_peer.get_mut(&waits.peer) {
            of_peer.remove(&number);
            if of_peer.is_empty() {
                self.by_peer.remove(&waits.peer);
            }
        }
        let address = address_of(&waits.reply);
        if let Some(sharers) = self.replies.get_mut(&address) {
            *sharers -= 1;
            if *sharers == 0 {
                self.replies.remove(&address);
                self.bytes -= waits.reply.len();
            }
        }
        Some(waits)
    }
}

/// Which reply it is: members that share one keep it in memory once.
fn address_of(reply: &Arc<Vec<u8>>) -> usize {
    Arc::as_ptr(reply).addr()
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.crowd.lock().forget(self.number);
    }
}
