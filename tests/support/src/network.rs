//! Networks of their own: machines for tests.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A machine's network; it goes with the last process in it. Takes root and `ip`.
#[derive(Debug)]
pub struct Network(File);

impl Network {
    /// One that has nothing but loopback, and every port free.
    #[must_use]
    pub fn empty() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("repmd-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let network = Self(File::open(format!("/run/netns/{name}")).expect("ip has made it"));
        // The name goes at once; the network goes with its last process, however the test ends.
        run("ip", &["netns", "delete", &name]);
        network.ip("link set lo up");
        network
    }

    /// Does something there, on a thread of its own. What it starts is there too.
    pub fn inside<T: Send>(&self, something: impl FnOnce() -> T + Send) -> T {
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

    /// Runs `ip` there.
    pub fn ip(&self, arguments: &str) {
        let arguments: Vec<_> = arguments.split(' ').collect();
        self.inside(|| run("ip", &arguments));
    }

    /// Adds an address to a device, and sets the device up.
    pub fn address(&self, device: &str, address: &str) {
        self.ip(&format!("address add {address} dev {device}"));
        self.ip(&format!("link set {device} up"));
    }

    /// Joins a new device of this network to a new one of another.
    pub fn join(&self, device: &str, other: &Self, far: &str) {
        let network = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.ip(&format!("link add {device} type veth peer name {far} netns {network}"));
    }

    /// Makes a switch in this network, a device like others.
    pub fn switch(&self, switch: &str) {
        self.ip(&format!("link add {switch} type bridge"));
        self.ip(&format!("link set {switch} up"));
    }

    /// Joins a new device of another network to a switch of this one, by the new device `port` of the switch.
    pub fn plug(&self, switch: &str, port: &str, other: &Self, device: &str) {
        self.join(port, other, device);
        self.ip(&format!("link set {port} master {switch} up"));
    }
}

/// Runs `test` on a thread of its own, in a network that has nothing but loopback, and every port free.
/// What the test starts is in there too. Takes root and `ip`.
pub fn in_own_network<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    Network::empty().inside(test)
}

/// Runs a program that must succeed.
pub fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}
