//! Hosts of two networks that do not route to each other, and a gateway with a foot in each.

use repmd_test_support::Network;

/// `hosta` and `hostb` are 10.77.0.1 and .2, `hostc` is 10.88.0.1. The gateway is .254 in both networks, and
/// has there an address for each host of the other: 10.77.0.203, 10.88.0.201 and 10.88.0.202.
pub(crate) struct Lab {
    pub(crate) gateway: Network,
    pub(crate) a: Network,
    pub(crate) b: Network,
    pub(crate) c: Network,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let [gateway, a, b, c] = [(); 4].map(|()| Network::empty());
        for (switch, addresses) in [
            ("net1", &["10.77.0.254/24", "10.77.0.203/24"][..]),
            ("net2", &["10.88.0.254/24", "10.88.0.201/24", "10.88.0.202/24"]),
        ] {
            gateway.switch(switch);
            for address in addresses {
                gateway.address(switch, address);
            }
        }
        for (host, port, switch, address) in [
            (&a, "to-a", "net1", "10.77.0.1/24"),
            (&b, "to-b", "net1", "10.77.0.2/24"),
            (&c, "to-c", "net2", "10.88.0.1/24"),
        ] {
            gateway.plug(switch, port, host, "eth0");
            host.address("eth0", address);
        }
        Self { gateway, a, b, c }
    }
}
