//! Where a node elsewhere is reached: what repmd says in the extra of PORT2_RESP.
//!
//! `repmd/1 addr=IP[,IP...] host=HOST`, words separated by spaces. No client of the stock daemon reads the
//! extra of a look-up; one that knows repmd can dial the node by this alone. Readers pass over words that
//! they do not know.

use std::net::IpAddr;

use repmd_backend_api::HostId;

use super::FIELD_BYTES_MAX;

const MAGIC: &str = "repmd/1";

/// What the first word begins with in every version.
const RESERVED: &[u8] = b"repmd/";

/// Who looks up this name on the daemon's own machine asks where its admin API is. No full name reads so: there is no
/// host of that name.
pub const ADMIN_NAME: &str = "@/admin";

/// A host, and where its nodes are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Addresses of the host, the best first; may be empty.
    pub addresses: Vec<IpAddr>,
    /// The host.
    pub host: HostId,
}

/// Writes the extra; leaves out the last addresses where it would become too long for a reply.
#[must_use]
pub fn encode_whereabouts(addresses: &[IpAddr], host: &HostId) -> Vec<u8> {
    let mut words = format!("{MAGIC} addr=");
    let rest = format!(" host={host}");
    for (number, address) in addresses.iter().enumerate() {
        let address = if number == 0 { address.to_string() } else { format!(",{address}") };
        if FIELD_BYTES_MAX < words.len() + address.len() + rest.len() {
            break;
        }
        words += &address;
    }
    (words + &rest).into_bytes()
}

/// Whether a client could take a node's own extra for a daemon's words, of this version or another. Some clients
/// pass over spaces that come first.
#[must_use]
pub fn is_reserved(extra: &[u8]) -> bool {
    let first = extra.iter().position(|byte| *byte != b' ').unwrap_or_default();
    extra[first..].starts_with(RESERVED)
}

/// Reads the extra of a look-up's answer. `None`: it is a node's own.
#[must_use]
pub fn decode_whereabouts(extra: &[u8]) -> Option<Whereabouts> {
    let mut words = std::str::from_utf8(extra).ok()?.split(' ');
    if words.next() != Some(MAGIC) {
        return None;
    }
    let (mut addresses, mut host) = (Vec::new(), None);
    for word in words {
        match word.split_once('=') {
            Some(("addr", list)) => addresses = list.split(',').flat_map(str::parse).collect(),
            Some(("host", text)) => host = HostId::parse(text).ok(),
            _ => {}
        }
    }
    Some(Whereabouts { addresses, host: host? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostId {
        HostId::parse("hosta").unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        for addresses in [vec![], vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]] {
            let extra = encode_whereabouts(&addresses, &host());
            assert_eq!(decode_whereabouts(&extra), Some(Whereabouts { addresses, host: host() }));
        }
    }

    #[test]
    fn the_words_are_those_that_clients_know() {
        let extra = encode_whereabouts(&["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()], &host());
        assert_eq!(extra, b"repmd/1 addr=10.0.0.1,10.0.0.2 host=hosta");
    }

    #[test]
    fn no_host_is_called_as_the_admin_api_is_asked_for() {
        assert!(HostId::parse(ADMIN_NAME.trim_start_matches('@')).is_err());
    }

    #[test]
    fn what_a_client_takes_for_whereabouts_is_reserved_and_nothing_else() {
        for extra in [&b"repmd/1 addr=10.0.0.1 host=hosta"[..], b"  repmd/1 x", b"repmd/2 x", b"repmd/1"] {
            assert!(is_reserved(extra), "{}", extra.escape_ascii());
        }
        for extra in [&b""[..], b" ", b"repmd", b"x repmd/1 addr=10.0.0.1 host=hosta", b"\xffrepmd/1"] {
            assert!(!is_reserved(extra), "{}", extra.escape_ascii());
        }
    }

    #[test]
    fn a_node_s_own_extra_and_words_of_later_versions_are_no_trouble() {
        for extra in [&b""[..], b"\xff", b"repmd/2 addr=10.0.0.1 host=hosta", b"repmd/1 addr=10.0.0.1"] {
            assert_eq!(decode_whereabouts(extra), None);
        }
        let later = decode_whereabouts(b"repmd/1 addr=10.0.0.1 host=hosta tls=1 x").unwrap();
        assert_eq!(later.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn addresses_beyond_the_longest_extra_are_left_out() {
        let addresses = vec!["2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap(); 100];
        let extra = encode_whereabouts(&addresses, &host());
        assert!(extra.len() <= FIELD_BYTES_MAX);
        assert!(10 < decode_whereabouts(&extra).unwrap().addresses.len());
    }
}
