//! A network for one test alone.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `test` on a thread of its own, in a network that has nothing but loopback, and every port free.
/// What the test starts is in there too. Takes root and `ip`.
pub fn in_own_network<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let ended = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter_new_network();
            test()
        });
        thread.join()
    });
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn enter_new_network() {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("repmd-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    run("ip", &["netns", "add", &name]);
    let network = File::open(format!("/run/netns/{name}")).expect("ip has made it");
    // The name goes at once; the network goes with its last process, however the test ends.
    run("ip", &["netns", "delete", &name]);
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
    run("ip", &["link", "set", "lo", "up"]);
}

/// Runs a program that must succeed.
pub fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}
