//! What it costs to keep many names.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use repmd_test_stores::Store;
use repmd_test_support::{Peer, names};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::UnshareFlags;

use crate::stage::{Host, Stage};

const NAMES: usize = 10_000;

/// A third of the default lease, and how many of these are measured.
const INTERVAL: Duration = Duration::from_secs(5);
const INTERVALS: u32 = 3;

/// Percent of a core for one daemon. A build that is not optimized may take more; `repmd-bench` has the others.
const DAEMON_MAX: f64 = if cfg!(debug_assertions) { 12.0 } else { 3.0 };

#[test]
fn renewing_ten_thousand_names_of_each_of_three_hosts_costs_little() {
    let stage = Stage::alone(Store::redis);
    let hosts = ["a", "b", "c"].map(|host| stage.plan(host).set("lease-ttl", "15s").start());
    std::thread::scope(|scope| {
        let hold = |host: &Host| {
            let (port, (registered, is_registered), (end, is_over)) = (host.port(), channel(), channel());
            scope.spawn(move || hold_nodes(port, &registered, &is_over));
            (is_registered, end)
        };
        let held = hosts.each_ref().map(hold);
        held.iter().for_each(|(is_registered, _)| is_registered.recv().expect("all nodes are registered"));
        // The quietest interval counts: whoever shares this machine makes others more expensive.
        let (mut of_store, mut of_hosts) = (100.0f64, 100.0f64);
        for _ in 0..INTERVALS {
            let cpu = || [hosts.iter().map(|host| host.cpu()).sum(), stage.store.cpu()];
            let before: [Duration; 2] = cpu();
            std::thread::sleep(INTERVAL);
            let [hosts, store] = cpu();
            let percent = |cpu: Duration| 100.0 * cpu.as_secs_f64() / INTERVAL.as_secs_f64();
            of_hosts = of_hosts.min(percent(hosts - before[0]) / 3.0);
            of_store = of_store.min(percent(store - before[1]));
        }
        assert_eq!(hosts.each_ref().map(|host| names(host.port()).len()), [NAMES; 3]);
        println!("of a core: {of_store:.1} % for the store, {of_hosts:.1} % for each daemon");
        assert!(of_store < 10.0, "{of_store:.1} % of a core for the store");
        assert!(of_hosts < DAEMON_MAX, "{of_hosts:.1} % of a core for each daemon");
    });
}

/// Has all nodes until the other side of `is_over` is gone.
fn hold_nodes(port: u16, registered: &Sender<()>, is_over: &Receiver<()>) {
    have_descriptors_alone();
    let _nodes = register_all(port);
    let _ = registered.send(());
    let _ = is_over.recv();
}

/// Gives this thread a table of descriptors of its own: three times ten thousand are too many for one.
fn have_descriptors_alone() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    #[expect(deprecated, reason = "no descriptor of this thread is known to another one")]
    rustix::thread::unshare(UnshareFlags::FILES).unwrap();
}

fn register_all(port: u16) -> Vec<Peer> {
    (0..NAMES).map(|number| Peer::registered(port, &format!("node{number:05}"))).collect()
}
