//! A PostgreSQL server, alone or with standbys.

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use repmd_test_support::{faketime, free_port, wait_for, wait_until};
use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;

use crate::PATIENCE;
use crate::certificates::Certificates;
use crate::registry::Shared;
use crate::release::debian_root;

/// Who may do everything there.
const OWNER: &str = "postgres";

/// The role of the daemons, and the database that it owns.
const ROLE: &str = "repmd";

/// The user and the group that the programs run as in another release's root.
const NOBODY: &str = "65534:65534";

/// As a test needs it: nothing is kept longer than the test.
const OPTIONS: &[&str] = &["fsync=off", "max_connections=200", "shared_buffers=32MB", "timezone=UTC"];

/// One that has ended in order, with the role and the database in it: to copy it takes a moment, to make one seconds.
static TEMPLATE: Shared<Postgres> = Shared::new();
static TEMPLATE_17: Shared<Postgres> = Shared::new();

/// Whose programs a server is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    /// The newest that are installed on this machine.
    Installed,
    /// Those of PostgreSQL 17, from Debian 13.
    Debian13,
}

/// A server, of the release that is installed on this machine unless it says otherwise.
#[derive(Debug)]
pub struct Postgres {
    release: Release,
    port: u16,
    options: Vec<String>,
    certificates: Option<Certificates>,
    running: Option<Child>,
    address: &'static str,
    clock: Option<&'static str>,
    disk: Option<u32>,
    /// What it was copied from, which others copy as long as there is any.
    template: Option<Arc<Self>>,
    // Last: it goes when no server writes to it any longer.
    folder: TempDir,
}

impl Postgres {
    /// A server with the role and the database of the daemons, which are called `repmd`; the role needs no password,
    /// and owns the database.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with more settings, as in `fsync=on`.
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Self {
        let mut server = Self::new(settings, None, new_folder());
        server.fill();
        server.revive();
        server
    }

    /// A server that takes nothing but TLS over the network, and asks for a client's certificate for the role.
    #[must_use]
    pub fn tls() -> Self {
        let folder = new_folder();
        let certificates = Certificates::create_for(folder.path(), ROLE);
        let (certificate, key) = &certificates.server;
        std::fs::set_permissions(key, PermissionsExt::from_mode(0o600)).expect("the file is ours");
        let settings = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", certificate.display()),
            format!("ssl_key_file={}", key.display()),
            format!("ssl_ca_file={}", certificates.authority.display()),
        ];
        let settings: Vec<_> = settings.iter().map(String::as_str).collect();
        let mut server = Self::new(&settings, Some(certificates), folder);
        server.fill();
        server.let_in("hostssl all repmd all cert\nhost all postgres all trust");
        server.revive();
        server
    }

    /// A server of PostgreSQL 17. Needs root.
    #[must_use]
    pub fn start_17() -> Self {
        let mut server = Self::new(&[], None, new_folder());
        server.release = Release::Debian13;
        server.fill();
        server.revive();
        server
    }

    /// A server that listens on this port, and writes through to its disk as one does that nobody has set up for tests.
    #[must_use]
    pub fn start_on(port: u16) -> Self {
        let mut server = Self::new(&["fsync=on"], None, new_folder());
        server.port = port;
        server.fill();
        server.revive();
        server
    }

    /// A server that listens on all addresses of this network, and lets everybody in.
    #[must_use]
    pub fn start_for_all(port: u16) -> Self {
        let mut server = Self::new(&[], None, new_folder());
        (server.port, server.address) = (port, "0.0.0.0");
        server.fill();
        server.let_in("host all all all trust");
        server.revive();
        server
    }

    /// A server whose clock is off, as `faketime` is told: `-1d`.
    #[must_use]
    pub fn start_off(clock: &'static str) -> Self {
        let mut server = Self::new(&[], None, new_folder());
        server.clock = Some(clock);
        server.fill();
        server.revive();
        server
    }

    /// A server whose disk has so many MiB. It is gone when it is killed. Needs root.
    #[must_use]
    pub fn start_small(mebibytes: u32) -> Self {
        // What is filled into a new table needs no place in the log as well.
        let mut server = Self::new(&["wal_level=minimal", "max_wal_senders=0"], None, new_folder());
        server.disk = Some(mebibytes);
        server.revive();
        server
    }

    fn new(settings: &[&str], certificates: Option<Certificates>, folder: TempDir) -> Self {
        let options = OPTIONS.iter().chain(settings).map(|option| (*option).to_owned()).collect();
        Self {
            release: Release::Installed,
            port: free_port(),
            options,
            certificates,
            running: None,
            address: "127.0.0.1",
            clock: None,
            disk: None,
            template: None,
            folder,
        }
    }

    /// Makes a database cluster in which there is nothing but the role and the database.
    fn fill(&mut self) {
        let data = self.data();
        // It fails where there is none.
        let _ = std::fs::remove_dir_all(&data);
        let release = self.release;
        let shared = match release {
            Release::Installed => &TEMPLATE,
            Release::Debian13 => &TEMPLATE_17,
        };
        let template = self.template.get_or_insert_with(|| shared.get(|| Self::template(release)));
        run(Command::new("cp").args(["-a", "--reflink=auto"]).args([template.data(), data]));
    }

    fn template(release: Release) -> Self {
        let mut server = Self::new(&[], None, new_folder());
        server.release = release;
        let mut initdb = server.program("initdb");
        initdb.args(["--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8", "--username", OWNER]);
        run(initdb.arg("-D").arg(server.data()));
        server.revive();
        // In order: what is copied has nothing to recover.
        let mut postmaster = server.running.take().expect("it was started");
        kill_process(Pid::from_child(&postmaster), Signal::INT).expect("it runs");
        assert!(postmaster.wait().expect("a child can be waited for").success());
        server
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its URL, as a daemon takes it; with TLS also the files to use.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_for(ROLE)
    }

    /// [`Postgres::url`] with another login, as in `user:password`.
    #[must_use]
    pub fn url_for(&self, login: &str) -> String {
        let url = format!("postgres://{login}@127.0.0.1:{}/{ROLE}", self.port);
        match &self.certificates {
            None => url,
            Some(Certificates { authority, client: (certificate, key), .. }) => format!(
                "{url}?sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}",
                authority.display(),
                certificate.display(),
                key.display()
            ),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A folder that goes when the server does.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificates of a server with TLS.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("this server has no TLS")
    }

    /// Runs statements as the owner of the server, and returns their rows: fields with `|` between them.
    #[must_use]
    pub fn query(&self, statements: &str) -> String {
        self.try_query(ROLE, statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    /// Runs statements as the owner of the server.
    pub fn run(&self, statements: &str) {
        let _ = self.query(statements);
    }

    /// Runs statements in a database.
    ///
    /// # Errors
    /// What the server says.
    pub fn try_query(&self, database: &str, statements: &str) -> Result<String, String> {
        let output = self.psql(OWNER, database, statements).output().expect("psql is installed");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The command that runs statements in a database as a role, and writes their rows as [`Self::query`] has them.
    #[must_use]
    pub fn psql(&self, role: &str, database: &str, statements: &str) -> Command {
        let mut psql = Command::new(bin().join("psql"));
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        psql.args(["-U", role, "-d", database, "-c", statements]).env("PGCONNECT_TIMEOUT", "5");
        psql
    }

    /// Who may log in and how, from now on, in the words of `pg_hba.conf`.
    pub fn let_in(&self, rules: &str) {
        let rules = format!("local all all trust\n{rules}\nhost replication all all trust\n");
        std::fs::write(self.data().join("pg_hba.conf"), rules).expect("the folder takes a file");
        if self.running.is_some() {
            self.run("select pg_reload_conf()");
        }
    }

    /// Starts it again unless it runs, and waits until it answers.
    pub fn revive(&mut self) {
        if self.running.is_some() {
            return;
        }
        let log = self.folder.path().join("log");
        let log_file = File::options().create(true).append(true).open(&log).expect("the folder takes a file");
        let mut postgres = match self.disk {
            None => self.program("postgres"),
            Some(mebibytes) => on_disk(&self.data(), mebibytes),
        };
        if let Some(clock) = self.clock {
            postgres.envs(faketime(clock));
        }
        postgres.arg("-D").arg(self.data()).args(["-h", self.address, "-p", &self.port.to_string(), "-k"]);
        postgres.arg(self.folder.path());
        for option in &self.options {
            postgres.args(["-c", option]);
        }
        let errors = log_file.try_clone().expect("a descriptor can be copied");
        let child = postgres.stdin(Stdio::null()).stdout(log_file).stderr(errors).spawn();
        self.running = Some(child.unwrap_or_else(|error| panic!("cannot start {postgres:?}: {error}")));
        wait_for("PostgreSQL answers", PATIENCE, || {
            let running = self.running.as_mut().expect("it was started");
            if let Some(status) = running.try_wait().expect("a child can be waited for") {
                panic!(
                    "PostgreSQL ended at once: {status}\n{}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                );
            }
            self.try_query("postgres", "select 1").ok()
        });
        let in_postgres = |statement: &str| {
            self.try_query("postgres", statement).unwrap_or_else(|error| panic!("{statement}: {error}"))
        };
        if in_postgres("select 1 from pg_database where datname = 'repmd'").is_empty() {
            in_postgres("create role repmd login");
            in_postgres("create database repmd owner repmd");
        }
        // Daemons come to a server that has been asked before: what it reads for the first time takes longer.
        self.run("select 1");
    }

    /// Ends it at once, as a crash does: nothing is written that was not.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            // Those that stand still do not hear.
            signal(&child, Signal::CONT);
            signal(&child, Signal::QUIT);
            let _ = child.wait();
        }
    }

    /// Kills it and starts it again at once, empty and on the same port.
    pub fn restart_empty(&mut self) {
        self.kill();
        self.fill();
        self.revive();
    }

    /// Stalls it: it accepts connections and bytes, and does nothing.
    pub fn pause(&self) {
        signal(self.child(), Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        signal(self.child(), Signal::CONT);
    }

    /// The processor time that it has used, with all its processes.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let of = |pid: u32, with_children: bool| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let ticks = fields(&stat).skip(11).take(if with_children { 4 } else { 2 });
            ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
        };
        let postmaster = self.child().id();
        let ticks = of(postmaster, true) + children(postmaster).map(|pid| of(pid, false)).sum::<u64>();
        // The kernel counts in hundredths.
        Duration::from_millis(ticks * 10)
    }

    /// A standby of this server, which follows it.
    #[must_use]
    pub fn standby(&self) -> Self {
        let mut standby = Self::new(&[], None, new_folder());
        standby.options.clone_from(&self.options);
        let mut copy = self.program("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", OWNER, "-c", "fast", "-R"]);
        run(copy.args(["--no-sync", "-D"]).arg(standby.data()));
        standby.revive();
        standby.wait_until_caught_up(self);
        standby
    }

    /// Waits until it has what `primary` had.
    pub fn wait_until_caught_up(&self, primary: &Self) {
        let written = primary.query("select pg_current_wal_lsn()");
        wait_until("the standby has caught up", PATIENCE, || {
            self.query(&format!("select pg_last_wal_replay_lsn() >= '{written}'")) == "t"
        });
    }

    /// Cuts a standby off from what its primary writes from now on.
    pub fn stop_replicating(&self) {
        self.run("alter system set primary_conninfo = ''");
        self.run("select pg_reload_conf()");
        wait_until("the standby no longer follows", PATIENCE, || {
            self.query("select count(*) from pg_stat_wal_receiver") == "0"
        });
    }

    /// The URL of a primary and this standby, as a daemon takes it. The one that is no primary comes first.
    #[must_use]
    pub fn url_with(&self, primary: &Self) -> String {
        let ports = (self.port, primary.port);
        format!(
            "postgres://{ROLE}@127.0.0.1:{},127.0.0.1:{}/{ROLE}?target_session_attrs=read-write",
            ports.0, ports.1
        )
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        assert_eq!(self.query("select pg_promote()"), "t");
    }

    /// One of the release's programs. They refuse to run as root, so root is somebody else in a namespace of their own,
    /// with the same files; or in the release's root, with the files of this server.
    fn program(&self, name: &str) -> Command {
        if self.release == Release::Installed {
            return as_nobody(bin().join(name));
        }
        let (root, folder) = (debian_root("trixie"), self.folder.path());
        run(Command::new("chown").arg("-R").arg(NOBODY).arg(folder));
        let script = format!(
            "mount --rbind /dev {root}/dev && mkdir -p {root}{all} && mount --bind {all} {root}{all} && \
             exec chroot --userspec={NOBODY} {root} /usr/lib/postgresql/17/bin/{name} \"$@\"",
            root = root.display(),
            all = folder.parent().expect("the folder is in another").display(),
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &script, name]);
        command
    }

    fn child(&self) -> &Child {
        self.running.as_ref().expect("the server runs")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// PgBouncer before a server: it gives the sessions, or each of their transactions, connections of its choice.
#[derive(Debug)]
pub struct PgBouncer {
    process: Child,
    port: u16,
}

impl PgBouncer {
    /// One whose `pool_mode` is `mode`.
    #[must_use]
    pub fn before(server: &Postgres, mode: &str) -> Self {
        let port = free_port();
        let settings = server.folder().join(format!("pgbouncer-{port}.ini"));
        let text = format!(
            "[databases]\n{ROLE} = host=127.0.0.1 port={} user={ROLE}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 5\n",
            server.port()
        );
        std::fs::write(&settings, text).expect("the folder takes a file");
        let path = "/usr/sbin/pgbouncer";
        assert!(
            Path::new(path).exists(),
            "{path} is missing: `./test` installs it, or `apt-get install pgbouncer`"
        );
        let mut command = as_nobody(path);
        command.arg(settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let bouncer = Self { process, port };
        wait_until("PgBouncer listens", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        bouncer
    }

    /// Its URL, as a daemon takes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{ROLE}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // It fails when the process has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn new_folder() -> TempDir {
    tempfile::Builder::new().prefix("repmd-store").tempdir().expect("a folder can be made")
}

/// Where Debian has the programs of the newest release that is installed.
fn bin() -> PathBuf {
    let releases = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let newest =
        releases.map(|release| release.path().join("bin")).filter(|bin| bin.join("postgres").exists());
    newest.max().expect("PostgreSQL is missing: `./test` installs it, or `apt-get install postgresql`")
}

fn as_nobody(program: impl AsRef<OsStr>) -> Command {
    if !getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=65534", "--map-group=65534"]).arg(program);
    command
}

/// A command that makes a small disk at `data`, which only it sees, and a database cluster there, and starts a server on
/// it with more arguments.
fn on_disk(data: &Path, mebibytes: u32) -> Command {
    std::fs::create_dir_all(data).expect("a folder can be made");
    let namespace = "unshare --user --map-user=65534 --map-group=65534";
    let script = format!(
        "mount -t tmpfs -o size={mebibytes}m,mode=700 none {data} && {namespace} {bin}/initdb --auth=trust --no-sync \
         --no-locale --encoding=UTF8 --username {OWNER} -D {data} && exec {namespace} {bin}/postgres \"$@\"",
        data = data.display(),
        bin = bin().display(),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &script, "postgres"]);
    command
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sends it to all processes of a server, the first one at last: it would start others in their place.
fn signal(server: &Child, signal: Signal) {
    let postmaster = server.id();
    let stops = signal == Signal::STOP;
    let send = |pid: u32| {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It fails where that one has ended.
            let _ = kill_process(pid, signal);
        }
    };
    if stops {
        send(postmaster);
    }
    if signal != Signal::QUIT {
        children(postmaster).for_each(send);
    }
    if !stops {
        send(postmaster);
    }
}

fn children(of: u32) -> impl Iterator<Item = u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    processes.filter_map(move |process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
        (fields(&stat).nth(1)?.parse() == Ok(of)).then_some(pid)
    })
}

/// What follows the name of a process, which may have spaces: its state, its parent, and so on.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit(')').next().unwrap_or_default().split_whitespace()
}
