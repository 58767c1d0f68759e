//! Where operators look.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustls::pki_types::ServerName;

/// Where operators look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Where nobody said otherwise: at [`ADMIN_ADDRESS`], or at a free port if that is taken; nowhere with the stock
    /// command line.
    Default,
    /// Nowhere.
    Off,
    /// Here and nowhere else.
    At(SocketAddr),
    /// For commands that ask: at a proxy of this name and port, which speaks TLS.
    Https(String, u16),
}

/// Where operators look for a daemon that was told nothing else.
pub const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4370);

/// An address and port, also as a browser shows them: `http://localhost:4370/`.
pub(super) fn admin_address(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    match text.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        None => text.parse().ok(),
    }
}

/// `https://NAME:PORT/`, where a proxy is.
pub(super) fn https_place(text: &str) -> Option<Admin> {
    let place = text.strip_prefix("https://")?.trim_end_matches('/');
    let is_port = |port: &str| !port.contains(']');
    let (host, port) = match place.rsplit_once(':').filter(|(_, port)| is_port(port)) {
        Some((host, port)) => (host, port.parse().ok().filter(|port| 0 < *port)?),
        None => (place, 443),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host).is_ok().then(|| Admin::Https(host.to_owned(), port))
}
