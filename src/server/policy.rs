//! Who may ask what: pure functions over addresses.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What somebody may do, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Look a name up.
    LookUp,
    /// List all names.
    List,
    /// Register a node.
    Register,
    /// Stop nodes, kill the daemon, list what it holds with what it held before.
    Command,
    /// Ask by DNS.
    Dns,
    /// Look at the page, the API and the metrics.
    Operate,
}

impl Verb {
    /// All of them, in the order of the table for people.
    pub const ALL: [Self; 6] =
        [Self::LookUp, Self::List, Self::Register, Self::Command, Self::Dns, Self::Operate];
}

/// What the settings allow to whom. This machine may do all of it, but what takes a relaxed command check.
#[derive(Clone, Debug)]
pub struct Policy {
    /// KILL with live nodes, and STOP, are allowed.
    pub relaxed_command_check: bool,
    /// Who else may look up.
    pub look_ups: Networks,
    /// Who else may list.
    pub lists: Networks,
    /// Who else may register.
    pub registrations: Networks,
    /// Who else may command.
    pub commands: Networks,
    /// Who else may ask by DNS.
    pub dns: Networks,
    /// Who else may look at what operators see.
    pub operators: Networks,
    /// Whether somebody chose who may list.
    pub lists_are_chosen: bool,
    /// Where nodes are to listen; `None`: wherever they like.
    pub node_ports: Option<RangeInclusive<u16>>,
    /// A node that listens elsewhere is turned away, and not only told of.
    pub node_ports_are_strict: bool,
}

impl Default for Policy {
    /// As open as the stock daemon.
    fn default() -> Self {
        let (any, nobody) = (Networks::any, Networks::default);
        Self {
            relaxed_command_check: false,
            look_ups: any(),
            lists: any(),
            registrations: nobody(),
            commands: nobody(),
            dns: any(),
            operators: any(),
            lists_are_chosen: false,
            node_ports: None,
            node_ports_are_strict: false,
        }
    }
}

/// Whether somebody may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// They may.
    Yes,
    /// They may not.
    No,
    /// They may if they are a host of the cluster, which the registry must be asked for.
    IfOfTheCluster,
}

impl Policy {
    /// Whether `peer` may do it. `local`, the address that it came to, and `is_of_the_cluster`, if that is known, are
    /// asked for only where the answer depends on them.
    pub fn may(
        &self,
        verb: Verb,
        peer: IpAddr,
        local: impl FnOnce() -> Option<IpAddr>,
        is_of_the_cluster: impl FnOnce(IpAddr) -> Option<bool>,
    ) -> May {
        let from = self.from(verb);
        if from.contains(peer) || is_local(peer, local) {
            return May::Yes;
        }
        match from.cluster.then(|| is_of_the_cluster(peer)) {
            Some(Some(true)) => May::Yes,
            Some(None) => May::IfOfTheCluster,
            Some(Some(false)) | None => May::No,
        }
    }

    /// The same, with names listed to a site alone unless somebody chose: those who scan the internet for EPMD find none.
    #[must_use]
    pub fn listing_to_a_site(self) -> Self {
        let lists = if self.lists_are_chosen { self.lists } else { Networks::of_a_site() };
        Self { lists, ..self }
    }

    /// Who may do it beside this machine.
    #[must_use]
    pub fn from(&self, verb: Verb) -> &Networks {
        match verb {
            Verb::LookUp => &self.look_ups,
            Verb::List => &self.lists,
            Verb::Register => &self.registrations,
            Verb::Command => &self.commands,
            Verb::Dns => &self.dns,
            Verb::Operate => &self.operators,
        }
    }

    /// Whether other name servers are asked for `peer`: it is of this machine, or of a network that was named.
    pub fn may_recurse(&self, peer: IpAddr, local: impl FnOnce() -> Option<IpAddr>) -> bool {
        Networks { any: false, ..self.dns.clone() }.contains(peer) || is_local(peer, local)
    }
}

/// Networks, by their addresses or in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    any: bool,
    private: bool,
    cluster: bool,
    named: Vec<IpNet>,
}

impl Networks {
    /// Everybody who reaches this machine.
    #[must_use]
    pub fn any() -> Self {
        Self { any: true, ..Self::default() }
    }

    /// This one.
    #[must_use]
    pub fn from_address(address: IpAddr) -> Self {
        Self { named: vec![address.into()], ..Self::default() }
    }

    /// Networks that are not the internet, and the hosts of the registry's daemons.
    #[must_use]
    pub fn of_a_site() -> Self {
        Self { private: true, cluster: true, ..Self::default() }
    }

    /// Reads a list, separated by commas. `None`: something is neither a network, nor an address, nor one of the words.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut networks = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part {
                "any" => networks.any = true,
                "private" => networks.private = true,
                "cluster" => networks.cluster = true,
                // This machine may by itself.
                "loopback" => {}
                _ => networks
                    .named
                    .push(part.parse().or_else(|_| part.parse::<IpAddr>().map(IpNet::from)).ok()?),
            }
        }
        Some(networks)
    }

    /// The list as a setting writes it.
    #[must_use]
    pub fn as_setting(&self) -> String {
        let words = [(self.any, "any"), (self.private, "private"), (self.cluster, "cluster")];
        let words = words.into_iter().filter(|(is_set, _)| *is_set).map(|(_, word)| word.to_owned());
        let parts: Vec<_> = words.chain(self.named.iter().map(ToString::to_string)).collect();
        if parts.is_empty() { "loopback".to_owned() } else { parts.join(",") }
    }

    /// Whether an address is one of them, as far as that takes no registry.
    fn contains(&self, address: IpAddr) -> bool {
        self.any
            || self.private && is_private(address)
            || self.named.iter().any(|network| network.contains(&address))
    }

    /// Whether the internet is among them.
    #[must_use]
    pub fn reach_the_internet(&self) -> bool {
        let is_public = |network: &IpNet| !PRIVATE.iter().any(|private| private.contains(network));
        self.any || self.named.iter().any(is_public)
    }
}

impl fmt::Display for Networks {
    /// As an operator would say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.any {
            return f.write_str("anyone");
        }
        f.write_str("this machine")?;
        if self.private {
            f.write_str(", private networks")?;
        }
        if self.cluster {
            f.write_str(", hosts of the cluster")?;
        }
        self.named.iter().try_for_each(|network| write!(f, ", {network}"))
    }
}

const fn v4(address: [u8; 4], length: u8) -> IpNet {
    let [a, b, c, d] = address;
    IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(first: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length))
}

/// Networks that the internet does not route to: private ones (RFC 1918), those behind a provider's translation (RFC
/// 6598), of one link (RFC 3927, RFC 4291), unique local ones (RFC 4193), loopback.
const PRIVATE: [IpNet; 9] = [
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([100, 64, 0, 0], 10),
    v4([169, 254, 0, 0], 16),
    v4([127, 0, 0, 0], 8),
    v6(0xfe80, 10),
    v6(0xfc00, 7),
    IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
];

fn is_private(address: IpAddr) -> bool {
    PRIVATE.iter().any(|network| network.contains(&address))
}

/// Whether a connection comes from this machine: from any loopback address, or from the very address
/// that it came to. Both addresses without IPv4 mapped into IPv6.
pub(crate) fn is_local(peer: IpAddr, local: impl FnOnce() -> Option<IpAddr>) -> bool {
    peer.is_loopback() || local() == Some(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn networks(text: &str) -> Networks {
        Networks::parse(text).unwrap_or_else(|| panic!("{text} is a list"))
    }

    fn may(policy: &Policy, verb: Verb, peer: &str) -> May {
        policy.may(verb, ip(peer), || None, |_| None)
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
    fn each_verb_has_networks_of_its_own_and_this_machine_may_do_all() {
        let policy = Policy {
            look_ups: networks("10.1.0.0/16"),
            lists: networks("10.2.0.0/16"),
            registrations: networks("10.3.0.0/16"),
            commands: networks("10.4.0.0/16"),
            dns: networks("10.5.0.0/16"),
            operators: networks("10.6.0.7"),
            ..Policy::default()
        };
        for (number, verb) in (1..).zip(Verb::ALL) {
            for other in 1..=7 {
                let may = may(&policy, verb, &format!("10.{other}.0.7"));
                assert_eq!(may == May::Yes, other == number, "{verb:?} of 10.{other}.0.7");
            }
            assert_eq!(self::may(&policy, verb, "127.0.0.1"), May::Yes);
            assert_eq!(policy.may(verb, ip("10.9.9.9"), || Some(ip("10.9.9.9")), |_| None), May::Yes);
        }
    }

    #[test]
    fn by_itself_it_is_as_open_as_the_stock_daemon() {
        let may = Verb::ALL.map(|verb| may(&Policy::default(), verb, "203.0.113.9"));
        assert_eq!(may, [May::Yes, May::Yes, May::No, May::No, May::Yes, May::Yes]);
    }

    #[test]
    fn names_are_listed_to_a_site_alone_unless_somebody_chose() {
        let site = Policy::default().listing_to_a_site();
        let may = ["10.1.2.3", "203.0.113.9"].map(|peer| may(&site, Verb::List, peer));
        assert_eq!(may, [May::Yes, May::IfOfTheCluster]);
        assert_eq!(site.lists, networks("private,cluster"));
        let chosen = Policy { lists: networks("10.1.0.0/16"), lists_are_chosen: true, ..Policy::default() };
        assert_eq!(chosen.listing_to_a_site().lists, networks("10.1.0.0/16"));
    }

    #[test]
    fn networks_are_written_as_a_setting_has_them() {
        assert_eq!(Networks::any().as_setting(), "any");
        assert_eq!(Networks::from_address(ip("10.6.0.7")).as_setting(), "10.6.0.7/32");
        for text in ["loopback", "private,cluster", "cluster,10.1.0.0/16,fd00::/8"] {
            assert_eq!(networks(text).as_setting(), text);
        }
    }

    #[test]
    fn private_is_what_the_internet_does_not_route_to() {
        let policy = Policy { lists: networks("private"), ..Policy::default() };
        for inside in
            ["10.0.0.1", "172.31.0.1", "192.168.1.1", "100.64.0.1", "169.254.1.1", "fe80::1", "fd00::1"]
        {
            assert_eq!(may(&policy, Verb::List, inside), May::Yes, "{inside}");
        }
        for outside in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "192.0.2.1", "2001:db8::1", "::2"] {
            assert_eq!(may(&policy, Verb::List, outside), May::No, "{outside}");
        }
    }

    #[test]
    fn the_registry_is_asked_only_for_who_may_not_otherwise() {
        let policy = Policy { lists: networks("cluster,10.0.0.0/8"), ..Policy::default() };
        let asked =
            |peer: &str, is_of_the_cluster| policy.may(Verb::List, ip(peer), || None, |_| is_of_the_cluster);
        assert_eq!(policy.may(Verb::List, ip("10.0.0.1"), || None, |_| unreachable!("it may")), May::Yes);
        assert_eq!(asked("203.0.113.9", Some(true)), May::Yes);
        assert_eq!(asked("203.0.113.9", Some(false)), May::No);
        assert_eq!(asked("203.0.113.9", None), May::IfOfTheCluster);
        assert_eq!(policy.may(Verb::LookUp, ip("203.0.113.9"), || None, |_| unreachable!("any")), May::Yes);
    }

    #[test]
    fn lists_are_read_and_said_in_words() {
        for (text, words, reaches) in [
            ("any", "anyone", true),
            ("loopback", "this machine", false),
            ("private, cluster", "this machine, private networks, hosts of the cluster", false),
            ("10.0.0.7,fd00::/8", "this machine, 10.0.0.7/32, fd00::/8", false),
            ("0.0.0.0/0", "this machine, 0.0.0.0/0", true),
            ("203.0.113.0/24", "this machine, 203.0.113.0/24", true),
        ] {
            let networks = networks(text);
            assert_eq!((networks.to_string(), networks.reach_the_internet()), (words.to_owned(), reaches));
        }
        for wrong in ["everyone", "10.0.0.0/33", "10.0.0", "private cluster"] {
            assert_eq!(Networks::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn recursion_is_for_networks_that_were_named() {
        assert!(!Policy::default().may_recurse(ip("10.0.0.1"), || None));
        let policy = Policy { dns: networks("any,private"), ..Policy::default() };
        assert!(policy.may_recurse(ip("10.0.0.1"), || None) && !policy.may_recurse(ip("8.8.8.8"), || None));
    }
}
