//! Machines that come with each other's identity: cloned images, and names that nobody changed.

use std::fs;
use std::process::Command;

use repmd_test_support::{Daemon, Peer, alive2, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{Lab, Machine, kill};
use crate::{EPMD_PORT, SOON};

/// What this machine calls itself, as every daemon here does that is not told otherwise.
fn own_name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_str().unwrap().split('.').next().unwrap().to_owned()
}

/// A daemon at default settings, on a machine with this machine-id.
fn serve(machine: &Machine, machine_id: &str) -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("machine-id");
    fs::write(&file, format!("{machine_id}\n")).unwrap();
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$0\" /etc/machine-id && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script]).arg(&file).arg(env!("CARGO_BIN_EXE_repmd"));
    let addresses: Vec<_> = machine.addresses.iter().map(ToString::to_string).collect();
    command.args(["serve", "--log", "error", "--lease-ttl", "3s", "--advertise", &addresses.join(",")]);
    command.args(["--backend", &machine.store]);
    machine.network.inside(|| Daemon::spawn(command, EPMD_PORT))
}

/// Why its daemon is not ready.
fn complaints(machine: &Machine) -> Vec<String> {
    let ready: Value = serde_json::from_str(&machine.shown("/readyz")).unwrap();
    ready["reasons"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap().to_owned()).collect()
}

/// Waits until the daemons of both are told of each other, with the addresses of both and what to do.
fn wait_until_told(machines: [&Machine; 2], what: &str) {
    for machine in machines {
        wait_until(&format!("{} is told that {what}", machine.host), SOON, || {
            complaints(machine).iter().any(|complaint| {
                let has_all =
                    ["10.77.0.1", "10.77.0.2", "--host"].iter().all(|part| complaint.contains(part));
                has_all && complaint.starts_with(what)
            })
        });
    }
}

/// `None`: refused.
fn register(machine: &Machine, name: &str, port: u16) -> Option<Peer> {
    let mut node = machine.network.inside(|| Peer::connect(EPMD_PORT));
    node.send(&alive2(name, port)).unwrap();
    match *node.read(6, SOON) {
        [118, 0, ..] => Some(node),
        [118, 1, ..] => None,
        ref reply => panic!("{name}: {reply:02x?}"),
    }
}

#[test]
fn two_machines_of_one_name_are_told_of_each_other_and_none_takes_the_other_s_names() {
    let (_lab, [a, b]) = Lab::new();
    let (first, second) = ("3d1219c7c4c5404aaa1f6d2a48adfda4", "7f0b4c5d7c2f4b1f9d6f0b0d7c2a4e11");
    let (of_a, _of_b) = (serve(&a, first), serve(&b, second));
    let _app = register(&a, "app", 1000).unwrap();
    assert!(register(&b, "app", 2000).is_none(), "another machine has it");
    wait_until_told([&a, &b], &format!("two machines are called {}", own_name()));
    assert_eq!((a.find("app"), b.find("app")), (Some(1000), Some(1000)));
    // One that restarts is no other machine.
    kill(of_a);
    let _next = serve(&a, first);
    let _app = register(&a, "app", 1000).expect("its own past does not refuse it");
}

/// Clones of one image often have its machine-id too.
#[test]
fn two_daemons_of_one_identity_are_told_of_each_other_until_one_ends() {
    let (_lab, [a, b]) = Lab::new();
    let id = "3d1219c7c4c5404aaa1f6d2a48adfda4";
    let (of_a, mut of_b) = (serve(&a, id), serve(&b, id));
    let _app = register(&a, "app", 1000).unwrap();
    wait_until_told([&a, &b], "two daemons are called ");
    of_b.signal(Signal::TERM);
    assert!(of_b.wait(SOON).success());
    wait_until("the other one is well again", SOON, || complaints(&a).is_empty());
    // One that is killed and started again is not taken for another.
    kill(of_a);
    let _next = serve(&a, id);
    let _app = register(&a, "app", 1000).unwrap();
    for _ in 0..60 {
        assert_eq!(complaints(&a), [""; 0]);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
