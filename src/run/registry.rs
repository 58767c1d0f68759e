//! The registry of a run, opened as the settings say.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use repmd_backend_api::Instance;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::identity::{instance, own_address};
use crate::kinds::Kinds;
use crate::registry::{Options, Registry};
use crate::settings::Settings;
use crate::upgrade::Identity;

/// The longest that a node or an asker waits for the store: a node gives up after 10 s.
const STORE_DEADLINE: Duration = Duration::from_millis(500);

/// The longest that an asker waits to hear whether a node of before still listens.
const PROBE_TIME: Duration = Duration::from_millis(200);

/// Opens it, for the identity of `before` if there was one. Does not wait for a store.
pub(super) fn open_registry(
    settings: &Settings,
    kinds: Kinds<'_>,
    before: Option<&Identity>,
) -> io::Result<Arc<Registry>> {
    let instance = Arc::new(instance(settings, before)?);
    let backend = kinds.open(settings, Arc::clone(&instance)).map_err(io::Error::other)?;
    let options = Options {
        lookup: settings.lookup,
        stale_for: settings.stale_for,
        deadline: STORE_DEADLINE,
        clock: Arc::new(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
        probe: Arc::new(|port, addresses| Box::pin(somebody_listens(port, addresses))),
    };
    let registry = Registry::new(backend, Arc::clone(&instance), options);
    Ok(Arc::new(match (settings.backend.is_shared(), &settings.advertise) {
        (true, None) => {
            let settings = settings.clone();
            registry.with_addresses_of_the_connection(Box::new(move |on_connection| {
                let addresses: Vec<_> = own_address(on_connection).into_iter().collect();
                let aliases = settings.aliases_at(&addresses);
                Instance { addresses, aliases, ..(*instance).clone() }
            }))
        }
        (false, _) | (_, Some(_)) => registry,
    }))
}

/// Whether something accepts connections on `port` of this host: it connects, and closes at once. A node may listen at
/// one address alone. `addresses` that are not this machine's, such as those of a proxy, say nothing of its nodes.
async fn somebody_listens(port: u16, addresses: Vec<IpAddr>) -> bool {
    let is_here = |address: &IpAddr| UdpSocket::bind((*address, 0)).is_ok();
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    for address in loopback.into_iter().chain(addresses.into_iter().filter(is_here)) {
        if let Ok(Ok(_)) = timeout(PROBE_TIME, TcpStream::connect((address, port))).await {
            return true;
        }
    }
    false
}
