//! The established TCP connections of this network namespace, as the kernel tells them to any user.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use procfs::net::{TcpState, tcp, tcp6};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use super::report::{Ends, Owner, Quality, Source};

/// The most connections of one look. More are those of a machine that does other things than to run nodes.
const SOCKETS_MAX: usize = 65_536;

/// How long the kernel may take to go on with its answer: it is in memory.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// One piece of the kernel's answer.
const PIECE: usize = 32 << 10;

/// A connection, seen from this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) ends: Ends,
    pub(super) owner: Owner,
    /// What a descriptor of it is called in `/proc`; 0 where no process has one.
    pub(super) inode: u64,
    pub(super) quality: Option<Quality>,
}

/// The connections with one of `ports` at either end: by netlink, which says the most, or by `/proc` where that is
/// refused.
///
/// # Errors
/// When neither is to be had.
pub(super) fn established(ports: &HashSet<u16>) -> io::Result<(Source, Vec<Socket>)> {
    match by_netlink(ports) {
        Ok(sockets) => Ok((Source::Netlink, sockets)),
        Err(refused) if refused.kind() == io::ErrorKind::QuotaExceeded => Err(refused),
        Err(_refused) => Ok((Source::Proc, by_proc(ports)?)),
    }
}

fn too_many() -> io::Error {
    let text = format!("more than {SOCKETS_MAX} connections at the ports of nodes");
    io::Error::new(io::ErrorKind::QuotaExceeded, text)
}

fn by_proc(ports: &HashSet<u16>) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    let tables = [tcp(), tcp6()];
    // A kernel without IPv6 has the first alone.
    if let [Err(error), Err(_)] = &tables {
        return Err(io::Error::other(error.to_string()));
    }
    for entry in tables.into_iter().flatten().flatten() {
        let ends = Ends::new(entry.local_address, entry.remote_address);
        if entry.state == TcpState::Established && ends.has_port_of(ports) {
            let owner = Owner { uid: entry.uid, cgroup: None };
            sockets.push(Socket { ends, owner, inode: entry.inode, quality: None });
        }
        if SOCKETS_MAX < sockets.len() {
            return Err(too_many());
        }
    }
    Ok(sockets)
}

/// What is asked: `struct nlmsghdr` and `struct inet_diag_req_v2` (`linux/netlink.h`, `linux/inet_diag.h`).
fn request(family: u8) -> Vec<u8> {
    const LENGTH: u32 = 16 + 56;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const REQUEST_AND_DUMP: u16 = 0x301;
    const TCP: u8 = 6;
    const ESTABLISHED: u32 = 1 << 1;
    let mut request = Vec::with_capacity(LENGTH as usize);
    request.extend(LENGTH.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(REQUEST_AND_DUMP.to_ne_bytes());
    // The number of the request, and of its sender, which the kernel knows.
    request.extend([0; 8]);
    request.extend([family, TCP, 1 << (attribute::INFO - 1), 0]);
    request.extend(ESTABLISHED.to_ne_bytes());
    // Of any ports and addresses.
    request.extend([0; 48]);
    request
}

/// Attributes of the answer.
mod attribute {
    pub(super) const INFO: u16 = 2;
    pub(super) const CGROUP_ID: u16 = 21;
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

fn by_netlink(ports: &HashSet<u16>) -> io::Result<Vec<Socket>> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIME))?;
    let mut sockets = Vec::new();
    let mut piece = vec![0; PIECE];
    for family in [AF_INET, AF_INET6] {
        sendto(&socket, &request(family), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        loop {
            let length = match recv(&socket, &mut *piece, RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                received => received?.1.min(PIECE),
            };
            let is_over = read_piece(&piece[..length], &mut |found| {
                if found.ends.has_port_of(ports) {
                    sockets.push(found);
                }
            })?;
            if SOCKETS_MAX < sockets.len() {
                return Err(too_many());
            }
            if is_over {
                break;
            }
        }
    }
    Ok(sockets)
}

/// Reads messages of the kernel, and says whether the last one was among them.
fn read_piece(mut piece: &[u8], on_socket: &mut impl FnMut(Socket)) -> io::Result<bool> {
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    if piece.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    while let (Some(length), Some(kind)) = (u32_at(piece, 0), u16_at(piece, 4)) {
        let length = length as usize;
        let Some(body) = piece.get(16..length) else { return Err(io::ErrorKind::InvalidData.into()) };
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = u32_at(body, 0).map_or(0, |code| (code as i32).saturating_neg());
                return Err(io::Error::from_raw_os_error(code));
            }
            _ => {
                if let Some(socket) = read_socket(body) {
                    on_socket(socket);
                }
            }
        }
        piece = piece.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads a `struct inet_diag_msg` and its attributes.
fn read_socket(body: &[u8]) -> Option<Socket> {
    const BODY: usize = 72;
    let family = *body.first()?;
    let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let address = |at: usize| -> Option<IpAddr> {
        let bytes = body.get(at..)?;
        match family {
            AF_INET => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
            AF_INET6 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
            _ => None,
        }
    };
    let ends = Ends::new(SocketAddr::new(address(8)?, port(4)?), SocketAddr::new(address(24)?, port(6)?));
    let mut owner = Owner { uid: u32_at(body, 64)?, cgroup: None };
    let inode = u64::from(u32_at(body, 68)?);
    let mut quality = None;
    let mut attributes = body.get(BODY..)?;
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let Some(value) = attributes.get(4..usize::from(length)) else { break };
        match kind {
            attribute::CGROUP_ID => owner.cgroup = u64_at(value, 0),
            // `struct tcp_info` (`linux/tcp.h`).
            attribute::INFO => {
                quality = u32_at(value, 68).zip(u32_at(value, 100)).map(|(rtt, retransmits)| Quality {
                    rtt: Duration::from_micros(rtt.into()),
                    retransmits,
                    unanswered: value.get(2).copied().unwrap_or_default(),
                });
            }
            _ => {}
        }
        attributes = attributes.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Socket { ends, owner, inode, quality })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn both_ends_of_a_connection_are_listed_with_their_owner() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let dialler = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let port = listener.local_addr().unwrap().port();
            let (dialled, heard) = (ends(&dialler), ends(&accepted));
            for (source, sockets) in [
                established(&HashSet::from([port])).unwrap(),
                (Source::Proc, by_proc(&HashSet::from([port])).unwrap()),
            ] {
                let mut found: Vec<_> = sockets.iter().map(|socket| socket.ends).collect();
                found.sort_unstable();
                let mut both = [dialled, heard];
                both.sort_unstable();
                assert_eq!(found, both, "{source:?}");
                let uid = rustix::process::geteuid().as_raw();
                assert!(sockets.iter().all(|socket| socket.owner.uid == uid && socket.inode != 0));
                let told = sockets.iter().all(|socket| socket.quality.is_some());
                assert_eq!(told, source == Source::Netlink);
            }
        }
        assert_eq!(established(&HashSet::new()).unwrap().1, []);
    }

    fn ends(stream: &TcpStream) -> Ends {
        Ends::new(stream.local_addr().unwrap(), stream.peer_addr().unwrap())
    }

    #[test]
    fn what_is_cut_or_made_up_is_no_answer_and_no_panic() {
        let mut message = vec![0; 16 + 72];
        message[0] = 16 + 72;
        message[16] = AF_INET;
        let mut found = 0;
        assert!(!read_piece(&message, &mut |_| found += 1).unwrap());
        assert_eq!(found, 1);
        for cut in 0..message.len() {
            let _ = read_piece(&message[..cut], &mut |_| {});
        }
        for byte in 0..=255 {
            for at in 0..message.len() {
                let mut other = message.clone();
                other[at] = byte;
                let _ = read_piece(&other, &mut |_| {});
            }
        }
    }
}
