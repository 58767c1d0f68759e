//! How registrations and daemons are written down: values that need nothing but their key to be understood.
//!
//! Each is `1 ` and JSON: the version of the format, and all that is known. Fields that are not known here are
//! skipped: that is how the format may grow, while daemons are upgraded one after the other. Another number in front
//! is for a change that older daemons must not misread: to them such an entry is unreadable, which costs its own name
//! alone, and they never overwrite it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use repmd_backend_api::{
    AliveName, Creation, EXTRA_BYTES_MAX, HostId, Instance, InstanceId, Lease, LeaseToken, NameError, Node,
    NodeName, NodeType, Registration,
};
use serde::{Deserialize, Serialize};

use crate::creation::Serial;

/// The most aliases, addresses and characters of an instance name that a daemon is believed to have.
const ALIASES_MAX: usize = 256;
const ADDRESSES_MAX: usize = 256;
const NAME_CHARS_MAX: usize = 255;

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("not written by a version of repmd that this one knows")]
    Version,
    #[error("it is under no key that repmd writes")]
    Key,
    #[error("it never runs out")]
    Endless,
    #[error("it says that it is {says}")]
    Elsewhere { says: NodeName },
    #[error("{bytes} bytes, where a note can have {most}")]
    Note { bytes: usize, most: usize },
    #[error("{bytes} bytes of extra, where a node can have {EXTRA_BYTES_MAX}")]
    Extra { bytes: usize },
    #[error("{count} {what}, where a daemon can have {most}")]
    TooMany { count: usize, what: &'static str, most: usize },
    #[error("it is larger than an answer may be")]
    TooLarge,
    #[error(transparent)]
    Body(#[from] serde_json::Error),
    #[error(transparent)]
    Name(#[from] NameError),
}

#[derive(Serialize, Deserialize)]
struct NodeBody<'a> {
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
    /// Which claim of the daemon it is.
    claim: u64,
    /// One of these two: a number, or what makes it together with the revision in which this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    creation: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serial: Option<Serial>,
    instance: InstanceBody<'a>,
}

#[derive(Serialize, Deserialize)]
struct InstanceBody<'a> {
    /// In a registration; that of a daemon is in its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Cow<'a, str>>,
    name: Cow<'a, str>,
    host: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpAddr>,
    port: u16,
}

/// Which creation a registration has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Numbered {
    /// This one.
    As(Creation),
    /// The one that comes of the revision in which it is written.
    By(Serial),
}

/// Writes the registration of a lease; `numbered` stands in the place of its creation.
pub(crate) fn encode_lease(lease: &Lease, instance: &Instance, numbered: Numbered) -> String {
    let Registration { node, advertised_port, registered_at, .. } = &*lease.registration;
    let since_epoch = registered_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (creation, serial) = match numbered {
        Numbered::As(creation) => (Some(creation.get()), None),
        Numbered::By(serial) => (None, Some(serial)),
    };
    encode(&NodeBody {
        name: node.name.as_str().into(),
        port: node.port,
        advertised_port: *advertised_port,
        node_type: node.node_type.0,
        protocol: node.protocol,
        highest_version: node.highest_version,
        lowest_version: node.lowest_version,
        extra: node.extra.to_vec(),
        registered_at: u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX),
        claim: lease.token.number,
        creation,
        serial,
        instance: InstanceBody { id: Some(instance.id.to_string().into()), ..InstanceBody::of(instance) },
    })
}

/// Reads the registration of `name` on `host`, which was written in `revision`. What is somebody else's is not
/// believed under their key.
pub(crate) fn decode_lease(
    value: &[u8],
    revision: i64,
    host: &HostId,
    name: &AliveName,
) -> Result<Lease, Unreadable> {
    let body: NodeBody<'_> = decode(value)?;
    let id = decode_id(body.instance.id.as_deref().ok_or(Unreadable::Version)?)?;
    let creation = match (body.creation, body.serial) {
        (Some(creation), None) => Creation::new(creation).ok_or(Unreadable::Version)?,
        (None, Some(serial)) => serial.creation(revision),
        _ => return Err(Unreadable::Version),
    };
    if EXTRA_BYTES_MAX < body.extra.len() {
        return Err(Unreadable::Extra { bytes: body.extra.len() });
    }
    let registration = Registration {
        node: Node {
            name: AliveName::parse(body.name.as_bytes())?,
            port: body.port,
            node_type: NodeType(body.node_type),
            protocol: body.protocol,
            highest_version: body.highest_version,
            lowest_version: body.lowest_version,
            extra: body.extra.into(),
        },
        advertised_port: body.advertised_port,
        creation,
        instance: Arc::new(body.instance.into_instance(id)?),
        registered_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(body.registered_at),
    };
    if registration.node.name != *name || registration.instance.host != *host {
        return Err(Unreadable::Elsewhere { says: registration.node_name() });
    }
    let token = LeaseToken { instance: id, number: body.claim };
    Ok(Lease { token, registration: Arc::new(registration) })
}

/// A daemon as the store keeps it.
pub(crate) fn encode_instance(instance: &Instance) -> String {
    encode(&InstanceBody::of(instance))
}

/// Reads a daemon; its id is in its key.
pub(crate) fn decode_instance(id: InstanceId, value: &[u8]) -> Result<Instance, Unreadable> {
    decode::<InstanceBody<'_>>(value)?.into_instance(id)
}

fn decode_id(text: &str) -> Result<InstanceId, Unreadable> {
    u128::from_str_radix(text, 16).map(InstanceId).map_err(|_| Unreadable::Version)
}

impl<'a> InstanceBody<'a> {
    fn of(instance: &'a Instance) -> Self {
        Self {
            id: None,
            name: instance.name.as_str().into(),
            host: instance.host.as_str().into(),
            aliases: instance.aliases.iter().map(|alias| alias.as_str().into()).collect(),
            addresses: instance.addresses.clone(),
            port: instance.port,
        }
    }

    fn into_instance(self, id: InstanceId) -> Result<Instance, Unreadable> {
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

fn at_most(most: usize, count: usize, what: &'static str) -> Result<(), Unreadable> {
    if most < count { Err(Unreadable::TooMany { count, what, most }) } else { Ok(()) }
}

fn encode(body: &impl Serialize) -> String {
    let json = serde_json::to_string(body).expect("numbers, texts and lists always have a JSON form");
    format!("1 {json}")
}

fn decode<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, Unreadable> {
    Ok(serde_json::from_slice(value.strip_prefix(b"1 ").ok_or(Unreadable::Version)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        Instance {
            id: InstanceId(0xab),
            name: "a \"b\"\n%é".to_owned(),
            host: HostId::parse("db-1").unwrap(),
            aliases: vec![HostId::parse("db-1.example").unwrap()],
            addresses: vec!["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            port: 4369,
        }
    }

    fn lease() -> Lease {
        let registration = Registration {
            node: Node {
                port: 65_535,
                node_type: NodeType(1),
                protocol: 255,
                extra: (0..=255).collect(),
                ..Node::ordinary(AliveName::parse("rabbit é 😈 \"\\ {x}/@y".as_bytes()).unwrap(), 1)
            },
            advertised_port: 0,
            creation: Creation::new(u32::MAX).unwrap(),
            instance: Arc::new(instance()),
            registered_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_800_000_000_123_456_789),
        };
        let token = LeaseToken { instance: InstanceId(0xab), number: u64::MAX };
        Lease { token, registration: Arc::new(registration) }
    }

    fn written() -> String {
        encode_lease(&lease(), &instance(), Numbered::As(lease().creation()))
    }

    /// Reads what stands under the key of [`lease`].
    fn read(value: &str) -> Result<Lease, Unreadable> {
        decode_lease(value.as_bytes(), 7, &instance().host, &lease().registration.node.name)
    }

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        let read_back = read(&written()).unwrap();
        assert_eq!(read_back.token, lease().token);
        assert_eq!(read_back.registration, lease().registration);
        let instance = instance();
        assert_eq!(decode_instance(instance.id, encode_instance(&instance).as_bytes()).unwrap(), instance);
    }

    #[test]
    fn a_creation_may_come_of_the_revision() {
        let serial = Serial { base: 1_000, skew: 1 };
        let written = encode_lease(&lease(), &instance(), Numbered::By(serial));
        assert_eq!(read(&written).unwrap().creation(), serial.creation(7));
    }

    #[test]
    fn what_stands_under_another_key_is_not_believed() {
        let (other, elsewhere) = (AliveName::parse(b"other").unwrap(), HostId::parse("db-2").unwrap());
        let (host, name) = (&instance().host, &lease().registration.node.name);
        for (host, name) in [(host, &other), (&elsewhere, name)] {
            let refused = decode_lease(written().as_bytes(), 7, host, name);
            assert!(matches!(refused, Err(Unreadable::Elsewhere { .. })), "{refused:?}");
        }
    }

    #[test]
    fn no_more_is_read_than_a_daemon_can_have_written() {
        let with = |instance: Instance| encode_lease(&lease(), &instance, Numbered::As(Creation::FIRST));
        assert!(read(&with(instance())).is_ok());
        for too_many in [
            Instance { aliases: vec![instance().host; ALIASES_MAX + 1], ..instance() },
            Instance { addresses: vec![instance().addresses[0]; ADDRESSES_MAX + 1], ..instance() },
            Instance { name: "x".repeat(NAME_CHARS_MAX + 1), ..instance() },
        ] {
            assert!(matches!(read(&with(too_many)), Err(Unreadable::TooMany { .. })));
        }
        let mut registration = (*lease().registration).clone();
        registration.node.extra = vec![7; 70_000].into();
        let long = Lease { registration: Arc::new(registration), ..lease() };
        let written = encode_lease(&long, &instance(), Numbered::As(Creation::FIRST));
        assert!(matches!(read(&written), Err(Unreadable::Extra { bytes: 70_000 })));
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped_and_a_later_format_is_refused() {
        let written = written();
        let grown = written.replacen("{\"name\"", "{\"new\":[1],\"name\"", 1);
        assert!(grown != written && read(&grown).is_ok());
        for other in [format!("2{}", &written[1..]), String::new(), "1".to_owned()] {
            assert!(matches!(read(&other), Err(Unreadable::Version)), "{other}");
        }
        for broken in ["1 x", &written[..60], &written.replace("\"creation\":4294967295", "\"creation\":3")] {
            assert!(read(broken).is_err(), "{broken}");
        }
    }
}
