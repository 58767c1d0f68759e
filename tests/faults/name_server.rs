//! A name server that never answers.

use std::fs::File;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use repmd_test_support::{Daemon, free_port, in_own_network, lookup_port};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::SOON;

#[test]
fn a_name_server_that_never_answers_delays_neither_the_first_answer_nor_the_end() {
    in_own_network(|| {
        let _server = UdpSocket::bind("127.0.0.1:53").unwrap();
        let folder = TempDir::new().unwrap();
        let resolv = folder.path().join("resolv.conf");
        std::fs::write(&resolv, "nameserver 127.0.0.1\n").unwrap();
        let script = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", resolv.display());
        for url in [
            "redis://store.example.org",
            "redis+cluster://store.example.org,other.example.org",
            "redis+sentinel://store.example.org/main",
        ] {
            let port = free_port();
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_repmd"), "serve"]);
            command.args(["--port", &port.to_string(), "--admin", "off", "--backend", url]);
            let log = folder.path().join("log");
            command.stderr(Stdio::from(File::create(&log).unwrap()));
            let started = Instant::now();
            let mut daemon = Daemon::spawn(command, port);
            assert!(lookup_port(port, "nobody").is_none());
            let took = started.elapsed();
            assert!(took < Duration::from_secs(1), "{url}: the first answer took {took:?}");
            // It asks the name server meanwhile.
            std::thread::sleep(Duration::from_millis(500));
            let stopped = Instant::now();
            daemon.signal(Signal::TERM);
            assert!(daemon.wait(SOON).success());
            let took = stopped.elapsed();
            assert!(took < Duration::from_secs(2), "{url}: the end took {took:?}");
        }
    });
}
