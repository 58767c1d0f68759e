//! The names of what is in the store.
//!
//! | key, after `repmd/CLUSTER/` | value | lease |
//! |---|---|---|
//! | `node/NAME/HOST` | a registration | the daemon's |
//! | `host/HOST/NAME` | nothing: it leads to the registration | the daemon's |
//! | `alias/ALIAS/HOST/ID` | nothing: it leads to the host | the daemon's |
//! | `daemon/ID` | a daemon that counts as alive | a shorter one |
//! | `note/ID` | what a daemon tells the others | one of its own |
//! | `epoch` | where creations count on from | none |
//!
//! Names are percent-encoded, so that a slash divides.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use repmd_backend_api::{AliveName, HostId, InstanceId};

const RESERVED: &AsciiSet = &CONTROLS.add(b'/').add(b'%');

/// The names of one cluster's keys.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(cluster: &str) -> Self {
        Self { prefix: format!("repmd/{}/", encode(cluster)) }
    }

    pub(crate) fn epoch(&self) -> String {
        format!("{}epoch", self.prefix)
    }

    /// Where all registrations are.
    pub(crate) fn nodes(&self) -> String {
        format!("{}node/", self.prefix)
    }

    /// Where the registrations of a name are.
    pub(crate) fn named(&self, name: &AliveName) -> String {
        format!("{}node/{}/", self.prefix, encode(name.as_str()))
    }

    /// Where the registration of a name on a host is.
    pub(crate) fn node(&self, host: &HostId, name: &AliveName) -> String {
        format!("{}{host}", self.named(name))
    }

    /// Whose registration is under a key of [`Self::node`].
    pub(crate) fn read_node(&self, key: &[u8]) -> Option<(AliveName, HostId)> {
        let (name, host) = divide(key.strip_prefix(self.nodes().as_bytes())?)?;
        Some((name_of(name)?, host_of(host)?))
    }

    /// Where the names of a host are.
    pub(crate) fn names(&self, host: &HostId) -> String {
        format!("{}host/{host}/", self.prefix)
    }

    /// What leads from a host to one of its names.
    pub(crate) fn name(&self, host: &HostId, name: &AliveName) -> String {
        format!("{}{}", self.names(host), encode(name.as_str()))
    }

    /// Which name a key of [`Self::name`] leads to.
    pub(crate) fn read_name(&self, host: &HostId, key: &[u8]) -> Option<AliveName> {
        name_of(key.strip_prefix(self.names(host).as_bytes())?)
    }

    /// Where the hosts are that have `alias` as another name.
    pub(crate) fn aliased(&self, alias: &HostId) -> String {
        format!("{}alias/{alias}/", self.prefix)
    }

    /// What leads from an alias to the host of a daemon.
    pub(crate) fn alias(&self, alias: &HostId, host: &HostId, daemon: InstanceId) -> String {
        format!("{}{host}/{daemon}", self.aliased(alias))
    }

    /// Which host a key of [`Self::alias`] leads to.
    pub(crate) fn read_alias(&self, alias: &HostId, key: &[u8]) -> Option<HostId> {
        host_of(divide(key.strip_prefix(self.aliased(alias).as_bytes())?)?.0)
    }

    pub(crate) fn daemons(&self) -> String {
        format!("{}daemon/", self.prefix)
    }

    /// Where a daemon is, as long as it counts as alive.
    pub(crate) fn daemon(&self, id: InstanceId) -> String {
        format!("{}{id}", self.daemons())
    }

    pub(crate) fn notes(&self) -> String {
        format!("{}note/", self.prefix)
    }

    pub(crate) fn note(&self, id: InstanceId) -> String {
        format!("{}{id}", self.notes())
    }
}

/// Whose a key is that ends with an id.
pub(crate) fn read_id(prefix: &str, key: &[u8]) -> Option<InstanceId> {
    let id = std::str::from_utf8(key.strip_prefix(prefix.as_bytes())?).ok()?;
    u128::from_str_radix(id, 16).map(InstanceId).ok().filter(|read| read.to_string() == id)
}

fn encode(text: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(text, RESERVED)
}

fn divide(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = key.iter().position(|byte| *byte == b'/')?;
    Some((&key[..slash], &key[slash + 1..]))
}

/// Believes a name only in the one form that this module writes, so that no two keys are of one node.
fn name_of(text: &[u8]) -> Option<AliveName> {
    let name = AliveName::parse(&percent_decode(text).collect::<Vec<_>>()).ok()?;
    let is_ours = encode(name.as_str()).to_string().as_bytes() == text;
    is_ours.then_some(name)
}

fn host_of(text: &[u8]) -> Option<HostId> {
    let text = std::str::from_utf8(text).ok()?;
    HostId::parse(text).ok().filter(|host| host.as_str() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new("a/b é")
    }

    fn host(text: &str) -> HostId {
        HostId::parse(text).unwrap()
    }

    #[test]
    fn every_name_is_read_from_its_keys_again_and_shares_no_range_with_another() {
        let names = ["rabbit", "a/b", "a", "%2F", "/", "..", "é", "\u{1}", " ", "a\tb", "a b/"];
        let names: Vec<_> =
            names.into_iter().map(|name| AliveName::parse(name.as_bytes()).unwrap()).collect();
        for name in &names {
            let (on, key) = (host("db-1.example"), keys().node(&host("db-1.example"), name));
            assert_eq!(keys().read_node(key.as_bytes()), Some((name.clone(), on.clone())));
            assert_eq!(keys().read_name(&on, keys().name(&on, name).as_bytes()).as_ref(), Some(name));
            let within = |other: &&AliveName| key.starts_with(&keys().named(other));
            assert_eq!(names.iter().filter(within).collect::<Vec<_>>(), [name]);
        }
    }

    #[test]
    fn a_key_in_another_form_is_nobodys() {
        let nodes = keys().nodes();
        for key in ["a", "a/", "/h", "a/H", "a/h/x", "%61/h", "%zz/h", "a%2fb/h", "a/h h", "%0A/h"] {
            assert_eq!(keys().read_node(format!("{nodes}{key}").as_bytes()), None, "{key}");
        }
        assert_eq!(keys().read_node(b"repmd/other/node/a/h"), None);
        assert_eq!(keys().read_node(format!("{nodes}\u{fffd}/h").as_bytes()), None);
        for id in ["", "1", "+0000000000000000000000000000001", "0000000000000000000000000000000A"] {
            assert_eq!(read_id("note/", format!("note/{id}").as_bytes()), None, "{id}");
        }
        let id = InstanceId(0xab);
        assert_eq!(read_id(&keys().notes(), keys().note(id).as_bytes()), Some(id));
        let (alias, on) = (host("db"), host("db-1"));
        assert_eq!(keys().read_alias(&alias, keys().alias(&alias, &on, id).as_bytes()), Some(on));
    }

    #[test]
    fn clusters_share_no_prefix() {
        let prefixes = ["a", "a/b", "a%2Fb", "ab", "A"].map(|cluster| Keys::new(cluster).prefix);
        for (index, prefix) in prefixes.iter().enumerate() {
            let starts = prefixes.iter().filter(|other| other.starts_with(prefix)).count();
            assert_eq!(starts, 1, "{index}: {prefix}");
        }
    }
}
