//! `repmd check-config`: what the daemon would do with these settings.

use std::io::Write;

use repmd_test_support::free_port;
use tempfile::{NamedTempFile, TempDir};

use crate::{done, repmd};

#[test]
fn whatever_stops_a_start_by_its_files_is_found_beforehand_with_the_same_words_and_status() {
    let (port, admin) = (free_port().to_string(), format!("127.0.0.1:{}", free_port()));
    let mut short = NamedTempFile::new().unwrap();
    short.write_all(b"too short").unwrap();
    let (short, folder) = (short.path().to_str().unwrap(), TempDir::new().unwrap());
    for (flags, said) in [
        (
            &["--admin-token-file", "/nowhere"][..],
            "admin-token-file: cannot read /nowhere: No such file or directory\n",
        ),
        (&["--admin-token-file", short], "must hold 16 or more"),
        (
            &["--audit-log", "/nowhere/audit.log"],
            "audit-log: cannot open /nowhere/audit.log: No such file or directory\n",
        ),
        (&["--audit-log", folder.path().to_str().unwrap()], "Is a directory\n"),
        (
            &["--hosts-file", "/nowhere/hosts"],
            "hosts-file: cannot write beside /nowhere/hosts: No such file or directory",
        ),
        (&["--backend", "rediss://127.0.0.1:1?ca=/nowhere"], "/nowhere: No such file or directory\n"),
        (
            &["--backend", "redis://127.0.0.1:1?password_file=/nowhere"],
            "/nowhere: No such file or directory\n",
        ),
        (&["--port", "0"], "expected a number from 1 to 65535\n"),
    ] {
        let result = |command| {
            let mut command = repmd([command, "--admin", &admin]);
            command.envs([("REPMD_PORT", &*port), ("REPMD_BACKEND", "redis://127.0.0.1:1")]);
            done(command.args(flags))
        };
        let (checked, served) = (result("check-config"), result("serve"));
        assert_eq!((checked.exit, &*checked.stdout, served.exit), (1, "", 1), "{flags:?}");
        assert!(
            checked.stderr.starts_with("repmd: ") && checked.stderr.contains(said),
            "{flags:?}: {checked:?}"
        );
        assert!(served.stderr.contains(said), "{flags:?}: {served:?}");
    }
}

#[test]
fn a_check_of_files_that_are_well_leaves_them_as_they_are() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("token"), "0123456789abcdef").unwrap();
    std::fs::write(path("old.log"), "a line").unwrap();
    for log in ["new.log", "old.log"] {
        let mut command = repmd(["check-config", "--backend", "redis://127.0.0.1:1"]);
        command.args(["--admin-token-file", &path("token"), "--audit-log", &path(log)]);
        let result = done(command.args(["--hosts-file", &path("hosts")]));
        assert_eq!((result.exit, &*result.stderr), (0, ""));
    }
    let mut files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["old.log", "token"]);
    assert_eq!(std::fs::read_to_string(path("old.log")).unwrap(), "a line");
}

#[test]
fn what_nobody_set_is_shown_as_what_it_comes_to_here() {
    let shown = |flags: &[&str]| {
        let mut limited = std::process::Command::new("prlimit");
        limited.args(["--nofile=1024:1024", env!("CARGO_BIN_EXE_repmd"), "check-config"]).args(flags);
        done(limited.env_clear()).stdout
    };
    let table = shown(&["--host", "here", "--lease-ttl", "90s"]);
    for line in [
        "address = 0.0.0.0,:: (default)",
        "advertise = none (default)",
        "advertise-port = none (default)",
        "stale-for = 1m 30s (default)",
        "admin = 127.0.0.1:4370 (default)",
        "allow-lookups-from = any (default)",
        "allow-lists-from = private,cluster (default)",
        "allow-dns-from = any (default)",
        "command-from = loopback (default)",
        "waiting-max = 256 (default)",
        "waiting-per-peer-max = 64 (default)",
        "relay-connections = 64 (default)",
        "relay-connections-per-peer = 32 (default)",
    ] {
        assert!(table.lines().any(|shown| shown == line), "{line}: {table}");
    }
    let value = |table: &str, key: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        line.unwrap().to_owned()
    };
    assert!(value(&table, "instance-name").ends_with("here:4369 (default)"), "{table}");
    assert_eq!(value(&shown(&["--advertise", "10.1.2.3"]), "alias").matches("10.1.2.3").count(), 1);
    assert!(!value(&shown(&[]), "host").contains(' ') || value(&shown(&[]), "host").ends_with(" (default)"));
    assert_eq!(value(&shown(&["--waiting-max", "100"]), "waiting-per-peer-max"), "25 (default)");
    // A default that is not told by words is no other than that of the daemon.
    let relaxed = done(repmd(["check-config"]).env("ERL_EPMD_RELAXED_COMMAND_CHECK", "0"));
    assert_eq!(relaxed.exit, 0);
    assert!(
        relaxed.stderr.starts_with("repmd: warning: ERL_EPMD_RELAXED_COMMAND_CHECK relaxes"),
        "{relaxed:?}"
    );
}
