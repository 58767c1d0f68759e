//! How registrations and daemons are written down: values that need nothing else to be understood.
//!
//! A registration is `1 ORDER TOKEN CREATION HOLDER BODY`: the version of the format; 19 digits that put
//! registrations in the order of their times, for daemons of versions that list them so; the lease's token; the
//! creation; the daemon's name, with its spaces percent-encoded; and JSON with all the rest. What stands before the JSON is for the scripts, which read
//! none: not every server has a parser for them. They add the order, and the creation when they choose it.
//! A daemon is `1 BODY`. Fields that are not known here are skipped: that is how the format may grow, while daemons
//! are upgraded one after the other. Another number in front is for a change that older daemons must not misread:
//! to them such an entry is unreadable, which costs its own name alone, and they never overwrite it.

use std::sync::Arc;
use std::time::SystemTime;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use repmd_backend_api::{
    AliveName, Creation, HostId, Instance, InstanceId, Lease, LeaseToken, Node, REASON_CHARS_MAX,
    Registration,
};
use repmd_backend_remote::body::{BodyError, InstanceBody, NAME_CHARS_MAX, NodeBody, encode, stands_at};

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("not written by a version of repmd that this one knows")]
    Version,
    #[error("it never runs out")]
    Endless,
    #[error(transparent)]
    Beyond(#[from] BodyError),
    #[error(transparent)]
    Body(#[from] serde_json::Error),
    #[error(transparent)]
    Name(#[from] repmd_backend_api::NameError),
}

/// The body of a registration.
pub(crate) fn encode_body(
    node: &Node,
    advertised_port: u16,
    registered_at: SystemTime,
    instance: &Instance,
) -> String {
    encode(&NodeBody::of(node, advertised_port, registered_at, instance))
}

/// The name of a daemon, as it stands before the body.
pub(crate) fn encode_holder(instance: &Instance) -> String {
    const SPACES: &AsciiSet = &CONTROLS.add(b' ').add(b'%');
    utf8_percent_encode(&instance.name, SPACES).to_string()
}

/// The name of a daemon, as a script answers it; no more of it than a name may have.
pub(crate) fn decode_holder(text: &[u8]) -> String {
    percent_decode(text).decode_utf8_lossy().chars().take(NAME_CHARS_MAX).collect()
}

/// What is wrong with one lease, as a script answers it; it may quote what somebody else wrote.
pub(crate) fn decode_reason(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(REASON_CHARS_MAX).collect()
}

/// All that the daemon writes of a lease it holds: `TOKEN CREATION HOLDER BODY`.
pub(crate) fn encode_lease(lease: &Lease) -> String {
    let Registration { node, advertised_port, instance, registered_at, .. } = &*lease.registration;
    let body = encode_body(node, *advertised_port, *registered_at, instance);
    format!("{} {} {} {body}", lease.token, lease.creation(), encode_holder(instance))
}

/// Reads a registration.
pub(crate) fn decode_lease(value: &[u8]) -> Result<Lease, Unreadable> {
    let value = std::str::from_utf8(value).map_err(|_| Unreadable::Version)?;
    let mut parts = value.splitn(6, ' ');
    let mut part = || parts.next().ok_or(Unreadable::Version);
    if part()? != "1" {
        return Err(Unreadable::Version);
    }
    let _order: u64 = part()?.parse().map_err(|_| Unreadable::Version)?;
    let (id, number) = part()?.split_once('-').ok_or(Unreadable::Version)?;
    let id = decode_id(id)?;
    let number = number.parse().map_err(|_| Unreadable::Version)?;
    let creation = part()?.parse().ok().and_then(Creation::new).ok_or(Unreadable::Version)?;
    // The daemon's name is in the body as well.
    part()?;
    let body: NodeBody<'_> = serde_json::from_str(part()?)?;
    let registration = body.into_registration(id, creation)?;
    Ok(Lease { token: LeaseToken { instance: id, number }, registration: Arc::new(registration) })
}

/// Reads the registration of `name` on `host`.
pub(crate) fn decode_lease_at(value: &[u8], host: &HostId, name: &AliveName) -> Result<Lease, Unreadable> {
    let lease = decode_lease(value)?;
    stands_at(&lease.registration, host, name)?;
    Ok(lease)
}

/// A daemon as the store keeps it.
pub(crate) fn encode_instance(instance: &Instance) -> String {
    format!("1 {}", encode(&InstanceBody::of(instance)))
}

/// Reads a daemon; its id is in its key.
pub(crate) fn decode_instance(id: InstanceId, value: &[u8]) -> Result<Instance, Unreadable> {
    let value = std::str::from_utf8(value).map_err(|_| Unreadable::Version)?;
    let body = value.strip_prefix("1 ").ok_or(Unreadable::Version)?;
    Ok(serde_json::from_str::<InstanceBody<'_>>(body)?.into_instance(id)?)
}

/// Reads an id, as its `Display` writes it.
pub(crate) fn decode_id(text: &str) -> Result<InstanceId, Unreadable> {
    u128::from_str_radix(text, 16).map(InstanceId).map_err(|_| Unreadable::Version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use repmd_backend_api::{EXTRA_BYTES_MAX, NodeType};
    use repmd_backend_remote::body::{ADDRESSES_MAX, ALIASES_MAX};
    use std::time::Duration;

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

    /// Reads what stands under the key of [`lease`].
    fn read(value: &[u8]) -> Result<Lease, Unreadable> {
        let Registration { node, instance, .. } = &*lease().registration;
        decode_lease_at(value, &instance.host, &node.name)
    }

    fn written(lease: &Lease) -> Vec<u8> {
        format!("1 0000000000000000007 {}", encode_lease(lease)).into_bytes()
    }

    #[test]
    fn what_stands_under_another_key_is_not_believed() {
        let value = written(&lease());
        let Registration { node, instance, .. } = &*lease().registration;
        let (other, elsewhere) = (AliveName::parse(b"other").unwrap(), HostId::parse("db-2").unwrap());
        for (host, name) in [(&instance.host, &other), (&elsewhere, &node.name)] {
            let refused = decode_lease_at(&value, host, name);
            assert!(matches!(refused, Err(Unreadable::Beyond(BodyError::Elsewhere { .. }))));
        }
    }

    #[test]
    fn no_more_is_read_than_a_daemon_can_have_written() {
        let with = |change: &dyn Fn(&mut Registration, &mut Instance)| {
            let mut registration = (*lease().registration).clone();
            let mut instance = (*registration.instance).clone();
            change(&mut registration, &mut instance);
            registration.instance = Arc::new(instance);
            read(&written(&Lease { registration: Arc::new(registration), ..lease() }))
        };
        assert!(with(&|it, _| it.node.extra = vec![7; EXTRA_BYTES_MAX].into()).is_ok());
        let refused = with(&|it, _| it.node.extra = vec![7; 70_000].into());
        assert!(matches!(refused, Err(Unreadable::Beyond(BodyError::Extra { bytes: 70_000 }))));
        let refused = [
            with(&|_, it| it.aliases = vec![it.host.clone(); ALIASES_MAX + 1]),
            with(&|_, it| it.addresses = vec![it.addresses[0]; ADDRESSES_MAX + 1]),
            with(&|_, it| it.name = "x".repeat(NAME_CHARS_MAX + 1)),
        ];
        assert!(
            refused
                .iter()
                .all(|refused| matches!(refused, Err(Unreadable::Beyond(BodyError::TooMany { .. }))))
        );
    }

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        let lease = lease();
        let stored = read(&written(&lease)).unwrap();
        assert_eq!(stored.token, lease.token);
        assert_eq!(stored.registration, lease.registration);
        let instance = &lease.registration.instance;
        assert_eq!(decode_holder(encode_holder(instance).as_bytes()), instance.name);
        assert_eq!(decode_instance(instance.id, encode_instance(instance).as_bytes()).unwrap(), **instance);
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped_and_a_later_format_is_refused() {
        let written = format!("1 0000000000000000007 {}", encode_lease(&lease()));
        let grown = written.replacen("{\"name\"", "{\"new\":[1],\"name\"", 1);
        assert!(grown != written && read(grown.as_bytes()).is_ok());
        for other in [format!("2{}", &written[1..]), String::new(), "1".to_owned(), "1 x".to_owned()] {
            assert!(matches!(read(other.as_bytes()), Err(Unreadable::Version)), "{other}");
        }
        assert!(matches!(read(&written.as_bytes()[..60]), Err(Unreadable::Version)));
        assert!(matches!(read(&written.as_bytes()[..120]), Err(Unreadable::Body(_))));
    }
}
