//! How registrations and daemons are written down: values that need nothing but their key to be understood.
//!
//! Each is `1 ` and JSON: the version of the format, and all that is known. Fields that are not known here are
//! skipped: that is how the format may grow, while daemons are upgraded one after the other. Another number in front
//! is for a change that older daemons must not misread: to them such an entry is unreadable, which costs its own name
//! alone, and they never overwrite it.

use std::borrow::Cow;
use std::sync::Arc;

use repmd_backend_api::{
    AliveName, Creation, HostId, Instance, InstanceId, Lease, LeaseToken, NameError, Registration,
};
use repmd_backend_remote::body::{self, BodyError, InstanceBody, NodeBody};
use serde::{Deserialize, Serialize};

use crate::creation::Serial;

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("not written by a version of repmd that this one knows")]
    Version,
    #[error("it is under no key that repmd writes")]
    Key,
    #[error("it never runs out")]
    Endless,
    #[error("{bytes} bytes, where a note can have {most}")]
    Note { bytes: usize, most: usize },
    #[error(transparent)]
    Beyond(#[from] BodyError),
    #[error("it is larger than an answer may be")]
    TooLarge,
    #[error(transparent)]
    Body(#[from] serde_json::Error),
    #[error(transparent)]
    Name(#[from] NameError),
}

#[derive(Serialize, Deserialize)]
struct LeaseBody<'a> {
    /// The run of the daemon that holds it.
    daemon: Cow<'a, str>,
    /// Which claim of the daemon it is.
    claim: u64,
    /// One of these two: a number, or what makes it together with the revision in which this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    creation: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serial: Option<Serial>,
    node: NodeBody<'a>,
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
    let (creation, serial) = match numbered {
        Numbered::As(creation) => (Some(creation.get()), None),
        Numbered::By(serial) => (None, Some(serial)),
    };
    encode(&LeaseBody {
        daemon: instance.id.to_string().into(),
        claim: lease.token.number,
        creation,
        serial,
        node: NodeBody::of(node, *advertised_port, *registered_at, instance),
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
    let body: LeaseBody<'_> = decode(value)?;
    let id = decode_id(&body.daemon)?;
    let creation = match (body.creation, body.serial) {
        (Some(creation), None) => Creation::new(creation).ok_or(Unreadable::Version)?,
        (None, Some(serial)) => serial.creation(revision),
        _ => return Err(Unreadable::Version),
    };
    let registration = body.node.into_registration(id, creation)?;
    body::stands_at(&registration, host, name)?;
    let token = LeaseToken { instance: id, number: body.claim };
    Ok(Lease { token, registration: Arc::new(registration) })
}

/// A daemon as the store keeps it.
pub(crate) fn encode_instance(instance: &Instance) -> String {
    encode(&InstanceBody::of(instance))
}

/// Reads a daemon; its id is in its key.
pub(crate) fn decode_instance(id: InstanceId, value: &[u8]) -> Result<Instance, Unreadable> {
    Ok(decode::<InstanceBody<'_>>(value)?.into_instance(id)?)
}

fn decode_id(text: &str) -> Result<InstanceId, Unreadable> {
    u128::from_str_radix(text, 16).map(InstanceId).map_err(|_| Unreadable::Version)
}

fn encode(body: &impl Serialize) -> String {
    format!("1 {}", body::encode(body))
}

fn decode<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, Unreadable> {
    Ok(serde_json::from_slice(value.strip_prefix(b"1 ").ok_or(Unreadable::Version)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use repmd_backend_api::{Node, NodeType};
    use repmd_backend_remote::body::{ADDRESSES_MAX, ALIASES_MAX, NAME_CHARS_MAX};
    use std::time::{Duration, SystemTime};

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
            assert!(matches!(refused, Err(Unreadable::Beyond(BodyError::Elsewhere { .. }))), "{refused:?}");
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
            assert!(matches!(read(&with(too_many)), Err(Unreadable::Beyond(BodyError::TooMany { .. }))));
        }
        let mut registration = (*lease().registration).clone();
        registration.node.extra = vec![7; 70_000].into();
        let long = Lease { registration: Arc::new(registration), ..lease() };
        let written = encode_lease(&long, &instance(), Numbered::As(Creation::FIRST));
        assert!(matches!(read(&written), Err(Unreadable::Beyond(BodyError::Extra { bytes: 70_000 }))));
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
