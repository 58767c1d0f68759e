//! One server process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{Client, Connection, FromRedisValue, IntoConnectionInfo, RedisResult};
use repmd_test_support::{free_port, wait_for};
use rustix::process::{Pid, Signal, kill_process};

use crate::PATIENCE;
use crate::certificates::Certificates;
use crate::release::Release;

/// How long a command may take.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    /// How it is started, each time.
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    certificates: Option<Certificates>,
    process: Option<Child>,
}

impl Server {
    /// Starts a server in `folder`, with more options than it needs.
    pub(crate) fn start(release: Release, folder: &Path, options: &[&str]) -> Self {
        let port = free_port();
        let ports = format!("--port {port}");
        Self::start_on(release, folder, port, ports.split(' ').chain(options.iter().copied()), None)
    }

    /// Starts a server that takes TLS only.
    pub(crate) fn start_tls(release: Release, folder: &Path, certificates: &Certificates) -> Self {
        let port = free_port();
        let Certificates { authority, server, .. } = certificates;
        let options = format!(
            "--port 0 --tls-port {port} --tls-auth-clients yes --tls-ca-cert-file {} --tls-cert-file {} \
             --tls-key-file {}",
            authority.display(),
            server.0.display(),
            server.1.display(),
        );
        Self::start_on(release, folder, port, options.split(' '), Some(certificates.clone()))
    }

    fn start_on<'a>(
        release: Release,
        folder: &'a Path,
        port: u16,
        options: impl Iterator<Item = &'a str>,
        certificates: Option<Certificates>,
    ) -> Self {
        let folder_text = folder.to_str().expect("the folder's name is a text");
        let fixed = [
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            folder_text,
            "--repl-diskless-sync",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let options = fixed.into_iter().chain(options).map(str::to_owned);
        Self::launch(release.command(), options.collect(), folder, port, certificates)
    }

    /// Starts a Sentinel, whose settings can be in a file only: it writes to it.
    pub(crate) fn start_sentinel(release: Release, folder: &Path, port: u16, settings: &str) -> Self {
        let file = folder.join(format!("sentinel-{port}.conf"));
        std::fs::write(&file, settings).expect("a new folder takes a file");
        let arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        Self::launch(release.command(), arguments, folder, port, None)
    }

    fn launch(
        command: Command,
        mut arguments: Vec<String>,
        folder: &Path,
        port: u16,
        certificates: Option<Certificates>,
    ) -> Self {
        let before = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
        arguments.splice(0..0, before);
        let program = command.get_program().into();
        let log = folder.join(format!("{port}.log"));
        let mut server = Self { port, program, arguments, log, certificates, process: None };
        server.revive();
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Starts it again unless it runs, and waits until it answers.
    pub(crate) fn revive(&mut self) {
        if self.runs() {
            return;
        }
        let log = File::options().create(true).append(true).open(&self.log).expect("the folder takes a file");
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stderr(Stdio::null()).stdout(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let child = self.process.insert(child);
        let mut ended = || child.try_wait().expect("a child can be waited for");
        let (client, log) = (client(self.port, self.certificates.as_ref()), &self.log);
        wait_for(&format!("{command:?} answers"), PATIENCE, || {
            if let Some(status) = ended() {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                panic!("{command:?} ended at once: {status}\n{said}");
            }
            connect(&client).and_then(|mut connection| redis::cmd("PING").exec(&mut connection)).ok()
        });
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a child can be killed");
            process.wait().expect("a child can be waited for");
        }
    }

    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The processor time of its process.
    pub(crate) fn cpu(&self) -> Duration {
        let Some(process) = &self.process else { return Duration::ZERO };
        let path = format!("/proc/{}/schedstat", process.id());
        let text = std::fs::read_to_string(path).expect("the server runs");
        let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse().ok());
        Duration::from_nanos(nanoseconds.expect("schedstat starts with a number"))
    }

    /// Sends a command and returns its answer.
    pub(crate) fn query<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_query(command).unwrap_or_else(|error| panic!("{command:?} on port {}: {error}", self.port))
    }

    pub(crate) fn try_query<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let mut connection = connect(&client(self.port, self.certificates.as_ref()))?;
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection)
    }

    /// Whether it runs and takes writes.
    pub(crate) fn is_primary(&self) -> bool {
        let role = || self.try_query::<Vec<redis::Value>>(&["ROLE"]).ok();
        let first = self.runs().then(role).flatten().and_then(|role| role.into_iter().next());
        first.is_some_and(|name| name == redis::Value::BulkString(b"master".to_vec()))
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            kill_process(Pid::from_child(process), signal).expect("the server runs");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn client(port: u16, certificates: Option<&Certificates>) -> Client {
    let client = match certificates {
        None => Client::open(("127.0.0.1", port)),
        Some(certificates) => {
            let url = format!("rediss://127.0.0.1:{port}");
            let info = url.into_connection_info().expect("the URL is one");
            Client::build_with_tls(info, certificates.for_client())
        }
    };
    client.expect("the address is one")
}

fn connect(client: &Client) -> RedisResult<Connection> {
    let connection = client.get_connection_with_timeout(ANSWER)?;
    connection.set_read_timeout(Some(ANSWER))?;
    connection.set_write_timeout(Some(ANSWER))?;
    Ok(connection)
}
