//! One etcd of one member or three.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use repmd_test_support::{free_port, wait_for, wait_until};
use tempfile::TempDir;

use crate::PATIENCE;
use crate::certificates::Certificates;
use crate::release::Release;
use crate::running::Running;

/// An etcd for tests. Its members end with it.
#[derive(Debug)]
pub struct Etcd {
    release: Release,
    members: Vec<Member>,
    certificates: Option<Certificates>,
    /// Where members listen for clients.
    address: &'static str,
    /// More options than a member needs.
    options: Vec<String>,
    /// How often it was made anew: members of another life know nothing of this one.
    lives: u32,
    // Last: it goes when no member writes to it any longer.
    folder: TempDir,
}

/// The key that fills one.
const FILLING: &str = "filling";

/// How the members of an etcd are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtcdKind {
    /// One member.
    Alone,
    /// One member that takes TLS only, and asks for a client's certificate.
    Tls,
    /// Three members, two of which decide.
    Three,
}

#[derive(Debug)]
struct Member {
    client: u16,
    peer: u16,
    running: Option<Running>,
}

impl Etcd {
    /// One member.
    #[must_use]
    pub fn alone() -> Self {
        Self::start(EtcdKind::Alone, Release::InstalledEtcd, &[])
    }

    /// Three members.
    #[must_use]
    pub fn three() -> Self {
        Self::start(EtcdKind::Three, Release::InstalledEtcd, &[])
    }

    /// Any arrangement of any release, with more options for its members.
    #[must_use]
    pub fn start(kind: EtcdKind, release: Release, options: &[&str]) -> Self {
        let mut etcd = Self::new(kind, release, options);
        etcd.revive();
        etcd
    }

    /// One member that listens on all addresses of this network, with more options.
    #[must_use]
    pub fn start_for_all(port: u16, options: &[&str]) -> Self {
        let mut etcd = Self::new(EtcdKind::Alone, Release::InstalledEtcd, options);
        (etcd.members[0].client, etcd.address) = (port, "0.0.0.0");
        etcd.revive();
        etcd
    }

    fn new(kind: EtcdKind, release: Release, options: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("repmd-store").tempdir().expect("a folder can be made");
        let member = || Member { client: free_port(), peer: free_port(), running: None };
        let members = (0..if kind == EtcdKind::Three { 3 } else { 1 }).map(|_| member()).collect();
        let certificates = (kind == EtcdKind::Tls).then(|| Certificates::create(folder.path()));
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { release, members, certificates, address: "127.0.0.1", options, lives: 0, folder }
    }

    /// The store's URL, as the daemon takes it; with TLS also the files to use.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_for("")
    }

    /// [`Etcd::url`] with `login` before the hosts, as in `user:password@`.
    #[must_use]
    pub fn url_for(&self, login: &str) -> String {
        let hosts: Vec<_> =
            self.members.iter().map(|member| format!("127.0.0.1:{}", member.client)).collect();
        let hosts = hosts.join(",");
        match &self.certificates {
            None => format!("etcd://{login}{hosts}"),
            Some(certificates) => format!("etcds://{login}{hosts}?{}", certificates.query()),
        }
    }

    /// The URL of one member alone.
    #[must_use]
    pub fn member_url(&self, member: usize) -> String {
        format!("etcd://127.0.0.1:{}", self.members[member].client)
    }

    /// A folder that goes when the store does.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificates of a store with TLS.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("this store has no TLS")
    }

    /// What `etcdctl` says to a command, with its words apart.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn tell(&self, command: &[&str]) -> String {
        self.try_tell(command).unwrap_or_else(|said| panic!("{command:?}: {said}"))
    }

    /// The same.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn try_tell(&self, command: &[&str]) -> Result<String, String> {
        let Output { status, stdout, stderr } = self.ask(command);
        let said = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if status.success() { Ok(said(stdout)) } else { Err(said(stderr)) }
    }

    /// Runs commands as its root once it [asks for logins](Self::ask_for_logins), with `; ` between them.
    pub fn tell_as_root(&self, commands: &str) {
        for command in commands.split("; ") {
            let login = ["--user", "root:r00t"];
            self.tell(&login.into_iter().chain(command.split_whitespace()).collect::<Vec<_>>());
        }
    }

    /// Lets nobody in without a login from now on, but its root and these users: their name, their password, and the
    /// prefix of the keys to which they have all rights, by a role of their name.
    pub fn ask_for_logins(&self, users: &[[&str; 3]]) {
        let tell = |command: String| drop(self.tell(&command.split(' ').collect::<Vec<_>>()));
        tell("user add root:r00t".to_owned());
        tell("user grant-role root root".to_owned());
        for [name, password, prefix] in users {
            tell(format!("role add {name}"));
            tell(format!("role grant-permission --prefix=true {name} readwrite {prefix}"));
            tell(format!("user add {name}:{password}"));
            tell(format!("user grant-role {name} {name}"));
        }
        tell("auth enable".to_owned());
    }

    /// Writes to one that has a quota until it takes no more.
    pub fn fill(&self) {
        let value = "x".repeat(100_000);
        while self.try_tell(&["put", FILLING, &value]).is_ok() {}
    }

    /// Makes room in one that is full, as an operator does.
    pub fn make_room(&self) {
        self.tell(&["del", FILLING]);
        self.compact();
        self.tell(&["defrag"]);
        self.tell(&["alarm", "disarm"]);
    }

    /// Forgets all revisions but the last.
    pub fn compact(&self) {
        self.tell(&["compact", &self.revision()]);
    }

    /// Where a member is served, as `HOST:PORT`.
    #[must_use]
    pub fn address(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.members[member].client)
    }

    /// The revision of what is in the store now.
    #[must_use]
    pub fn revision(&self) -> String {
        let status = self.tell(&["get", "nothing", "-w", "json"]);
        let number = status.split("\"revision\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
        number.expect("an answer has a revision").to_owned()
    }

    fn ask(&self, command: &[&str]) -> Output {
        let mut etcdctl = self.etcdctl(&self.running());
        etcdctl.args(command).output().unwrap_or_else(|error| panic!("cannot start etcdctl: {error}"))
    }

    fn running(&self) -> String {
        let runs = self.members.iter().filter(|member| member.running.is_some());
        runs.map(|member| format!("{}://127.0.0.1:{}", self.scheme(), member.client))
            .collect::<Vec<_>>()
            .join(",")
    }

    fn etcdctl(&self, endpoints: &str) -> Command {
        let mut etcdctl = self.release.etcdctl();
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", endpoints, "--command-timeout", "10s"]);
        if let Some(Certificates { authority, client, .. }) = &self.certificates {
            etcdctl.arg("--cacert").arg(authority).arg("--cert").arg(&client.0).arg("--key").arg(&client.1);
        }
        etcdctl
    }

    fn scheme(&self) -> &'static str {
        if self.certificates.is_some() { "https" } else { "http" }
    }

    /// The processor time that all members have used. A container's is not counted.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.members.iter().filter_map(|member| member.running.as_ref()).map(Running::cpu).sum()
    }

    /// Kills all members.
    pub fn kill(&mut self) {
        self.members.iter_mut().for_each(|member| member.running = None);
    }

    /// Kills one member, and leaves what it has on its disk.
    pub fn kill_member(&mut self, member: usize) {
        self.members[member].running = None;
    }

    /// Starts what was killed again, with what it had on its disk.
    pub fn revive(&mut self) {
        for number in 0..self.members.len() {
            self.launch(number);
        }
        self.wait_until_it_serves();
    }

    /// Starts one member again.
    pub fn revive_member(&mut self, member: usize) {
        self.launch(member);
    }

    /// Starts what was killed again; nothing is left of what was in it.
    pub fn revive_empty(&mut self) {
        self.lives += 1;
        self.revive();
    }

    /// Kills all members and starts them again at once, empty and on the same ports.
    pub fn restart_empty(&mut self) {
        self.kill();
        self.revive_empty();
    }

    /// Kills all members and starts them again at once, with all that they had.
    pub fn restart(&mut self) {
        self.kill();
        self.revive();
    }

    /// Takes a backup of what is in the store now.
    #[must_use]
    pub fn back_up(&self) -> PathBuf {
        let file = self.folder().join(format!("backup-{}", free_port()));
        let endpoint = format!("{}://127.0.0.1:{}", self.scheme(), self.members[0].client);
        let mut etcdctl = self.etcdctl(&endpoint);
        let saved = etcdctl.arg("snapshot").arg("save").arg(&file).output().expect("etcdctl starts");
        assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
        file
    }

    /// Kills all members, and starts them with a backup, as an operator does who knows no better: under the same
    /// names.
    pub fn restore(&mut self, backup: &Path) {
        self.kill();
        let token = self.token();
        self.lives += 1;
        for number in 0..self.members.len() {
            let mut etcdctl = self.release.etcdctl();
            etcdctl.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(backup);
            etcdctl.args(["--name", &format!("m{number}"), "--initial-cluster", &self.initial_cluster()]);
            etcdctl.args(["--initial-cluster-token", &token]);
            etcdctl.args(["--initial-advertise-peer-urls", &self.peer_url(number)]);
            let restored = etcdctl.arg("--data-dir").arg(self.data(number)).output().expect("etcdctl starts");
            assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        }
        self.revive();
    }

    /// Stalls all members: they accept connections and bytes, and do nothing.
    pub fn pause(&mut self) {
        self.members.iter().filter_map(|member| member.running.as_ref()).for_each(Running::pause);
    }

    /// Stalls one member.
    pub fn pause_member(&mut self, member: usize) {
        if let Some(running) = &self.members[member].running {
            running.pause();
        }
    }

    /// Lets them go on.
    pub fn resume(&mut self) {
        self.members.iter().filter_map(|member| member.running.as_ref()).for_each(Running::resume);
    }

    /// Which member is the leader.
    #[must_use]
    pub fn leader(&self) -> usize {
        wait_for("a member is the leader", PATIENCE, || {
            self.members.iter().position(|member| {
                let asked = member.running.is_some().then(|| {
                    let endpoint = format!("{}://127.0.0.1:{}", self.scheme(), member.client);
                    self.etcdctl(&endpoint)
                        .args(["endpoint", "status"])
                        .output()
                        .expect("etcdctl starts")
                        .stdout
                });
                // ENDPOINT, ID, VERSION, SIZE, LEADER, and so on.
                let said = asked.map(|said| String::from_utf8_lossy(&said).into_owned()).unwrap_or_default();
                said.split(", ").nth(4) == Some("true")
            })
        })
    }

    /// Kills the leader, and waits until there is another.
    pub fn fail_over(&mut self) -> usize {
        let lost = self.leader();
        self.kill_member(lost);
        self.wait_until_it_serves();
        lost
    }

    fn wait_until_it_serves(&self) {
        // Where logins are asked for, a refusal is an answer.
        let serves = || {
            let Output { status, stderr, .. } = self.ask(&["get", "nothing"]);
            let said = String::from_utf8_lossy(&stderr);
            status.success() || said.contains("user name is empty")
        };
        wait_until("the etcd serves", PATIENCE, serves);
    }

    fn peer_url(&self, number: usize) -> String {
        format!("http://127.0.0.1:{}", self.members[number].peer)
    }

    fn initial_cluster(&self) -> String {
        let members = 0..self.members.len();
        members.map(|number| format!("m{number}={}", self.peer_url(number))).collect::<Vec<_>>().join(",")
    }

    fn token(&self) -> String {
        format!("life-{}", self.lives)
    }

    fn data(&self, number: usize) -> PathBuf {
        self.folder().join(format!("m{number}-{}", self.lives))
    }

    fn launch(&mut self, number: usize) {
        if self.members[number].running.is_some() {
            return;
        }
        let (scheme, port) = (self.scheme(), self.members[number].client);
        let listens = format!("{scheme}://{}:{port}", self.address);
        let client = format!("{scheme}://127.0.0.1:{port}");
        let (peer, data) = (self.peer_url(number), self.data(number));
        let (name, cluster, token) = (format!("m{number}"), self.initial_cluster(), self.token());
        let data = data.to_str().expect("the folder's name is a text");
        let mut arguments: Vec<_> = [
            ["--name", &name],
            ["--data-dir", data],
            ["--listen-client-urls", &listens],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &cluster],
            ["--initial-cluster-token", &token],
            ["--logger", "zap"],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
        if let Some(Certificates { authority, server, .. }) = &self.certificates {
            let files =
                [("--cert-file", &server.0), ("--key-file", &server.1), ("--trusted-ca-file", authority)];
            for (option, file) in files {
                arguments.extend([option.to_owned(), file.display().to_string()]);
            }
            arguments.push("--client-cert-auth".to_owned());
        }
        arguments.extend(self.options.iter().cloned());
        let log = self.folder().join(format!("{name}.log"));
        let running = Running::start(self.release, &arguments, self.folder(), &log);
        self.members[number].running = Some(running);
    }
}
