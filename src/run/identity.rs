//! Who this daemon is to others.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use repmd_backend_api::{Instance, InstanceId};

use crate::settings::Settings;
use crate::upgrade::Identity;

/// Who this daemon is, as far as its settings, or the program before, say.
pub(super) fn instance(settings: &Settings, before: Option<&Identity>) -> io::Result<Instance> {
    let known = before.map(|before| before.addresses.clone());
    let addresses = settings.advertise.clone().or(known).unwrap_or_default();
    let aliases = match (&settings.aliases, before) {
        (Some(aliases), _) => aliases.clone(),
        (None, Some(before)) => before.aliases()?,
        (None, None) => settings.aliases_at(&addresses),
    };
    Ok(Instance {
        id: before.map_or_else(|| Ok(InstanceId::random()), Identity::id)?,
        name: settings.instance_name.clone(),
        host: settings.host.clone(),
        aliases,
        addresses,
        port: settings.port,
    })
}

/// This machine's address for others: the one on the connection to the store, unless the store, or a tunnel to it, is on
/// this machine; else that of the interface which leads to other networks. Only the routes are asked: no packet is sent.
pub(crate) fn own_address(on_connection: Option<IpAddr>) -> Option<IpAddr> {
    // Addresses for documentation: whatever leads there leads anywhere.
    let anywhere = [SocketAddr::from(([192, 0, 2, 1], 9)), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into()];
    let towards = |target: SocketAddr| {
        let any: IpAddr =
            if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let is_for_others = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
    on_connection
        .filter(is_for_others)
        .or_else(|| anywhere.into_iter().filter_map(towards).find(is_for_others))
}
