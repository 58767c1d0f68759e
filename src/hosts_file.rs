//! A file of the cluster's hosts, for Erlang nodes of this machine whose resolver does not know them.
//!
//! Erlang reads it where `ERL_INETRC` names the file that is written beside it, and looks every 5 s whether it
//! has changed.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use repmd_backend_api::{HostId, Instance};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::hosts::{Hosts, stand_ins};
use crate::printable::in_words;
use crate::registry::{Registry, What};
use crate::throttle::Throttle;
use crate::whole_file;

/// The least time between two looks at the registry, when many nodes of new hosts register at once.
const PAUSE: Duration = Duration::from_millis(250);

/// The hosts file, and what is known of the hosts in it.
#[derive(Debug)]
pub struct HostsFile {
    path: PathBuf,
    /// Addresses of this machine at which it stands for other hosts: here they are reached at these.
    virtual_hosts: BTreeMap<IpAddr, HostId>,
    /// Whose names are written; `None`: all.
    domains: Option<Vec<HostId>>,
    hosts: Hosts,
    /// When one of the daemons of a host last counted as alive.
    seen: HashMap<HostId, Instant>,
    /// What the file says, if this run has written it.
    written: Option<String>,
    complaints: Throttle,
}

impl HostsFile {
    /// The hosts file at `path`, which is left as it is until the registry answers. Of `domains`, if they are given, and
    /// of names without a dot are the names that are written.
    #[must_use]
    pub fn new(path: &Path, virtual_hosts: BTreeMap<IpAddr, HostId>, domains: Option<Vec<HostId>>) -> Self {
        let complaints = Throttle::default();
        let (path, hosts, seen) = (path.to_owned(), Hosts::default(), HashMap::new());
        Self { path, virtual_hosts, domains, hosts, seen, written: None, complaints }
    }

    /// What is beside it.
    #[must_use]
    pub fn inetrc(&self) -> Inetrc {
        Inetrc { path: inetrc_path(&self.path), text: inetrc(&self.path) }
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
                    self.update(&own, daemons.all().iter().map(|daemon| &**daemon), lease_ttl);
                    self.write(&own).await;
                }
                None if self.written.is_none() && !self.path.exists() => {
                    let own = registry.instance();
                    self.update(&own, [], lease_ttl);
                    self.write(&own).await;
                }
                // Nobody knows of their daemons: this time does not count.
                None => self.seen.values_mut().for_each(|seen| *seen = Instant::now()),
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
            What::Registered { node, .. } => !self.hosts.has(&node.host),
            What::Missed | What::StoreBack { .. } => true,
            What::Released { .. }
            | What::Expired { .. }
            | What::Refused { .. }
            | What::Conflict { .. }
            | What::LinkLost { .. }
            | What::LinkBack { .. }
            | What::MeshPartial { .. }
            | What::StoreLost { .. } => false,
        }
    }

    /// Takes note of the daemons that count as alive. A host stays for one TTL after its last daemon, as its
    /// nodes' names do, so that a restart changes nothing. This host is what this daemon says of it, whatever
    /// the store does.
    fn update<'a>(
        &mut self,
        own: &'a Instance,
        daemons: impl IntoIterator<Item = &'a Instance>,
        lease_ttl: Duration,
    ) {
        let now = Instant::now();
        let alive = Hosts::of(own, daemons);
        self.seen.retain(|host, seen| !own.answers_to(host) && now - *seen < lease_ttl);
        self.seen.extend(alive.ids().map(|host| (host.clone(), now)));
        self.hosts.replace(alive, |host| self.seen.contains_key(host));
    }

    /// Writes the file if it is to say something else than it does.
    async fn write(&mut self, own: &Instance) {
        let text = self.text(own);
        if self.written.as_ref() == Some(&text) {
            return;
        }
        let path = self.path.clone();
        match whole_file::beside(move || write(&path, &text).map(|()| text)).await {
            Ok(text) => {
                info!(path = %self.path.display(), hosts = self.hosts.ids().count(), "wrote the hosts file");
                self.written = Some(text);
            }
            Err(error) => {
                if let Some(left_out) = self.complaints.pass() {
                    warn!(path = %self.path.display(), error = %in_words(&error), left_out, "cannot write the hosts file");
                }
            }
        }
    }

    fn text(&self, own: &Instance) -> String {
        let mut text = "# repmd writes this from its registry: what others write here is lost.\n".to_owned();
        for named in self.hosts.named(own) {
            let is_written = |name: &&HostId| *named.id == own.host || self.is_in_a_domain(name);
            let names: Vec<_> = named.names.iter().copied().filter(is_written).map(HostId::as_str).collect();
            if names.is_empty() {
                continue;
            }
            let stand_ins = stand_ins(&self.virtual_hosts, &named);
            for address in if stand_ins.is_empty() { named.addresses } else { &stand_ins } {
                text += &format!("{address} {}\n", names.join(" "));
            }
        }
        text
    }

    /// Whether the settings let a name into the file.
    fn is_in_a_domain(&self, name: &HostId) -> bool {
        let name = name.as_str();
        let is_in = |domain: &HostId| {
            name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        !name.contains('.') || self.domains.as_ref().is_none_or(|domains| domains.iter().any(is_in))
    }
}

/// What makes Erlang read the hosts file.
#[derive(Clone, Debug)]
pub struct Inetrc {
    path: PathBuf,
    text: String,
}

impl Inetrc {
    /// Writes it.
    ///
    /// # Errors
    /// When files cannot be written there.
    pub fn write(&self) -> io::Result<()> {
        write(&self.path, &self.text)
    }

    /// Whether [`Self::write`] would succeed. It leaves no file.
    ///
    /// # Errors
    /// When files cannot be written there.
    pub fn check(&self) -> io::Result<()> {
        whole_file::check(&self.path)
    }
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

/// Everybody may read it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    whole_file::write(path, text.as_bytes(), 0o644)
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
        (HostsFile::new(&folder.path().join("hosts"), virtual_hosts.collect(), None), folder)
    }

    /// The lines below the heading, for these daemons, in the file of one that advertises no address.
    fn lines(file: &mut HostsFile, daemons: &[Arc<Instance>]) -> Vec<String> {
        lines_of(file, &daemon("me", &[], &[]), daemons)
    }

    fn lines_of(file: &mut HostsFile, own: &Instance, daemons: &[Arc<Instance>]) -> Vec<String> {
        file.update(own, daemons.iter().map(|daemon| &**daemon), TTL);
        file.text(own).lines().skip(1).map(str::to_owned).collect()
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
    async fn no_daemon_of_another_machine_says_where_this_host_is() {
        let (mut file, _folder) = file(&[]);
        let own = daemon("me", &["me.example", "10.0.0.1"], &["10.0.0.1"]);
        let daemons = [
            daemon("me", &["mine"], &["6.6.6.1"]),
            daemon("me.example", &[], &["6.6.6.2"]),
            daemon("evil", &["me", "me.example"], &["6.6.6.3"]),
        ];
        assert_eq!(lines_of(&mut file, &own, &daemons), ["6.6.6.3 evil", "10.0.0.1 me me.example"]);
    }

    #[tokio::test(start_paused = true)]
    async fn neither_an_address_that_means_oneself_or_many_nor_a_name_that_is_an_address_is_written() {
        let (mut file, _folder) = file(&[]);
        let bad = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"];
        let daemons = [
            daemon(
                "a",
                &["127.1", "-c", "..", "0x7f.1", "db.localhost"],
                &[&bad[..], &["10.0.0.1"]].concat(),
            ),
            daemon("2130706433", &["ip6-localhost"], &["10.0.0.2"]),
        ];
        assert_eq!(lines(&mut file, &daemons), ["10.0.0.1 a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_outside_the_domains_of_the_settings_is_not_written() {
        let (mut file, _folder) = file(&[]);
        file.domains = Some(vec![host("cluster.example")]);
        let names = ["github.com", "a.cluster.example", "cluster.example", "a.notcluster.example"];
        let daemons = [daemon("a", &names, &["10.0.0.1"])];
        assert_eq!(lines(&mut file, &daemons), ["10.0.0.1 a a.cluster.example cluster.example"]);
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
        file.inetrc().write().unwrap();
        let inetrc = std::fs::read_to_string(folder.path().join("hosts.inetrc")).unwrap();
        let expected = format!("{{lookup, [file, native]}}.\n{{hosts_file, \"{}\"}}.\n", file.path.display());
        assert_eq!(inetrc, expected);
        assert!(super::inetrc(Path::new("/a\\b\"c")).ends_with("{hosts_file, \"/a\\\\b\\\"c\"}.\n"));
        assert!(!file.path.exists());
    }
}
