//! How registrations and daemons are written down: values that need nothing else to be understood.
//!
//! A registration is `1 ORDER TOKEN CREATION HOLDER BODY`: the version of the format; 19 digits that put
//! registrations in their order; the lease's token; the creation; the daemon's name, with its spaces
//! percent-encoded; and JSON with all the rest. What stands before the JSON is for the scripts, which read
//! none: not every server has a parser for them. They add the order, and the creation when they choose it.
//! A daemon is `1 BODY`. Another version is refused, while fields that are not known here are skipped:
//! that is how the format may grow.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use repmd_backend_api::{
    AliveName, Creation, HostId, Instance, InstanceId, Lease, LeaseToken, Node, NodeType, Registration,
};
use serde::{Deserialize, Serialize};

/// How long the name of a daemon may be, in characters.
const HOLDER_MAX: usize = 255;

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("not written by a version of repmd that this one knows")]
    Version,
    #[error(transparent)]
    Body(#[from] serde_json::Error),
    #[error(transparent)]
    Name(#[from] repmd_backend_api::NameError),
}

/// A lease as the store keeps it.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Later registrations of a host have higher ones.
    pub(crate) order: u64,
    pub(crate) lease: Lease,
}

#[derive(Serialize, Deserialize)]
struct NodeBody<'a> {
    name: std::borrow::Cow<'a, str>,
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

#[derive(Serialize, Deserialize)]
struct InstanceBody<'a> {
    name: std::borrow::Cow<'a, str>,
    host: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<std::borrow::Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpAddr>,
    port: u16,
}

/// The body of a registration.
pub(crate) fn encode_body(
    node: &Node,
    advertised_port: u16,
    registered_at: SystemTime,
    instance: &Instance,
) -> String {
    let since_epoch = registered_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    encode(&NodeBody {
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
    })
}

/// The name of a daemon, as it stands before the body.
pub(crate) fn encode_holder(instance: &Instance) -> String {
    const SPACES: &AsciiSet = &CONTROLS.add(b' ').add(b'%');
    utf8_percent_encode(&instance.name, SPACES).to_string()
}

/// The name of a daemon, as a script answers it; no more of it than a name may have.
pub(crate) fn decode_holder(text: &[u8]) -> String {
    percent_decode(text).decode_utf8_lossy().chars().take(HOLDER_MAX).collect()
}

/// All that the daemon writes of a lease it holds: `TOKEN CREATION HOLDER BODY`.
pub(crate) fn encode_lease(lease: &Lease) -> String {
    let Registration { node, advertised_port, instance, registered_at, .. } = &*lease.registration;
    let body = encode_body(node, *advertised_port, *registered_at, instance);
    format!("{} {} {} {body}", lease.token, lease.creation(), encode_holder(instance))
}

/// Reads a registration.
pub(crate) fn decode_lease(value: &[u8]) -> Result<Stored, Unreadable> {
    let value = std::str::from_utf8(value).map_err(|_| Unreadable::Version)?;
    let mut parts = value.splitn(6, ' ');
    let mut part = || parts.next().ok_or(Unreadable::Version);
    if part()? != "1" {
        return Err(Unreadable::Version);
    }
    let order = part()?.parse().map_err(|_| Unreadable::Version)?;
    let (id, number) = part()?.split_once('-').ok_or(Unreadable::Version)?;
    let id = decode_id(id)?;
    let number = number.parse().map_err(|_| Unreadable::Version)?;
    let creation = part()?.parse().ok().and_then(Creation::new).ok_or(Unreadable::Version)?;
    // The daemon's name is in the body as well.
    part()?;
    let body: NodeBody<'_> = serde_json::from_str(part()?)?;
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
    let lease = Lease { token: LeaseToken { instance: id, number }, registration: Arc::new(registration) };
    Ok(Stored { order, lease })
}

/// A daemon as the store keeps it.
pub(crate) fn encode_instance(instance: &Instance) -> String {
    format!("1 {}", encode(&InstanceBody::of(instance)))
}

/// Reads a daemon; its id is in its key.
pub(crate) fn decode_instance(id: InstanceId, value: &[u8]) -> Result<Instance, Unreadable> {
    let value = std::str::from_utf8(value).map_err(|_| Unreadable::Version)?;
    let body = value.strip_prefix("1 ").ok_or(Unreadable::Version)?;
    serde_json::from_str::<InstanceBody<'_>>(body)?.into_instance(id)
}

/// Reads an id, as its `Display` writes it.
pub(crate) fn decode_id(text: &str) -> Result<InstanceId, Unreadable> {
    u128::from_str_radix(text, 16).map(InstanceId).map_err(|_| Unreadable::Version)
}

impl<'a> InstanceBody<'a> {
    fn of(instance: &'a Instance) -> Self {
        Self {
            name: instance.name.as_str().into(),
            host: instance.host.as_str().into(),
            aliases: instance.aliases.iter().map(|alias| alias.as_str().into()).collect(),
            addresses: instance.addresses.clone(),
            port: instance.port,
        }
    }

    fn into_instance(self, id: InstanceId) -> Result<Instance, Unreadable> {
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

fn encode(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("numbers, texts and lists always have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        let instance = Instance {
            id: InstanceId(0xab),
            name: "a \"b\"\n%é".to_owned(),
            host: HostId::parse("db-1").unwrap(),
            aliases: vec![HostId::parse("db-1.example").unwrap()],
            addresses: vec!["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            port: 4369,
        };
        let registration = Registration {
            node: Node {
                name: AliveName::parse("rabbit é 😈 \"\\ {x}/@y".as_bytes()).unwrap(),
                port: 65_535,
                node_type: NodeType(1),
                protocol: 255,
                highest_version: 6,
                lowest_version: 5,
                extra: (0..=255).collect(),
            },
            advertised_port: 0,
            creation: Creation::new(u32::MAX).unwrap(),
            instance: Arc::new(instance),
            registered_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_800_000_000_123_456_789),
        };
        let token = LeaseToken { instance: InstanceId(0xab), number: u64::MAX };
        Lease { token, registration: Arc::new(registration) }
    }

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        let lease = lease();
        let stored =
            decode_lease(format!("1 0000000000000000007 {}", encode_lease(&lease)).as_bytes()).unwrap();
        assert_eq!((stored.order, stored.lease.token), (7, lease.token));
        assert_eq!(stored.lease.registration, lease.registration);
        let instance = &lease.registration.instance;
        assert_eq!(decode_holder(encode_holder(instance).as_bytes()), instance.name);
        assert_eq!(decode_instance(instance.id, encode_instance(instance).as_bytes()).unwrap(), **instance);
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped_and_a_later_format_is_refused() {
        let written = format!("1 0000000000000000007 {}", encode_lease(&lease()));
        let grown = written.replacen("{\"name\"", "{\"new\":[1],\"name\"", 1);
        assert!(grown != written && decode_lease(grown.as_bytes()).is_ok());
        for other in [format!("2{}", &written[1..]), String::new(), "1".to_owned(), "1 x".to_owned()] {
            assert!(matches!(decode_lease(other.as_bytes()), Err(Unreadable::Version)), "{other}");
        }
        assert!(matches!(decode_lease(&written.as_bytes()[..60]), Err(Unreadable::Version)));
        assert!(matches!(decode_lease(&written.as_bytes()[..120]), Err(Unreadable::Body(_))));
    }
}
