//! Disks that do not answer.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use repmd_test_support::{Network, Peer, lookup_port, run, wait_until};

use crate::{EPMD_PORT, SOON};

/// A file system of its own, which can be frozen: whoever writes to it then waits.
struct Disk {
    folder: tempfile::TempDir,
    is_frozen: bool,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
        let disk = Self { folder, is_frozen: false };
        fs::create_dir(disk.path()).unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), disk.path().to_str().unwrap()]);
        disk
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn freeze(&mut self) {
        run("fsfreeze", &["--freeze", self.path().to_str().unwrap()]);
        self.is_frozen = true;
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.is_frozen) {
            run("fsfreeze", &["--unfreeze", self.path().to_str().unwrap()]);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
        // Not before whoever had files there has ended.
        run("umount", &["--lazy", self.path().to_str().unwrap()]);
    }
}

#[test]
fn a_daemon_starts_serves_and_logs_later_while_its_disk_does_not_answer() {
    let (network, mut disk) = (Network::empty(), Disk::new());
    let log = disk.path().join("audit.log");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_repmd"));
    command.args(["serve", "--log", "error", "--admin", "off", "--audit-log", log.to_str().unwrap()]);
    disk.freeze();
    let begin = Instant::now();
    let daemon = network.inside(|| repmd_test_support::Daemon::spawn(command, EPMD_PORT));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let _node = network.inside(|| {
        let node = Peer::registered_at(EPMD_PORT, "n", 4321);
        assert!(lookup_port(EPMD_PORT, "n").is_some());
        node
    });
    disk.thaw();
    wait_until("what happened meanwhile is in the audit log", SOON, || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("\"registered\""))
    });
    drop(daemon);
}
