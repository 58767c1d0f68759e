//! Look-ups from another machine while a daemon restarts.

use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use repmd::protocol::{Request, decode_port_reply, encode_request};
use repmd_test_support::{Peer, wait_until};
use rustix::process::Signal;

use crate::lab::{Epmd, Lab, Machine, NO_DNS};
use crate::{EPMD_PORT, Module, SOON, on_port, ping};

const LOOK_UPS: u32 = 300;

/// One is begun each so often.
const PERIOD: Duration = Duration::from_millis(20);

/// The one before which the restart begins.
const RESTART: u32 = 50;

/// How long somebody who looks up waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks `foo` up at `asked` from `asker`, which is at port 9000 all the time, while `restart` runs. Returns the
/// look-ups that failed, and when and how they did.
fn failures(asked: &Machine, asker: &Machine, restart: impl FnOnce()) -> Vec<String> {
    let (begin, begun) = channel();
    let at = asked.epmd();
    let look_up = || {
        let mut peer = Peer::connect_from(None, at).map_err(|error| error.to_string())?;
        peer.send(&encode_request(&Request::PortPlease2("foo"))).map_err(|error| error.to_string())?;
        let reply = peer.read(usize::MAX, PATIENCE);
        match decode_port_reply(&reply) {
            Ok(Some(found)) if found.port == 9000 => Ok(()),
            other => Err(format!("{other:?}, {:?}", peer.ended())),
        }
    };
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            asker.network.inside(move || {
                let started = Instant::now();
                let mut failures = Vec::new();
                for number in 0..LOOK_UPS {
                    std::thread::sleep((started + PERIOD * number).saturating_duration_since(Instant::now()));
                    if number == RESTART {
                        begin.send(()).unwrap();
                    }
                    let begun = started.elapsed();
                    if let Err(failure) = look_up() {
                        failures
                            .push(format!("{number} at {begun:?} after {:?}: {failure}", started.elapsed()));
                    }
                }
                failures
            })
        });
        begun.recv().unwrap();
        restart();
        asking.join().unwrap()
    })
}

#[test]
fn at_most_25_of_300_look_ups_fail_when_a_daemon_is_killed_and_started_at_once() {
    let (_lab, [a, b]) = Lab::new();
    let mut daemon = a.serve(Epmd::Repmd, &[]);
    let _foo = a.node("foo@a", NO_DNS, &on_port("9000"));
    let failures = failures(&a, &b, || {
        daemon.signal(Signal::KILL);
        daemon.wait(SOON);
        daemon = a.serve(Epmd::Repmd, &[]);
    });
    println!("{} of {LOOK_UPS} look-ups failed", failures.len());
    assert!(failures.len() <= 25, "{failures:#?}");
}

#[test]
fn no_look_up_fails_when_a_daemon_restarts_in_order_and_its_socket_is_kept() {
    let (_lab, [a, b]) = Lab::new();
    let socket = a.network.inside(|| TcpListener::bind(("0.0.0.0", EPMD_PORT))).unwrap();
    let mut daemon = a.serve_on(&socket);
    let _foo = a.node("foo@a", NO_DNS, &on_port("9000"));
    let failures = failures(&a, &b, || {
        daemon.signal(Signal::TERM);
        assert!(daemon.wait(SOON).success());
        daemon = a.serve_on(&socket);
    });
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn nodes_of_two_machines_reach_each_other_by_a_postgres_also_when_it_comes_back_empty() {
    reach_each_other_also_when_it_comes_back_empty(Lab::with_postgres());
}

#[test]
fn nodes_of_two_machines_reach_each_other_by_an_etcd_also_when_it_comes_back_empty() {
    reach_each_other_also_when_it_comes_back_empty(Lab::with_etcd());
}

/// Nobody resolves the hosts: what leads from one node to the other is in the store.
fn reach_each_other_also_when_it_comes_back_empty((mut lab, [a, b]): (Lab, [Machine; 2])) {
    let _daemons = [&a, &b].map(|machine| machine.serve(Epmd::Repmd, &[]));
    let module = Module::compile();
    let mut first = a.node("first@a", NO_DNS, &module.flags());
    let mut second = b.node("second@b", NO_DNS, &module.flags());
    a.wait_for("second@b");
    assert_eq!(ping(&mut first, "second@b"), "pong");
    assert_eq!(second.eval("nodes()"), "[first@a]");
    lab.restart_store();
    assert_eq!(second.eval("nodes()"), "[first@a]");
    drop(first);
    let mut third = a.node("third@a", NO_DNS, &module.flags());
    b.wait_for("third@a");
    a.wait_for("second@b");
    wait_until("the one that ended is gone", SOON, || b.find("first@a").is_none());
    assert_eq!(ping(&mut third, "second@b"), "pong");
}
