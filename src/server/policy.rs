//! Who may ask what: pure functions over addresses.

use std::net::IpAddr;

use ipnet::IpNet;

/// What the settings allow to whom.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// KILL with live nodes, and STOP, are allowed.
    pub relaxed_command_check: bool,
    /// Who may register besides local peers.
    pub register_from: Vec<IpNet>,
    /// Who may look up and list besides local peers; empty: anyone.
    pub lookups_from: Vec<IpNet>,
}

impl Policy {
    /// Whether `peer` may register. `local` is asked only when the answer depends on it.
    pub(super) fn may_register(&self, peer: IpAddr, local: impl FnOnce() -> Option<IpAddr>) -> bool {
        contains(&self.register_from, peer) || is_local(peer, local)
    }

    /// Whether `peer` may look names up and list them.
    pub fn may_look_up(&self, peer: IpAddr, local: impl FnOnce() -> Option<IpAddr>) -> bool {
        self.lookups_from.is_empty() || contains(&self.lookups_from, peer) || is_local(peer, local)
    }

    /// Whether other name servers are asked for `peer`: it is of this machine, or of a network that was named.
    pub fn may_recurse(&self, peer: IpAddr, local: impl FnOnce() -> Option<IpAddr>) -> bool {
        contains(&self.lookups_from, peer) || is_local(peer, local)
    }
}

/// Whether a connection comes from this machine: from any loopback address, or from the very address
/// that it came to. Both addresses without IPv4 mapped into IPv6.
pub(crate) fn is_local(peer: IpAddr, local: impl FnOnce() -> Option<IpAddr>) -> bool {
    peer.is_loopback() || local() == Some(peer)
}

fn contains(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn loopback_is_local_wherever_it_connects_to() {
        for peer in ["127.0.0.1", "127.9.9.9", "::1"] {
            assert!(is_local(ip(peer), || unreachable!("{peer} is local by itself")));
        }
    }

    #[test]
    fn a_public_address_is_local_only_to_itself() {
        assert!(is_local(ip("10.0.0.5"), || Some(ip("10.0.0.5"))));
        assert!(!is_local(ip("10.0.0.5"), || Some(ip("127.0.0.1"))));
        assert!(!is_local(ip("10.0.0.5"), || None));
    }

    #[test]
    fn chosen_networks_may_register_and_others_may_not() {
        let policy = Policy { register_from: vec!["10.1.0.0/16".parse().unwrap()], ..Policy::default() };
        assert!(policy.may_register(ip("10.1.2.3"), || None));
        assert!(!policy.may_register(ip("10.2.2.3"), || None));
    }

    #[test]
    fn anyone_may_look_up_until_networks_are_chosen() {
        assert!(Policy::default().may_look_up(ip("203.0.113.9"), || None));
        let policy = Policy { lookups_from: vec!["10.0.0.0/8".parse().unwrap()], ..Policy::default() };
        assert!(!policy.may_look_up(ip("203.0.113.9"), || None));
        assert!(policy.may_look_up(ip("10.0.0.1"), || None));
        assert!(policy.may_look_up(ip("127.0.0.1"), || None));
    }
}
