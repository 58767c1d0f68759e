//! The units for systemd, judged by systemd's own tools.

use std::fs::{copy, create_dir_all, read_link, read_to_string, write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use repmd_test_support::{Daemon, free_port};

use crate::{Done, done, repmd};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd");

/// The units in a folder of their own, starting the program that was just built.
fn units() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for unit in ["repmd.service", "repmd.socket", "repmd-dns.socket"] {
        let text = read_to_string(Path::new(UNITS).join(unit)).unwrap();
        write(folder.path().join(unit), text.replace("/usr/bin/repmd", env!("CARGO_BIN_EXE_repmd"))).unwrap();
    }
    folder
}

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    let folder = units();
    let mut verify = Command::new("systemd-analyze");
    let units = ["repmd.service", "repmd.socket", "repmd-dns.socket"];
    verify.arg("verify").args(units.map(|unit| folder.path().join(unit)));
    assert_eq!(done(&mut verify), Done::new(0, "", ""));
}

/// Drop-ins for the units, and a service beside them.
#[test]
fn systemd_has_nothing_to_say_against_its_recipe() {
    let folder = units();
    let recipe = include_str!("../../docs/recipes/systemd.md");
    let blocks: Vec<_> =
        recipe.split("\n```ini ").skip(1).filter_map(|block| block.split_once('\n')).collect();
    assert_eq!(blocks.len(), 3);
    for (name, block) in blocks {
        let (text, _) = block.split_once("```").unwrap();
        let file = folder.path().join(name);
        create_dir_all(file.parent().unwrap()).unwrap();
        write(file, text.replace("/opt/demo/bin/demo", env!("CARGO_BIN_EXE_repmd"))).unwrap();
    }
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify");
    verify.args(["repmd.service", "repmd.socket", "demo.service"].map(|unit| folder.path().join(unit)));
    assert_eq!(done(&mut verify), Done::new(0, "", ""));
}

/// Monitoring that looks for a process: `pidof epmd`, `pgrep -x epmd`, `check_procs -C epmd`, which reads `ps`.
#[test]
fn whoever_looks_for_a_process_called_epmd_finds_the_service() {
    let unit = read_to_string(Path::new(UNITS).join("repmd.service")).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=@/usr/bin/repmd ")).unwrap();
    let (name, arguments) = start.split_once(' ').unwrap();
    let port = free_port();
    let mut command = repmd(arguments.split(' ').chain(["--admin", "off", "--port", &port.to_string()]));
    command.arg0(name).stderr(Stdio::null());
    let daemon = Daemon::spawn(command, port);
    let pid = daemon.pid().as_raw_nonzero().to_string();
    for line in ["pidof epmd", "pgrep -x epmd", "ps -C epmd -o pid="] {
        let mut words = line.split(' ');
        let found = done(Command::new(words.next().unwrap()).args(words)).stdout;
        assert!(found.split_whitespace().any(|found| found == pid), "{line}: {found} without {pid}");
    }
}

/// 9.6 without any confinement, 1.2 with what does not keep the daemon from its work.
#[test]
fn the_service_is_confined() {
    let folder = units();
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--threshold=15", "--no-pager"]);
    let result = done(security.arg(folder.path().join("repmd.service")));
    assert_eq!(result.exit, 0, "{}", result.stdout);
}

/// What wants `epmd.socket` or `epmd.service` gets repmd's, although the units of the stock package stay.
#[test]
fn enabling_the_service_takes_the_place_of_the_stock_units() {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("usr/lib/systemd/system");
    create_dir_all(&units).unwrap();
    for unit in ["repmd.service", "repmd.socket"] {
        copy(Path::new(UNITS).join(unit), units.join(unit)).unwrap();
    }
    for unit in ["epmd.service", "epmd.socket"] {
        write(units.join(unit), "[Unit]\nDescription=Erlang Port Mapper Daemon\n").unwrap();
    }
    let mut enable = Command::new("systemctl");
    enable.arg(format!("--root={}", root.path().display())).args(["enable", "repmd.service"]);
    let result = done(&mut enable);
    assert_eq!(result.exit, 0, "{}", result.stderr);
    let chosen = root.path().join("etc/systemd/system");
    for (link, unit) in [
        ("epmd.service", "repmd.service"),
        ("epmd.socket", "repmd.socket"),
        ("multi-user.target.wants/repmd.service", "repmd.service"),
        ("sockets.target.wants/repmd.socket", "repmd.socket"),
    ] {
        let target = read_link(chosen.join(link)).unwrap();
        assert_eq!(target, Path::new("/usr/lib/systemd/system").join(unit), "{link}");
    }
}
