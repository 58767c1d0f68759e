//! A file of the cluster's hosts, for Erlang nodes of this machine whose resolver does not know them.
//!
//! Erlang reads it where `ERL_INETRC` names the file that is written beside it, and looks every 5 s whether it
//! has changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use repmd_backend_api::{HostId, Instance};
use tempfile::NamedTempFile;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::registry::{Registry, What};
use crate::throttle::Throttle;

/// The least time between two looks at the registry, when many nodes of new hosts register at once.
const PAUSE: Duration = Duration::from_millis(250);

/// The hosts file, and what is known of the hosts in it.
#[derive(Debug)]
pub struct HostsFile {
    path: PathBuf,
    /// Addresses of this machine at which it stands for other hosts: here they are reached at these.
    virtual_hosts: BTreeMap<IpAddr, HostId>,
    hosts: BTreeMap<HostId, Host>,
    /// What the file says, if this run has written it.
    written: Option<String>,
    complaints: Throttle,
}

#[derive(Debug)]
struct Host {
    aliases: BTreeSet<HostId>,
    addresses: BTreeSet<IpAddr>,
    /// When one of its daemons last counted as alive.
    seen: Instant,
}

impl HostsFile {
    /// Writes the inetrc for the hosts file at `path`; the file itself is left as it is until the registry
    /// answers.
    ///
    /// # Errors
    /// When files cannot be written there.
    pub fn new(path: &Path, virtual_hosts: BTreeMap<IpAddr, HostId>) -> io::Result<Self> {
        write(&inetrc_path(path), &inetrc(path))?;
        let complaints = Throttle::default();
        Ok(Self { path: path.to_owned(), virtual_hosts, hosts: BTreeMap::new(), written: None, complaints })
    }

    /// Keeps the file as the registry has it, for ever. While the store is away it stays as it is.
    pub async fn keep(mut self, registry: &Registry) {
        let Some(lease_ttl) = registry.lease_ttl() else { return };
        let mut newest = registry.events().newest();
        let mut seen = *newest.borrow();
        loop {
            match registry.daemons().await {
                Some(daemons) => {
                    let own = registry.instance();
                    self.update(daemons.all().iter().chain([&own]).map(|daemon| &**daemon), lease_ttl);
                    self.write().await;
                }
                None if self.written.is_none() && !self.path.exists() => {
                    self.update([&*registry.instance()], lease_ttl);
                    self.write().await;
                }
                // Nobody knows of their daemons: this time does not count.
                None => self.hosts.values_mut().for_each(|host| host.seen = Instant::now()),
            }
            sleep(PAUSE).await;
            let news = async {
                loop {
                    newest.mark_unchanged();
                    let events = registry.events().since(seen);
                    seen = events.last().map_or(seen, |event| event.id);
                    if events.iter().any(|event| self.is_worth_a_look(&event.what)) {
                        return;
                    }
                    // It lives as long as the registry.
                    let _ = newest.changed().await;
                }
            };
            let _ = timeout(lease_ttl / 3, news).await;
        }
    }

    /// Whether there may be a host that is not in the file.
    fn is_worth_a_look(&self, event: &What) -> bool {
        match event {
            What::Registered { node, .. } => !self.hosts.contains_key(&node.host),
            What::Missed | What::StoreBack { .. } => true,
            What::Released { .. }
            | What::Expired { .. }
            | What::Refused { .. }
            | What::Conflict { .. }
            | What::StoreLost { .. } => false,
        }
    }

    /// Takes note of the daemons that count as alive. A host stays for one TTL after its last daemon, as its
    /// nodes' names do, so that a restart changes nothing.
    fn update<'a>(&mut self, daemons: impl IntoIterator<Item = &'a Instance>, lease_ttl: Duration) {
        let seen = Instant::now();
        let mut alive = BTreeMap::<HostId, Host>::new();
        for daemon in daemons {
            let host = alive.entry(daemon.host.clone()).or_insert_with(|| Host {
                aliases: BTreeSet::new(),
                addresses: BTreeSet::new(),
                seen,
            });
            host.aliases.extend(daemon.aliases.iter().cloned());
            host.addresses.extend(&daemon.addresses);
        }
        self.hosts.retain(|_, host| seen - host.seen < lease_ttl);
        self.hosts.extend(alive);
    }

    /// Writes the file if it is to say something else than it does.
    async fn write(&mut self) {
        let text = self.text();
        if self.written.as_ref() == Some(&text) {
            return;
        }
        let path = self.path.clone();
        // A sick disk must not hold up the wire, which the same thread serves.
        let writing = tokio::task::spawn_blocking(move || write(&path, &text).map(|()| text));
        match writing.await.map_err(io::Error::other).and_then(|result| result) {
            Ok(text) => {
                info!(path = %self.path.display(), hosts = self.hosts.len(), "wrote the hosts file");
                self.written = Some(text);
            }
            Err(error) => {
                if let Some(left_out) = self.complaints.pass() {
                    warn!(path = %self.path.display(), %error, left_out, "cannot write the hosts file");
                }
            }
        }
    }

    fn text(&self) -> String {
        let mut claims = HashMap::new();
        for (host, known) in &self.hosts {
            for name in known.names(host) {
                *claims.entry(name).or_insert(0) += 1;
            }
        }
        let mut text = "# repmd writes this from its registry: what others write here is lost.\n".to_owned();
        for (host, known) in &self.hosts {
            // A name that means several hosts means none; but a host is always called what it is.
            let names = known.names(host).filter(|name| *name == host || claims[name] == 1);
            let names: Vec<_> = names.map(HostId::as_str).filter(|name| is_foreign(name)).collect();
            if names.is_empty() {
                continue;
            }
            let stands_in = |name| known.names(host).any(|own| own == name);
            let stand_ins = self.virtual_hosts.iter().filter(|(_, name)| stands_in(*name));
            let stand_ins: BTreeSet<_> = stand_ins.map(|(address, _)| *address).collect();
            for address in if stand_ins.is_empty() { &known.addresses } else { &stand_ins } {
                text += &format!("{address} {}\n", names.join(" "));
            }
        }
        text
    }
}

impl Host {
    /// Itself, and its aliases.
    fn names<'a>(&'a self, itself: &'a HostId) -> impl Iterator<Item = &'a HostId> {
        [itself].into_iter().chain(self.aliases.iter().filter(move |alias| *alias != itself))
    }
}

/// Whether a name is one for another machine, and no address: what a machine calls `localhost` is itself.
fn is_foreign(name: &str) -> bool {
    name != "localhost" && name.parse::<IpAddr>().is_err()
}

/// Where the file is that `ERL_INETRC` is to name.
fn inetrc_path(hosts: &Path) -> PathBuf {
    let mut path = OsString::from(hosts);
    path.push(".inetrc");
    path.into()
}

/// What makes Erlang read the hosts file, and then ask whom it asks without it.
fn inetrc(hosts: &Path) -> String {
    let hosts = hosts.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    format!("{{lookup, [file, native]}}.\n{{hosts_file, \"{hosts}\"}}.\n")
}

/// Writes a file that everybody may read, whole or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use repmd_backend_api::InstanceId;

    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    fn host(name: &str) -> HostId {
        HostId::parse(name).unwrap()
    }

    fn daemon(name: &str, aliases: &[&str], addresses: &[&str]) -> Arc<Instance> {
        Arc::new(Instance {
            id: InstanceId::random(),
            name: name.to_owned(),
            host: host(name),
            aliases: aliases.iter().map(|alias| host(alias)).collect(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            port: 4369,
        })
    }

    fn file(virtual_hosts: &[(&str, &str)]) -> (HostsFile, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let virtual_hosts =
            virtual_hosts.iter().map(|(address, name)| (address.parse().unwrap(), host(name)));
        (HostsFile::new(&folder.path().join("hosts"), virtual_hosts.collect()).unwrap(), folder)
    }

    /// The lines below the heading, for these daemons.
    fn lines(file: &mut HostsFile, daemons: &[Arc<Instance>]) -> Vec<String> {
        file.update(daemons.iter().map(|daemon| &**daemon), TTL);
        file.text().lines().skip(1).map(str::to_owned).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_has_a_line_for_each_address_with_all_its_names() {
        let (mut file, _folder) = file(&[]);
        let daemons = [
            daemon("b", &["10.0.0.2", "b.example"], &["10.0.0.2", "2001:db8::2"]),
            daemon("a", &[], &["10.0.0.1"]),
            daemon("a", &["c"], &["10.0.0.9"]),
            daemon("nowhere", &[], &[]),
        ];
        let expected = ["10.0.0.1 a c", "10.0.0.9 a c", "10.0.0.2 b b.example", "2001:db8::2 b b.example"];
        assert_eq!(lines(&mut file, &daemons), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_of_two_hosts_is_neithers_unless_it_is_the_host_itself() {
        let (mut file, _folder) = file(&[]);
        let daemons = [
            daemon("a", &["www", "b", "localhost"], &["10.0.0.1"]),
            daemon("b", &["www"], &["10.0.0.2"]),
            daemon("localhost", &[], &["10.0.0.3"]),
        ];
        assert_eq!(lines(&mut file, &daemons), ["10.0.0.1 a", "10.0.0.2 b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_this_machine_stands_for_is_at_this_machines_address() {
        let (mut file, _folder) = file(&[("10.1.0.7", "A.example"), ("10.1.0.8", "unknown")]);
        assert_eq!(lines(&mut file, &[daemon("a", &["a.example"], &["10.0.0.1"])]), ["10.1.0.7 a a.example"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_stays_for_one_ttl_after_its_last_daemon() {
        let (mut file, _folder) = file(&[]);
        let daemons = [daemon("a", &[], &["10.0.0.1"]), daemon("b", &[], &["10.0.0.2"])];
        lines(&mut file, &daemons);
        tokio::time::advance(TTL - Duration::from_millis(1)).await;
        assert_eq!(lines(&mut file, &daemons[..1]), ["10.0.0.1 a", "10.0.0.2 b"]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(lines(&mut file, &daemons[..1]), ["10.0.0.1 a"]);
    }

    #[test]
    fn the_inetrc_is_beside_the_file_and_names_it() {
        let (file, folder) = file(&[]);
        let inetrc = std::fs::read_to_string(folder.path().join("hosts.inetrc")).unwrap();
        let expected = format!("{{lookup, [file, native]}}.\n{{hosts_file, \"{}\"}}.\n", file.path.display());
        assert_eq!(inetrc, expected);
        assert!(super::inetrc(Path::new("/a\\b\"c")).ends_with("{hosts_file, \"/a\\\\b\\\"c\"}.\n"));
        assert!(!file.path.exists());
    }
}
