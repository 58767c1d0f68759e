//! Another program in the daemon's place, under its nodes: what they and whoever looks them up notice of it, which is
//! nothing, and what becomes of new programs that do not work.
#![allow(clippy::unwrap_used)] // All of this is tests.

mod broken;
mod shared;
mod stage;
mod under_way;

use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use repmd_test_support::{
    Peer, beside, epmd_program, free_port, http, lookup_port, names, raise_open_files, wait_until,
};
use rustix::process::Signal;
use tempfile::TempDir;

use stage::{REPMD, Stage, output};

/// By when something must have happened that takes no time.
const SOON: Duration = Duration::from_secs(10);

/// Looks `name` up until the test is over; each look-up must find it.
fn look_up_all_the_time<'a>(
    port: u16,
    name: &'a str,
    longest: &'a AtomicU32,
) -> impl Fn(&AtomicBool) + Sync + 'a {
    move |is_over| {
        while !is_over.load(Ordering::Relaxed) {
            let asked = Instant::now();
            assert!(lookup_port(port, name).is_some(), "{name} is not found");
            let took = u32::try_from(asked.elapsed().as_millis()).unwrap();
            longest.fetch_max(took, Ordering::Relaxed);
        }
    }
}

#[test]
fn no_node_and_no_look_up_notices_twenty_upgrades_in_a_row_and_nothing_leaks() {
    raise_open_files();
    let stage = Stage::start(&[]);
    let nodes: Vec<_> =
        (0..1000).map(|number| stage.register(&format!("n{number}"), 5000 + number)).collect();
    let before = (names(stage.port()), stage.nodes(), stage.dump());
    // What the first one opens or allocates it keeps.
    stage.upgrade();
    let (files, memory, longest) = (stage.daemon().open_files(), stage.memory(), AtomicU32::new(0));
    beside(2, look_up_all_the_time(stage.port(), "n500", &longest), || {
        for _ in 0..20 {
            let said = stage.upgrade();
            assert!(said.contains("1000 nodes kept, 0 lost"), "{said}");
        }
    });
    let after = (names(stage.port()), stage.nodes(), stage.dump());
    assert!(after.0 == before.0, "other names");
    assert!(after.1 == before.1, "other nodes: {:?} and {:?}", after.1.first(), before.1.first());
    assert!(after.2 == before.2, "another dump");
    wait_until("it has no more files open than before", SOON, || stage.daemon().open_files() == files);
    assert!(stage.memory() < memory + 8, "{memory} MiB grew to {} MiB", stage.memory());
    println!("the longest look-up took {} ms", longest.load(Ordering::Relaxed));
    let names_of_now = |count: usize| move || names(stage.port()).len() == count;
    for node in &nodes {
        assert!(node.is_open());
    }
    drop(nodes);
    wait_until("each node is unregistered when it ends", SOON, names_of_now(0));
}

#[test]
fn nodes_that_register_meanwhile_are_all_there_and_no_two_lives_have_one_creation() {
    let stage = Stage::start(&[]);
    let lives = std::sync::Mutex::new(Vec::new());
    let come_and_go = |is_over: &AtomicBool| {
        while !is_over.load(Ordering::Relaxed) {
            lives.lock().unwrap().push(stage.creation_of_a_life("again"));
        }
    };
    let registered = std::sync::Mutex::new(Vec::new());
    let come = |is_over: &AtomicBool| {
        for number in 0..1000 {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let node = stage.register(&format!("n{number}"), 5000);
            registered.lock().unwrap().push(node);
        }
    };
    beside(1, come, || {
        beside(1, come_and_go, || (0..10).for_each(|_| drop(stage.upgrade())));
    });
    let registered = registered.into_inner().unwrap();
    wait_until("all that came are there", SOON, || names(stage.port()).len() == registered.len());
    assert!(registered.iter().all(Peer::is_open));
    let mut lives = lives.into_inner().unwrap();
    let count = lives.len();
    assert!(20 < count, "{count} lives");
    lives.sort_unstable();
    lives.dedup();
    assert_eq!(lives.len(), count, "a creation was given twice");
}

#[test]
fn the_classic_daemon_in_the_background_is_replaced_too_and_by_a_signal() {
    let folder = TempDir::new().unwrap();
    let epmd = epmd_program(REPMD, folder.path());
    let port = free_port().to_string();
    let mut start = Command::new(&epmd);
    start.args(["-daemon", "-relaxed_command_check", "-port", &port]);
    output(&mut start);
    let node = Peer::registered(port.parse().unwrap(), "n");
    let upgrade = || output(Command::new(REPMD).args(["upgrade", "--port", &port]));
    let first = upgrade();
    assert!(first.starts_with("process ") && first.contains("1 node kept, 0 lost"), "{first}");
    let pid: i32 = first.split([' ', ':']).nth(1).unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::USR2).unwrap();
    // One at a time: this one comes after that.
    assert!(upgrade().starts_with(&format!("process {pid}: ")));
    assert_eq!(lookup_port(port.parse().unwrap(), "n").map(|found| found.port), Some(5000));
    drop(node);
    output(Command::new(&epmd).args(["-port", &port, "-kill"]));
}

/// The upgrader has copies of them, too.
#[test]
fn sockets_of_operators_and_dns_are_free_while_a_daemon_that_is_to_end_still_waits_for_others() {
    let dns = free_port();
    let mut stage = Stage::start(&["--dns", &format!("127.0.0.2:{dns}")]);
    // One after an upgrade as well as one that was just started.
    stage.upgrade();
    let mut half = stage.connect();
    half.send(b"\0\x04z").unwrap();
    let (wire, admin) = (stage.port(), stage.admin());
    assert_eq!(http::get(admin, "/livez", &[]).status, 200);
    stage.daemon().signal(Signal::TERM);
    wait_until("all can be bound", Duration::from_secs(2), || {
        let is_free = |at| TcpListener::bind(at).is_ok();
        [("127.0.0.1", wire), ("127.0.0.1", admin), ("127.0.0.2", dns)].into_iter().all(is_free)
            && UdpSocket::bind(("127.0.0.2", dns)).is_ok()
    });
    assert!(stage.is_running(), "it waits for the rest of a request");
    half.send(b"n\0\0").unwrap();
}

#[test]
fn a_hang_up_reads_the_settings_again_and_what_cannot_change_is_said() {
    let config = |lookups: &str, host: &str| {
        format!("host = \"{host}\"\ninstance-name = \"i\"\nallow-lookups-from = \"{lookups}\"\n")
    };
    let stage = Stage::start_with(&[], &config("any", "a"));
    let node = stage.register("n", 5000);
    let hang_up = |settings: String, words: &str| {
        std::fs::write(stage.path("repmd.toml"), settings).unwrap();
        let before = stage.log().matches(words).count();
        stage.daemon().signal(Signal::HUP);
        wait_until(words, SOON, || before < stage.log().matches(words).count());
    };
    for lookups in ["private", "any"] {
        hang_up(config(lookups, "a"), "went on from the program before");
        let shown = http::get(stage.admin(), "/api/v1/config", &[]).body;
        assert!(shown.contains(&format!("\"{lookups}\"")), "{shown}");
    }
    hang_up(config("any", "b"), "host was a and is b: only a restart changes that");
    hang_up("lookup = \"everywhere\"".to_owned(), "expected `host` or `cluster`");
    assert_eq!((node.is_open(), names(stage.port()).len()), (true, 1));
}

#[test]
fn a_service_manager_sees_the_same_process_ready_again() {
    let stage = Stage::start(&[]);
    wait_until("it is ready", SOON, || stage.notified().contains("READY=1"));
    let pid = stage.daemon().pid();
    stage.upgrade();
    wait_until("it is ready again", SOON, || {
        let told = stage.notified();
        told.matches("READY=1").count() == 2 && told.contains(&format!("MAINPID={}", pid.as_raw_nonzero()))
    });
    stage.daemon().signal(Signal::TERM);
    wait_until("it stops in order", SOON, || stage.notified().contains("STOPPING=1"));
}

#[test]
fn whoever_cannot_be_replaced_is_named() {
    let refused = |arguments: &[&str]| {
        let output = Command::new(REPMD).arg("upgrade").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let port = free_port().to_string();
    assert!(refused(&["--port", &port]).contains(&format!("nothing listens on port {port}")));
    let own = std::process::id().to_string();
    assert!(refused(&["--pid", &own]).contains("is no daemon that can be replaced"));
}
