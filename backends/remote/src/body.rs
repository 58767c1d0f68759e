//! Registrations and daemons as JSON. Fields that are not known here are skipped: that is how the form may grow, while
//! daemons are upgraded one after the other.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use repmd_backend_api::{
    AliveName, Creation, EXTRA_BYTES_MAX, HostId, Instance, InstanceId, NameError, Node, NodeName, NodeType,
    Registration,
};
use serde::{Deserialize, Serialize};

/// The most aliases that a daemon is believed to have.
pub const ALIASES_MAX: usize = 256;

/// The most addresses.
pub const ADDRESSES_MAX: usize = 256;

/// The most characters of an instance name.
pub const NAME_CHARS_MAX: usize = 255;

/// Why a body is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Of the node's extra.
    #[error("{bytes} bytes of extra, where a node can have {EXTRA_BYTES_MAX}")]
    Extra {
        /// How many.
        bytes: usize,
    },
    /// Of something that a daemon has.
    #[error("{count} {what}, where a daemon can have {most}")]
    TooMany {
        /// How many.
        count: usize,
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// It is not that of the key that led to it.
    #[error("it says that it is {says}")]
    Elsewhere {
        /// Whose it is.
        says: NodeName,
    },
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// A registration, but for its creation and the run of the daemon that holds it.
#[derive(Serialize, Deserialize)]
pub struct NodeBody<'a> {
    name: Cow<'a, str>,
    port: u16,
    advertised_port: u16,
    node_type: u8,
    protocol: u8,
    highest_version: u16,
    lowest_version: u16,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extra: Vec<u8>,
    /// Nanoseconds since the Unix epoch.
    registered_at: u64,
    instance: InstanceBody<'a>,
}

/// A daemon, but for its run.
#[derive(Serialize, Deserialize)]
pub struct InstanceBody<'a> {
    name: Cow<'a, str>,
    host: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpAddr>,
    port: u16,
}

impl<'a> NodeBody<'a> {
    /// That of a node which is held by `instance`.
    #[must_use]
    pub fn of(
        node: &'a Node,
        advertised_port: u16,
        registered_at: SystemTime,
        instance: &'a Instance,
    ) -> Self {
        let since_epoch = registered_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            name: node.name.as_str().into(),
            port: node.port,
            advertised_port,
            node_type: node.node_type.0,
            protocol: node.protocol,
            highest_version: node.highest_version,
            lowest_version: node.lowest_version,
            extra: node.extra.to_vec(),
            registered_at: u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX),
            instance: InstanceBody::of(instance),
        }
    }

    /// The registration that this run of its daemon holds.
    ///
    /// # Errors
    /// When no daemon can have written it.
    pub fn into_registration(self, id: InstanceId, creation: Creation) -> Result<Registration, BodyError> {
        if EXTRA_BYTES_MAX < self.extra.len() {
            return Err(BodyError::Extra { bytes: self.extra.len() });
        }
        Ok(Registration {
            node: Node {
                name: AliveName::parse(self.name.as_bytes())?,
                port: self.port,
                node_type: NodeType(self.node_type),
                protocol: self.protocol,
                highest_version: self.highest_version,
                lowest_version: self.lowest_version,
                extra: self.extra.into(),
            },
            advertised_port: self.advertised_port,
            creation,
            instance: Arc::new(self.instance.into_instance(id)?),
            registered_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(self.registered_at),
        })
    }
}

impl<'a> InstanceBody<'a> {
    /// That of a daemon.
    #[must_use]
    pub fn of(instance: &'a Instance) -> Self {
        Self {
            name: instance.name.as_str().into(),
            host: instance.host.as_str().into(),
            aliases: instance.aliases.iter().map(|alias| alias.as_str().into()).collect(),
            addresses: instance.addresses.clone(),
            port: instance.port,
        }
    }

    /// This run of the daemon.
    ///
    /// # Errors
    /// When no daemon can have written it.
    pub fn into_instance(self, id: InstanceId) -> Result<Instance, BodyError> {
        at_most(ALIASES_MAX, self.aliases.len(), "aliases")?;
        at_most(ADDRESSES_MAX, self.addresses.len(), "addresses")?;
        at_most(NAME_CHARS_MAX, self.name.chars().count(), "characters of a name")?;
        let aliases: Result<_, _> = self.aliases.iter().map(|alias| HostId::parse(alias)).collect();
        Ok(Instance {
            id,
            name: self.name.into_owned(),
            host: HostId::parse(&self.host)?,
            aliases: aliases?,
            addresses: self.addresses,
            port: self.port,
        })
    }
}

fn at_most(most: usize, count: usize, what: &'static str) -> Result<(), BodyError> {
    if most < count { Err(BodyError::TooMany { count, what, most }) } else { Ok(()) }
}

/// Looks whether a registration is that of `name` on `host`: a key led to it, and what is somebody else's is not
/// believed under it.
///
/// # Errors
/// [`BodyError::Elsewhere`].
pub fn stands_at(registration: &Registration, host: &HostId, name: &AliveName) -> Result<(), BodyError> {
    if registration.node.name == *name && registration.instance.host == *host {
        Ok(())
    } else {
        Err(BodyError::Elsewhere { says: registration.node_name() })
    }
}

/// A body as it is written.
///
/// # Panics
/// Never, for the bodies that there are.
#[must_use]
pub fn encode(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("numbers, texts and lists always have a JSON form")
}
