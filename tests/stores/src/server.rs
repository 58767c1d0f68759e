//! One server, as it is started and asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::{Client, Connection, FromRedisValue, IntoConnectionInfo, RedisResult};
use repmd_test_support::{free_port, wait_for};

use crate::PATIENCE;
use crate::certificates::Certificates;
use crate::release::Release;
use crate::running::Running;

/// How long a command may take.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Server {
    release: Release,
    folder: PathBuf,
    port: u16,
    /// How it is started, each time.
    arguments: Vec<String>,
    certificates: Option<Certificates>,
    running: Option<Running>,
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
        Self::launch(release, options.collect(), folder, port, certificates)
    }

    /// Starts a Sentinel, whose settings can be in a file only: it writes to it.
    pub(crate) fn start_sentinel(release: Release, folder: &Path, port: u16, settings: &str) -> Self {
        let file = folder.join(format!("sentinel-{port}.conf"));
        std::fs::write(&file, settings).expect("a new folder takes a file");
        let arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        Self::launch(release, arguments, folder, port, None)
    }

    fn launch(
        release: Release,
        arguments: Vec<String>,
        folder: &Path,
        port: u16,
        certificates: Option<Certificates>,
    ) -> Self {
        let folder = folder.to_owned();
        let mut server = Self { release, folder, port, arguments, certificates, running: None };
        server.revive();
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Starts it again unless it runs, and waits until it answers.
    pub(crate) fn revive(&mut self) {
        if self.runs() {
            return;
        }
        let log = self.folder.join(format!("{}.log", self.port));
        let running = Running::start(self.release, &self.arguments, &self.folder, &log);
        let running = self.running.insert(running);
        let client = client(self.port, self.certificates.as_ref());
        wait_for(&format!("a server with {:?} answers", self.arguments), PATIENCE, || {
            if let Some(status) = running.ended() {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("a server with {:?} ended at once: {status}\n{said}", self.arguments);
            }
            connect(&client).and_then(|mut connection| redis::cmd("PING").exec(&mut connection)).ok()
        });
    }

    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    pub(crate) fn pause(&self) {
        if let Some(running) = &self.running {
            running.pause();
        }
    }

    pub(crate) fn resume(&self) {
        if let Some(running) = &self.running {
            running.resume();
        }
    }

    pub(crate) fn cpu(&self) -> Duration {
        self.running.as_ref().map_or(Duration::ZERO, Running::cpu)
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
