//! Which addresses the daemon listens on, and the sockets that do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tracing::warn;

use crate::listeners::Listeners;
use crate::printable::in_words;

/// Connections that the kernel keeps until they are accepted; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// A node that vanished without a FIN is found out after 60 s of silence and four probes.
pub(crate) const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    address: IpAddr,
    /// Nobody asked for it by name, so a machine without it is no error.
    implied: bool,
}

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there already; most likely another EPMD, which is then as good.
    #[error("there is already a epmd running at port {} on ipaddr {}", .0.port(), .0.ip())]
    InUse(SocketAddr),
    /// The address is not this machine's, or the port is not for this user.
    #[error("failed to bind on ipaddr {}: {}", .address.ip(), in_words(.source))]
    Failed {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// This machine has none of the addresses.
    #[error("there is no address to listen on")]
    Nowhere,
    /// The service manager was to pass sockets.
    #[error("no listening socket from the service manager: {0}")]
    NotPassed(String),
}

impl ListenError {
    /// In repmd's own words, which name the program that has the port. Reads `/proc`.
    #[must_use]
    pub fn explained(&self) -> String {
        match self {
            Self::InUse(address) => taken(*address),
            other => other.to_string(),
        }
    }
}

/// That an address is taken, and by which programs.
pub(crate) fn taken(address: SocketAddr) -> String {
    format!("{address} is taken: {} listens on port {}", Listeners::on(address.port()).who(), address.port())
}

/// Listens on `port` of each address, and of the loopback addresses beside them; without addresses, of
/// every address of the machine.
///
/// # Errors
/// [`ListenError`], for the first address that fails. A machine without IPv6, or without `::1`, is no
/// error unless somebody asked for just that.
pub fn listen(addresses: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, ListenError> {
    let mut listeners = Vec::new();
    for Place { address, implied } in places(addresses) {
        let address = SocketAddr::new(address, port);
        match bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(ListenError::InUse(address));
            }
            // The kernel lacks the family: the stock daemon passes over it too.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {}
            Err(source) if implied => {
                warn!("failed to bind on ipaddr {}: {}", address.ip(), in_words(&source));
            }
            Err(source) => return Err(ListenError::Failed { address, source }),
        }
    }
    if listeners.is_empty() { Err(ListenError::Nowhere) } else { Ok(listeners) }
}

/// The stock daemon's rules, without its traps: no address twice, and none that an any-address covers.
fn places(addresses: &[IpAddr]) -> Vec<Place> {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let implied = if addresses.is_empty() { any } else { loopback };
    let asked = addresses.iter().map(|address| Place { address: *address, implied: false });
    let implied = implied.into_iter().map(|address| Place { address, implied: true });
    let mut places: Vec<Place> = Vec::new();
    for place in asked.chain(implied) {
        let is_covered = any.iter().any(|any| {
            any.is_ipv4() == place.address.is_ipv4() && *any != place.address && addresses.contains(any)
        });
        if !is_covered && places.iter().all(|known| known.address != place.address) {
            places.push(place);
        }
    }
    places
}

/// Listens there, and on no other address.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Each family has its own socket, so that IPv4 peers never come as mapped addresses.
        socket.set_only_v6(true)?;
    }
    // Not SO_REUSEPORT: a second daemon must find the address in use.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    prepare(socket.into())
}

/// Where a socket at this address is asked from this machine.
pub(crate) fn at_loopback(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    };
    SocketAddr::new(ip, address.port())
}

/// Whether this machine has the address: only to its own can a socket be bound.
pub(crate) fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

/// Receives datagrams there, and at no other address.
fn bind_datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    socket.set_cloexec(true)?;
    Ok(socket.into())
}

/// Makes the socket ready for the event loop.
fn prepare(listener: TcpListener) -> io::Result<TcpListener> {
    let socket = Socket::from(listener);
    // Connections inherit the times. Only those of nodes are kept alive, which then costs them one call.
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_keepalive(false)?;
    socket.set_nonblocking(true)?;
    socket.set_cloexec(true)?;
    Ok(socket.into())
}

/// Sockets of one run for a service that is asked by datagrams and by connections.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For questions in datagrams.
    pub udp: Vec<UdpSocket>,
    /// For questions on connections.
    pub tcp: Vec<TcpListener>,
}

impl Sockets {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.tcp.is_empty()
    }

    /// The same sockets once more.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let udp = self.udp.iter().map(UdpSocket::try_clone).collect::<io::Result<_>>()?;
        let tcp = self.tcp.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { udp, tcp })
    }

    /// Sockets of both kinds at each of these addresses, which `setting` names.
    ///
    /// # Errors
    /// The first address that cannot be had, and why.
    pub fn bind(setting: &str, addresses: &[SocketAddr]) -> Result<Self, String> {
        let mut sockets = Self::default();
        for address in addresses {
            let wrong =
                |error: io::Error| format!("{setting}: cannot listen on {address}: {}", in_words(&error));
            sockets.tcp.push(bind(*address).map_err(wrong)?);
            sockets.udp.push(bind_datagrams(*address).map_err(wrong)?);
        }
        Ok(sockets)
    }
}

/// What the service manager calls the sockets for DNS (`FileDescriptorName=`).
const DNS: &str = "dns";

/// What it calls the connections of nodes that it has kept since the run before. The names of all descriptors are one
/// variable, of 128 KiB at most, so that one letter is what each can have.
pub const NODE: &str = "n";

/// What it calls the state that it has kept.
pub const STATE: &str = "s";

/// The descriptors that a service manager passed.
#[derive(Debug, Default)]
pub struct Passed {
    /// For the wire.
    pub wire: Vec<TcpListener>,
    /// For DNS.
    pub dns: Sockets,
    /// Connections of nodes, from the run before.
    pub nodes: Vec<OwnedFd>,
    /// The state of the run before.
    pub states: Vec<OwnedFd>,
}

/// The sockets that the service manager passed to this process, if it did: descriptors from 3 on, as many
/// as `LISTEN_FDS` says, meant for the process of `LISTEN_PID`. Those that `LISTEN_FDNAMES` calls `dns` are for DNS;
/// those called [`NODE`] and [`STATE`] it has kept.
///
/// # Errors
/// [`ListenError::NotPassed`] when there is something else than listening sockets, and datagram sockets for DNS.
pub fn passed_by_service_manager(variable: &dyn Fn(&str) -> Option<String>) -> Result<Passed, ListenError> {
    let number = |name| variable(name).and_then(|text| text.parse::<u32>().ok());
    let mut passed = Passed::default();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(passed);
    }
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(Some).chain(std::iter::repeat(None));
    for (fd, name) in (3..).zip(names).take(number("LISTEN_FDS").unwrap_or(0) as usize) {
        let adopted = match name {
            Some(DNS) if repmd_sys::is_datagram(fd) => repmd_sys::adopt_datagram(fd).and_then(|socket| {
                socket.set_nonblocking(true)?;
                passed.dns.udp.push(socket);
                Ok(())
            }),
            Some(DNS) => {
                repmd_sys::adopt_listener(fd).and_then(prepare).map(|socket| passed.dns.tcp.push(socket))
            }
            Some(NODE) => repmd_sys::inherit(fd).map(|node| passed.nodes.push(node)),
            Some(STATE) => repmd_sys::inherit(fd).map(|state| passed.states.push(state)),
            _ => repmd_sys::adopt_listener(fd).and_then(prepare).map(|socket| passed.wire.push(socket)),
        };
        adopted.map_err(|error| ListenError::NotPassed(in_words(&error)))?;
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listened(addresses: &[&str]) -> Vec<String> {
        let addresses: Vec<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        places(&addresses).iter().map(|place| place.address.to_string()).collect()
    }

    #[test]
    fn without_addresses_every_address_of_both_families_is_listened_on() {
        assert_eq!(listened(&[]), ["0.0.0.0", "::"]);
    }

    #[test]
    fn both_loopback_addresses_are_beside_every_list() {
        assert_eq!(listened(&["10.0.0.1"]), ["10.0.0.1", "127.0.0.1", "::1"]);
    }

    #[test]
    fn an_address_is_listened_on_once_however_often_it_is_listed() {
        assert_eq!(listened(&["127.0.0.1", "10.0.0.1", "10.0.0.1", "::1"]), ["127.0.0.1", "10.0.0.1", "::1"]);
    }

    #[test]
    fn the_any_address_covers_every_other_of_its_family_and_none_of_the_other() {
        assert_eq!(listened(&["10.0.0.1", "0.0.0.0", "fe80::1"]), ["0.0.0.0", "fe80::1", "::1"]);
        assert_eq!(listened(&["::", "::1"]), ["::", "127.0.0.1"]);
    }

    #[test]
    fn an_address_of_another_machine_is_an_error_only_if_it_was_asked_for() {
        let foreign: IpAddr = "198.51.100.7".parse().unwrap();
        assert!(matches!(listen(&[foreign], 0), Err(ListenError::Failed { .. })));
    }

    #[test]
    fn a_port_that_is_taken_is_told_apart_from_other_failures() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = listen(&["127.0.0.1".parse().unwrap()], port).unwrap_err();
        let text = format!("there is already a epmd running at port {port} on ipaddr 127.0.0.1");
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn sockets_for_another_process_are_left_alone() {
        let variable = |name: &str| (name == "LISTEN_FDS").then(|| "1".to_owned());
        let passed = passed_by_service_manager(&variable).unwrap();
        assert!(passed.wire.is_empty() && passed.dns.is_empty());
    }
}
