//! The nodes that are registered with this daemon: the first place where a look-up looks.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::{AliveName, Lease, Registration};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;

use super::carried::{CarriedNode, Departed, ServedNode};
use crate::protocol::{Response, write_active_line, write_names_line, write_old_line};

/// Names of departed nodes that DUMP still shows, as many as on the stock daemon.
const DEPARTED_MAX: usize = 1001;

/// The connection of a node, watched for its end.
pub type AliveSocket = AsyncFd<OwnedFd>;

/// Every name that is registered with this daemon, or about to be.
///
/// A name belongs to one connection, from its claim to the end of that connection. The table shares the
/// connection's socket, so that it can look whether the peer is still there, and end it.
#[derive(Debug, Default)]
pub(super) struct Table {
    holders: HashMap<AliveName, Holder>,
    /// The granted ones by the order of their grants, for NAMES.
    granted: BTreeMap<u64, Granted>,
    departed: Departures,
    /// Nodes of an earlier run that have not come back by themselves: names that are answered although nobody holds a
    /// connection for them, and the leases under which others are told of them. No list has them, and whoever registers
    /// takes the name.
    orphans: HashMap<AliveName, Lease>,
    next_claim: u64,
    /// The last answer to NAMES, until something changes.
    names: Option<(Listing, Arc<Vec<u8>>)>,
    /// The same of DUMP.
    dump: Option<(Listing, Arc<Vec<u8>>)>,
}

/// How a list of names looks to whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    /// The port of the daemon that the asker used.
    pub(super) port: u16,
    /// With the ports by which other machines reach the nodes, instead of the nodes' own.
    pub(super) advertised: bool,
}

impl Listing {
    pub(super) fn start(self) -> Vec<u8> {
        let mut reply = Vec::new();
        Response::Listing { port: self.port }.encode(&mut reply);
        reply
    }

    fn port_of(self, registration: &Registration) -> u16 {
        if self.advertised { registration.advertised_port } else { registration.node.port }
    }
}

/// Tells the claims on one name apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClaimId(pub(super) u64);

#[derive(Debug)]
struct Holder {
    claim: ClaimId,
    socket: Arc<AliveSocket>,
    /// `None` until the backend has answered: the name is taken, but nobody is told of it.
    registration: Option<Arc<Registration>>,
}

#[derive(Debug)]
struct Granted {
    registration: Arc<Registration>,
    fd: i32,
}

/// The last names that departed and did not come back.
#[derive(Debug, Default)]
struct Departures {
    by_age: BTreeMap<u64, Departed>,
    by_name: HashMap<AliveName, u64>,
    count: u64,
}

impl Departures {
    fn push(&mut self, departed: Departed) {
        self.count += 1;
        self.by_name.insert(departed.name.clone(), self.count);
        self.by_age.insert(self.count, departed);
        if DEPARTED_MAX < self.by_age.len()
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_name.remove(&oldest.name);
        }
    }

    fn forget(&mut self, name: &AliveName) {
        if let Some(number) = self.by_name.remove(name) {
            self.by_age.remove(&number);
        }
    }
}

impl Table {
    /// Takes `name` for the connection on `socket`, if nobody holds it who is still there.
    ///
    /// The holder's socket is looked at first: a FIN, a reset or a stray byte that has arrived there ends
    /// the holder now, not when its task gets to read it. `Err`: the socket of the holder, who is alive.
    pub(super) fn claim(
        &mut self,
        name: &AliveName,
        socket: &Arc<AliveSocket>,
    ) -> Result<ClaimId, Arc<AliveSocket>> {
        if let Some(holder) = self.holders.get(name) {
            if is_quiet(&holder.socket) {
                return Err(Arc::clone(&holder.socket));
            }
            let gone = holder.claim;
            self.remove(name, gone);
        }
        let claim = ClaimId(self.next_claim());
        let holder = Holder { claim, socket: Arc::clone(socket), registration: None };
        self.holders.insert(name.clone(), holder);
        Ok(claim)
    }

    /// A number for a claim that no other one has.
    pub(super) fn next_claim(&mut self) -> u64 {
        let claim = self.next_claim;
        self.next_claim += 1;
        claim
    }

    /// Makes a claimed name known. `false`: the claim was ended meanwhile.
    pub(super) fn grant(&mut self, claim: ClaimId, registration: Arc<Registration>) -> bool {
        let name = &registration.node.name;
        let Some(holder) = self.holders.get_mut(name).filter(|holder| holder.claim == claim) else {
            return false;
        };
        holder.registration = Some(Arc::clone(&registration));
        let fd = holder.socket.as_raw_fd();
        self.departed.forget(name);
        self.granted.insert(claim.0, Granted { registration, fd });
        self.forget_lists();
        true
    }

    /// Gives a name that a node of the program or the run before holds to its connection again. `false`: somebody has it.
    pub(super) fn resume(
        &mut self,
        socket: &Arc<AliveSocket>,
        claim: ClaimId,
        registration: Arc<Registration>,
    ) -> bool {
        if self.is_taken(&registration.node.name) {
            return false;
        }
        let holder = Holder { claim, socket: Arc::clone(socket), registration: None };
        self.holders.insert(registration.node.name.clone(), holder);
        self.next_claim = self.next_claim.max(claim.0 + 1);
        self.grant(claim, registration)
    }

    /// What [`Table::resume_past`] takes: the names that departed, and the number of the next claim.
    pub(super) fn past(&self) -> (Vec<Departed>, u64) {
        (self.departed.by_age.values().cloned().collect(), self.next_claim)
    }

    /// Goes on from the table of the program or the run before.
    pub(super) fn resume_past(&mut self, departed: Vec<Departed>, next_claim: u64) {
        departed.into_iter().for_each(|departed| self.departed.push(departed));
        self.next_claim = self.next_claim.max(next_claim);
    }

    /// Every node that is registered, with its connection, oldest first.
    pub(super) fn served(&self) -> Vec<ServedNode> {
        let node = |(claim, granted): (&u64, &Granted)| {
            let holder = self
                .holders
                .get(&granted.registration.node.name)
                .filter(|holder| holder.claim.0 == *claim)?;
            let (socket, registration) = (Arc::clone(&holder.socket), Arc::clone(&granted.registration));
            Some(CarriedNode { claim: *claim, socket, registration })
        };
        self.granted.iter().filter_map(node).collect()
    }

    /// Frees `name` if `claim` still holds it.
    pub(super) fn remove(&mut self, name: &AliveName, claim: ClaimId) {
        if self.holders.get(name).is_some_and(|holder| holder.claim == claim) {
            self.holders.remove(name);
        }
        if let Some(Granted { registration, fd }) = self.granted.remove(&claim.0) {
            let Registration { node, .. } = &*registration;
            self.departed.push(Departed { name: node.name.clone(), port: node.port, fd });
            self.forget_lists();
        }
    }

    /// Frees `name`, whoever holds it, and ends the holder's connection. `false`: nobody does.
    pub(super) fn stop(&mut self, name: &str) -> bool {
        let Some(Holder { claim, registration: Some(registration), .. }) = self.holders.get(name) else {
            return false;
        };
        let (claim, name) = (*claim, registration.node.name.clone());
        hang_up(&*self.holders[&name].socket);
        self.remove(&name, claim);
        true
    }

    /// Ends every holder's connection; each frees its name itself.
    pub(super) fn hang_up_all(&self) {
        self.holders.values().for_each(|holder| hang_up(&*holder.socket));
    }

    /// The node that registered as `name`, byte for byte.
    pub(super) fn find(&self, name: &str) -> Option<&Arc<Registration>> {
        self.holders.get(name)?.registration.as_ref()
    }

    /// The node that is answered for as `name`: one that registered so, or an orphan.
    pub(super) fn answer(&self, name: &str) -> Option<&Arc<Registration>> {
        self.find(name).or_else(|| Some(&self.orphans.get(name)?.registration))
    }

    /// Whether somebody has claimed `name`, though the registry may not have answered yet.
    pub(super) fn is_taken(&self, name: &AliveName) -> bool {
        self.holders.contains_key(name)
    }

    /// Nodes that are answered for without a connection, by their names.
    pub(super) fn orphans(&mut self) -> &mut HashMap<AliveName, Lease> {
        &mut self.orphans
    }

    /// How many names are taken.
    pub(super) fn len(&self) -> usize {
        self.holders.len()
    }

    /// Every node that is registered, oldest first.
    pub(super) fn registered(&self) -> Vec<Arc<Registration>> {
        self.granted.values().map(|granted| Arc::clone(&granted.registration)).collect()
    }

    /// The whole answer to NAMES: newest first, as the stock daemon lists them.
    pub(super) fn names(&mut self, listing: Listing) -> Arc<Vec<u8>> {
        if let Some((_, reply)) = self.names.as_ref().filter(|(of, _)| *of == listing) {
            return Arc::clone(reply);
        }
        let mut reply = listing.start();
        for Granted { registration, .. } in self.granted.values().rev() {
            write_names_line(&mut reply, registration.node.name.as_str(), listing.port_of(registration));
        }
        let reply = Arc::new(reply);
        self.names = Some((listing, Arc::clone(&reply)));
        reply
    }

    fn forget_lists(&mut self) {
        (self.names, self.dump) = (None, None);
    }

    /// The whole answer to DUMP.
    pub(super) fn dump(&mut self, listing: Listing) -> Arc<Vec<u8>> {
        if let Some((_, reply)) = self.dump.as_ref().filter(|(of, _)| *of == listing) {
            return Arc::clone(reply);
        }
        let mut reply = self.dump_active(listing);
        self.dump_departed(&mut reply);
        let reply = Arc::new(reply);
        self.dump = Some((listing, Arc::clone(&reply)));
        reply
    }

    /// The live ones of the answer to DUMP, newest first.
    pub(super) fn dump_active(&self, listing: Listing) -> Vec<u8> {
        let mut reply = listing.start();
        for Granted { registration, fd } in self.granted.values().rev() {
            write_active_line(
                &mut reply,
                registration.node.name.as_str(),
                listing.port_of(registration),
                *fd,
            );
        }
        reply
    }

    /// The departed ones of the answer to DUMP, oldest first.
    pub(super) fn dump_departed(&self, reply: &mut Vec<u8>) {
        for Departed { name, port, fd } in self.departed.by_age.values() {
            write_old_line(reply, name.as_str(), *port, *fd);
        }
    }
}

/// Whether the peer has sent nothing, neither a byte nor an end: the only state of a live registration.
fn is_quiet(socket: &AliveSocket) -> bool {
    let mut byte = [0];
    recv(socket.as_fd(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) == Err(Errno::AGAIN)
}

/// Lets the kernel forget what a peer has not read, when its connection ends: it would keep that for minutes.
pub(super) fn forget_unread(socket: &impl AsFd) {
    // A kernel that refuses keeps it.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Ends a connection from outside its task, which then reads the end.
pub(crate) fn hang_up(socket: &impl AsFd) {
    // It fails when the peer has hung up first, which is as good.
    let _ = shutdown(socket.as_fd(), Shutdown::Both);
}
