//! Hosts of two networks that do not route to each other, and a gateway with a foot in each.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use repmd_test_support::run;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A machine's network; it goes with the last process in it.
pub(crate) struct Host(File);

impl Host {
    /// Does something there. What it starts is there too.
    pub(crate) fn run<T: Send>(&self, something: impl FnOnce() -> T + Send) -> T {
        let ended = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.0.as_fd(), network).expect("root may enter it");
                something()
            });
            thread.join()
        });
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// `hosta` and `hostb` are 10.77.0.1 and .2, `hostc` is 10.88.0.1. The gateway is .254 in both networks, and
/// has there an address for each host of the other: 10.77.0.203, 10.88.0.201 and 10.88.0.202.
pub(crate) struct Lab {
    pub(crate) gateway: Host,
    pub(crate) a: Host,
    pub(crate) b: Host,
    pub(crate) c: Host,
}

impl Lab {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |host: &str| format!("repmd-gateway-{}-{number}-{host}", std::process::id());
        let make = |host: &str| {
            let name = name(host);
            run("ip", &["netns", "add", &name]);
            run("ip", &["-n", &name, "link", "set", "lo", "up"]);
            Host(File::open(format!("/run/netns/{name}")).expect("ip has made it"))
        };
        let lab = Self { gateway: make("gateway"), a: make("a"), b: make("b"), c: make("c") };
        let on_gateway =
            |arguments: &[&str]| run("ip", &[&["-n", name("gateway").as_str()], arguments].concat());
        for (network, addresses) in [
            ("net1", &["10.77.0.254/24", "10.77.0.203/24"][..]),
            ("net2", &["10.88.0.254/24", "10.88.0.201/24", "10.88.0.202/24"]),
        ] {
            on_gateway(&["link", "add", network, "type", "bridge"]);
            on_gateway(&["link", "set", network, "up"]);
            for address in addresses {
                on_gateway(&["address", "add", address, "dev", network]);
            }
        }
        for (host, network, address) in
            [("a", "net1", "10.77.0.1/24"), ("b", "net1", "10.77.0.2/24"), ("c", "net2", "10.88.0.1/24")]
        {
            let inside = name(host);
            let link = &format!("to-{host}");
            on_gateway(&["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", &inside]);
            on_gateway(&["link", "set", link, "master", network, "up"]);
            run("ip", &["-n", &inside, "address", "add", address, "dev", "eth0"]);
            run("ip", &["-n", &inside, "link", "set", "eth0", "up"]);
        }
        for host in ["gateway", "a", "b", "c"] {
            // The network lives on in its files and processes, however the test ends.
            run("ip", &["netns", "delete", &name(host)]);
        }
        lab
    }
}
