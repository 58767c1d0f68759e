//! A file that remembers the daemon's nodes for its next run, which answers for those that do not come back by themselves
//! for as long as something listens at their port.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::Registration;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::listeners::listening_ports;
use crate::printable::in_words;
use crate::server::Daemon;
use crate::throttle::Throttle;
use crate::upgrade::{from_bytes, to_bytes};
use crate::whole_file::{self, beside};

/// How old the file may be.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// How often it looks whether something still listens.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// The most bytes of a file that are read.
const BYTES_MAX: u64 = 64 << 20;

/// The file.
#[derive(Debug)]
pub(crate) struct OrphansFile {
    path: PathBuf,
    complaints: Throttle,
}

impl OrphansFile {
    /// The file at `path`, which nobody reads or writes yet.
    #[must_use]
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, complaints: Throttle::default() }
    }

    /// Whether it could be written. It is left as it is.
    ///
    /// # Errors
    /// When files cannot be written beside it.
    pub(crate) fn check(&self) -> io::Result<()> {
        whole_file::check(&self.path)
    }

    /// Answers for the nodes that it remembers and that have not come back, and remembers those of now, for ever. No disk
    /// holds up the wire.
    pub(crate) async fn keep(self, daemon: Arc<Daemon>) {
        self.adopt(&daemon).await;
        let (mut written, mut looked) = (None, Instant::now());
        loop {
            sleep(WRITE_PAUSE).await;
            if LOOK_PAUSE <= looked.elapsed() {
                looked = Instant::now();
                self.look(&daemon).await;
            }
            let changes =
                (daemon.stats().granted.get(), daemon.stats().unregistered.get(), daemon.orphan_count());
            if written != Some(changes) && self.write(&daemon).await {
                written = Some(changes);
            }
        }
    }

    async fn adopt(&self, daemon: &Daemon) {
        let (path, instance) = (self.path.clone(), daemon.registry().instance());
        let read = move || -> io::Result<Vec<Arc<Registration>>> {
            let mut bytes = Vec::new();
            match File::open(&path) {
                Ok(file) => file.take(BYTES_MAX).read_to_end(&mut bytes)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let ports = listening_ports()?;
            let mut remembered = from_bytes(&bytes, &instance)?;
            remembered.retain(|registration| ports.contains(&registration.node.port));
            Ok(remembered)
        };
        match beside(read).await {
            Ok(remembered) => {
                for registration in remembered.into_iter().take(daemon.limits().nodes_max) {
                    let (name, port) = (registration.node.name.clone(), registration.node.port);
                    if daemon.adopt(registration) {
                        info!(%name, port, "a node has not come back, and is answered for while its port listens");
                    }
                }
            }
            Err(error) => self.complain("cannot read the nodes of before", &error),
        }
    }

    /// Gives those up at whose port nothing listens any longer.
    async fn look(&self, daemon: &Daemon) {
        let orphans = daemon.orphans();
        if orphans.is_empty() {
            return;
        }
        let ports: HashSet<u16> = match beside(listening_ports).await {
            Ok(ports) => ports,
            Err(error) => return self.complain("cannot see which ports listen", &error),
        };
        for registration in orphans.iter().filter(|orphan| !ports.contains(&orphan.node.port)) {
            let name = &registration.node.name;
            daemon.give_up(name).await;
            info!(%name, port = registration.node.port, "nothing listens at its port: a node is no longer answered for");
        }
    }

    async fn write(&self, daemon: &Daemon) -> bool {
        let (path, instance) = (self.path.clone(), daemon.registry().instance());
        let nodes: Vec<_> = daemon.orphans().into_iter().chain(daemon.registered()).collect();
        // Nobody else need read it.
        let written = beside(move || whole_file::write(&path, &to_bytes(&nodes, &instance)?, 0o600)).await;
        if let Err(error) = &written {
            self.complain("cannot remember the nodes", error);
        }
        written.is_ok()
    }

    fn complain(&self, what: &str, error: &io::Error) {
        if let Some(left_out) = self.complaints.pass() {
            warn!(path = %self.path.display(), error = %in_words(error), left_out, "{what}");
        }
    }
}
