//! Hosts: networks of their own, each with its own name, its own `/etc/hosts` and its own `/etc/resolv.conf`.

use std::process::{Command, Stdio};

use repmd_test_support::Network;
use serde_json::Value;
use tempfile::NamedTempFile;

/// What a healthy host knows.
const NAMES: &str = "127.0.0.1 localhost\n10.99.0.1 hosta hosta.example\n10.99.0.2 hostb hostb.example\n";

pub(crate) struct Host {
    name: &'static str,
    network: Network,
    names: NamedTempFile,
    resolver: NamedTempFile,
}

/// `hosta` at 10.99.0.1, and `hostb` at 10.99.0.2, on one network. They go with the last process in them.
pub(crate) fn hosts() -> (Host, Host) {
    let [a, b] = ["hosta", "hostb"].map(|name| {
        let file = || NamedTempFile::new().unwrap();
        let mut host = Host { name, network: Network::empty(), names: file(), resolver: file() };
        host.know(NAMES);
        host
    });
    a.network.join("eth0", &b.network, "eth0");
    a.network.address("eth0", "10.99.0.1/24");
    b.network.address("eth0", "10.99.0.2/24");
    (a, b)
}

/// What the doctor said.
#[derive(Debug)]
pub(crate) struct Found {
    exit: i32,
    report: Value,
}

impl Host {
    /// Writes its `/etc/hosts`.
    pub(crate) fn know(&mut self, names: &str) {
        std::fs::write(self.names.path(), names).unwrap();
    }

    /// Writes its `/etc/resolv.conf`.
    pub(crate) fn ask_of(&mut self, servers: &str) {
        std::fs::write(self.resolver.path(), servers).unwrap();
    }

    /// Does something in its network.
    pub(crate) fn inside<T: Send>(&self, something: impl FnOnce() -> T + Send) -> T {
        self.network.inside(something)
    }

    /// repmd as it runs on this host.
    pub(crate) fn repmd(&self, command: &str) -> Command {
        const SCRIPT: &str = "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && \
                              hostname \"$3\" && shift 3 && exec \"$@\"";
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--uts", "sh", "-c", SCRIPT, "sh"]);
        unshare.arg(self.names.path()).arg(self.resolver.path()).arg(self.name);
        unshare.args([env!("CARGO_BIN_EXE_repmd"), command]).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("ERL_EPMD_") || name.starts_with("REPMD_") {
                unshare.env_remove(name);
            }
        }
        unshare
    }

    /// What the doctor on this host finds.
    pub(crate) fn doctor(&self, arguments: &[&str]) -> Found {
        self.doctor_with(arguments, &[])
    }

    /// The same from a container of this host that sees no other processes, as one beside a daemon's.
    pub(crate) fn doctor_apart(&self, arguments: &[&str]) -> Found {
        let doctor = self.repmd("doctor");
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc"]).arg(doctor.get_program()).args(doctor.get_args());
        self.found_by(command, arguments, &[])
    }

    pub(crate) fn doctor_with(&self, arguments: &[&str], variables: &[(&str, String)]) -> Found {
        self.found_by(self.repmd("doctor"), arguments, variables)
    }

    /// What the doctor says to people.
    pub(crate) fn doctor_said(&self, arguments: &[&str]) -> String {
        let mut command = self.repmd("doctor");
        command.args(arguments);
        let output = self.inside(|| command.output()).unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn found_by(&self, mut command: Command, arguments: &[&str], variables: &[(&str, String)]) -> Found {
        command.arg("--json").args(arguments).envs(variables.iter().cloned());
        let output = self.inside(|| command.output()).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout);
        let report = report.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!(stderr, "", "{report:#}");
        Found { exit: output.status.code().unwrap(), report }
    }
}

impl Found {
    /// The only thing that is found is `id`, and what was seen names each of `words`.
    #[track_caller]
    pub(crate) fn is_only(&self, id: &str, severity: &str, words: &[&str]) {
        self.are(&[id]);
        let exit = ["fine", "warning", "failure"].iter().position(|word| *word == severity).unwrap();
        assert_eq!(
            (self.report["severity"].as_str(), self.exit),
            (Some(severity), exit as i32),
            "{:#}",
            self.report
        );
        let saw = self.saw(id);
        for word in words {
            assert!(saw.contains(word), "{word}: {saw}");
        }
    }

    /// These are found, and nothing else.
    #[track_caller]
    pub(crate) fn are(&self, ids: &[&str]) {
        let findings = self.report["findings"].as_array().unwrap();
        let found: Vec<_> = findings.iter().filter_map(|finding| finding["id"].as_str()).collect();
        assert_eq!(found, ids, "{:#}", self.report);
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.report["findings"].as_array().unwrap().iter().any(|finding| finding["id"] == id)
    }

    #[track_caller]
    pub(crate) fn saw(&self, id: &str) -> &str {
        let findings = self.report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["id"] == id);
        finding.unwrap_or_else(|| panic!("no {id}: {:#}", self.report))["saw"].as_str().unwrap()
    }
}
