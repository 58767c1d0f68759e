//! Look-ups from another machine while a daemon restarts.

use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use repmd::protocol::{Request, decode_port_reply, encode_request};
use repmd_test_support::Peer;
use rustix::process::Signal;

use crate::lab::{Epmd, Lab, Machine, NO_DNS};
use crate::{EPMD_PORT, SOON, on_port};

const LOOK_UPS: u32 = 300;

/// One is begun each so often.
const PERIOD: Duration = Duration::from_millis(20);

/// The one before which the restart begins.
const RESTART: u32 = 50;

/// How long somebody who looks up waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks `foo` up at `asked` from `asker`, which is at port 9000 all the time, while `restart` runs. Returns how
/// many of the look-ups failed.
fn failures(asked: &Machine, asker: &Machine, restart: impl FnOnce()) -> u32 {
    let (begin, begun) = channel();
    let at = asked.epmd();
    let finds = || {
        let Ok(mut peer) = Peer::connect_from(None, at) else { return false };
        let request = encode_request(&Request::PortPlease2("foo"));
        let reply = peer.send(&request).map(|()| peer.read(usize::MAX, PATIENCE)).unwrap_or_default();
        matches!(decode_port_reply(&reply), Ok(Some(found)) if found.port == 9000)
    };
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            asker.network.inside(move || {
                let started = Instant::now();
                let mut failed = 0;
                for number in 0..LOOK_UPS {
                    std::thread::sleep((started + PERIOD * number).saturating_duration_since(Instant::now()));
                    if number == RESTART {
                        begin.send(()).unwrap();
                    }
                    failed += u32::from(!finds());
                }
                failed
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
    let failed = failures(&a, &b, || {
        daemon.signal(Signal::KILL);
        daemon.wait(SOON);
        daemon = a.serve(Epmd::Repmd, &[]);
    });
    println!("{failed} of {LOOK_UPS} look-ups failed");
    assert!(failed <= 25, "{failed} look-ups failed");
}

#[test]
fn no_look_up_fails_when_a_daemon_restarts_in_order_and_its_socket_is_kept() {
    let (_lab, [a, b]) = Lab::new();
    let socket = a.network.inside(|| TcpListener::bind(("0.0.0.0", EPMD_PORT))).unwrap();
    let mut daemon = a.serve_on(&socket);
    let _foo = a.node("foo@a", NO_DNS, &on_port("9000"));
    let failed = failures(&a, &b, || {
        daemon.signal(Signal::TERM);
        assert!(daemon.wait(SOON).success());
        daemon = a.serve_on(&socket);
    });
    assert_eq!(failed, 0);
}
