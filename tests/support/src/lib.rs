//! What the tests share: ports, networks, daemons as processes, raw EPMD connections.
//!
//! Everything here panics with what went wrong: a test that cannot go on has failed.

mod browser;
mod c_node;
mod clock;
mod daemon;
mod erlang;
pub mod http;
mod machine;
mod network;
mod page;
mod peer;
mod port;
mod rabbitmq;
mod root;
mod view;

pub use browser::Browser;
pub use c_node::{CNode, CProgram};
pub use clock::faketime;
pub use daemon::{Daemon, epmd_program};
pub use erlang::{COOKIE, ErlangNode};
pub use machine::{Machine, release};
pub use network::{Network, in_own_network, run};
pub use page::{Sources, quoted, table};
pub use peer::{Ended, Peer, alive2, lookup_port, names};
pub use port::free_port;
pub use rabbitmq::RabbitMq;
pub use root::{Root, Scratch};
pub use view::{now, view};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Waits until `condition` gives something, and panics with `what` when it does not by `deadline`.
pub fn wait_for<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(started.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// [`wait_for`] something that is true or not.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// Runs `background` in as many threads beside `test`. Its flag is set when `test` is over, also by a panic: threads
/// that went on would keep the panic from being shown.
pub fn beside<T>(threads: usize, background: impl Fn(&AtomicBool) + Sync, test: impl FnOnce() -> T) -> T {
    struct SetAtTheEnd<'a>(&'a AtomicBool);
    impl Drop for SetAtTheEnd<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| background(&is_over));
        }
        let _ends = SetAtTheEnd(&is_over);
        test()
    })
}

/// Lets this process open as many files as it may: thousands of connections are open at once.
pub fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a limit below the hard one");
}
