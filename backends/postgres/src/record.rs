//! How registrations and daemons are written down, and what of it is believed.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use repmd_backend_api::{
    AliveName, Claim, Creation, EXTRA_BYTES_MAX, Found, HostId, Instance, InstanceId, Lease, Node, NodeName,
    NodeType, Registration,
};
use repmd_backend_remote::body::{ADDRESSES_MAX, ALIASES_MAX, NAME_CHARS_MAX};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

/// Bits of a mark. Those of 65,536 names, as many as a host has ports, add up to less than 64 bits have.
const MARK_BITS: u32 = 40;

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("{0}")]
    Column(String),
    #[error("{number} is no {what}")]
    Number { number: i64, what: &'static str },
    #[error("{count} {what}, where there can be {most}")]
    TooMany { count: usize, what: &'static str, most: usize },
    #[error("it says that it is {says}")]
    Elsewhere { says: NodeName },
    #[error("{0:?} is no address")]
    Address(String),
    #[error(transparent)]
    Name(#[from] repmd_backend_api::NameError),
    #[error("longer than a note may be")]
    Note,
}

/// A daemon, as the functions are told of it.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) id: Vec<u8>,
    pub(crate) name: Vec<u8>,
    pub(crate) host: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) port: i32,
}

impl Told {
    pub(crate) fn of(instance: &Instance) -> Self {
        let aliases = instance.aliases.iter().filter(|alias| **alias != instance.host);
        Self {
            id: encode_id(instance.id).to_vec(),
            name: instance.name.as_bytes().to_vec(),
            host: instance.host.as_str().to_owned(),
            aliases: aliases.map(|alias| alias.as_str().to_owned()).collect(),
            addresses: instance.addresses.iter().map(ToString::to_string).collect(),
            port: instance.port.into(),
        }
    }
}

/// What a daemon holds, as the store counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    names: i64,
    sum: i64,
}

impl Digest {
    pub(crate) fn of<'a>(leases: impl Iterator<Item = &'a Lease>) -> Self {
        leases.fold(Self::default(), |digest, lease| {
            let sum = mark_of(lease) ^ i64::from(lease.creation().get()) << 8;
            Self { names: digest.names + 1, sum: digest.sum.wrapping_add(sum) }
        })
    }

    /// What the store answers: two columns, which are null where it does not know the daemon.
    pub(crate) fn read(row: &Row) -> Option<Self> {
        Some(Self { names: row.try_get(0).ok()?, sum: row.try_get(1).ok()? })
    }
}

/// What stands for a lease in the digest, beside its creation, which the store adds.
pub(crate) fn mark_of(lease: &Lease) -> i64 {
    let Registration { node, advertised_port, registered_at, .. } = &*lease.registration;
    mark(lease.token.number, node, *advertised_port, *registered_at)
}

pub(crate) fn mark_of_claim(claim: &Claim) -> i64 {
    mark(claim.number, &claim.node, claim.advertised_port, claim.registered_at)
}

/// FNV-1a: it must be the same in another build of the program, which takes the place of this one and its leases.
fn mark(number: u64, node: &Node, advertised_port: u16, registered_at: SystemTime) -> i64 {
    let Node { name, port, node_type, protocol, highest_version, lowest_version, extra } = node;
    let parts: [&[u8]; 9] = [
        &number.to_be_bytes(),
        &port.to_be_bytes(),
        &advertised_port.to_be_bytes(),
        &[node_type.0, *protocol],
        &highest_version.to_be_bytes(),
        &lowest_version.to_be_bytes(),
        &nanoseconds(registered_at).to_be_bytes(),
        extra,
        name.as_str().as_bytes(),
    ];
    let hash = parts.concat().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> (u64::BITS - MARK_BITS)) as i64
}

pub(crate) fn nanoseconds(time: SystemTime) -> i64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

pub(crate) fn encode_id(id: InstanceId) -> [u8; 16] {
    id.0.to_be_bytes()
}

/// Claims are counted from 0, so no number of this life has the bit of the sign.
pub(crate) fn encode_number(number: u64) -> i64 {
    number as i64
}

pub(crate) fn decode_number(number: i64) -> u64 {
    number as u64
}

/// The name of another daemon; no more of it than a name may have.
pub(crate) fn decode_holder(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(NAME_CHARS_MAX).collect()
}

/// A registration, but for the daemon that holds it.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) host: HostId,
    pub(crate) daemon: InstanceId,
    node: Node,
    advertised_port: u16,
    creation: Creation,
    registered_at: SystemTime,
    left: Duration,
}

impl Registered {
    /// Reads what `repmd.names_within` answers, and `repmd.find` begins with.
    pub(crate) fn read(row: &Row) -> Result<Self, Unreadable> {
        let extra: Vec<u8> = get(row, 10)?;
        at_most(EXTRA_BYTES_MAX, extra.len(), "bytes of extra")?;
        let creation: i64 = get(row, 3)?;
        let number = |index, what| {
            let number: i32 = get(row, index)?;
            u16::try_from(number).map_err(|_| Unreadable::Number { number: number.into(), what })
        };
        let byte = |index, what| {
            let number: i32 = get(row, index)?;
            u8::try_from(number).map_err(|_| Unreadable::Number { number: number.into(), what })
        };
        let at: i64 = get(row, 11)?;
        let left: i64 = get(row, 12)?;
        let left_ms = u64::try_from(left).map_err(|_| Unreadable::Number { number: left, what: "time" });
        Ok(Self {
            host: HostId::parse(get(row, 0)?)?,
            daemon: id(row, 2)?,
            node: Node {
                name: AliveName::parse(get(row, 1)?)?,
                port: number(4, "port")?,
                node_type: NodeType(byte(6, "node type")?),
                protocol: byte(7, "protocol")?,
                highest_version: number(8, "version")?,
                lowest_version: number(9, "version")?,
                extra: extra.into(),
            },
            advertised_port: number(5, "port")?,
            creation: creation_of(creation)?,
            registered_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(at.try_into().unwrap_or_default()),
            left: Duration::from_millis(left_ms?),
        })
    }

    /// The registration, if `instance` is where it says that it is.
    pub(crate) fn of(self, instance: Arc<Instance>, ttl: Duration) -> Result<Found, Unreadable> {
        let Self { host, daemon: _, node, advertised_port, creation, registered_at, left } = self;
        let is_elsewhere = instance.host != host;
        let registration = Registration { node, advertised_port, creation, instance, registered_at };
        if is_elsewhere {
            return Err(Unreadable::Elsewhere { says: registration.node_name() });
        }
        // The clock of the server was set back. Another daemon may have a longer one, but this is what is asked for
        // again.
        let left = Some(left.min(ttl));
        Ok(Found { registration: Arc::new(registration), left })
    }
}

pub(crate) fn creation_of(number: i64) -> Result<Creation, Unreadable> {
    let creation = u32::try_from(number).ok().and_then(Creation::new);
    creation.ok_or(Unreadable::Number { number, what: "creation" })
}

/// Where a row of a registration is, for people.
pub(crate) fn place(row: &Row) -> String {
    let host: &str = row.try_get(0).unwrap_or_default();
    let name: &[u8] = row.try_get(1).unwrap_or_default();
    format!("repmd.names {host}/{}", String::from_utf8_lossy(name))
}

/// Reads a daemon, whose columns begin at `first`.
pub(crate) fn read_instance(row: &Row, first: usize) -> Result<Instance, Unreadable> {
    let id = id(row, first)?;
    let name = String::from_utf8_lossy(get::<&[u8]>(row, first + 1)?).into_owned();
    at_most(NAME_CHARS_MAX, name.chars().count(), "characters of a name")?;
    let Texts(aliases) = get(row, first + 3)?;
    at_most(ALIASES_MAX, aliases.len(), "aliases")?;
    let Texts(addresses) = get(row, first + 4)?;
    at_most(ADDRESSES_MAX, addresses.len(), "addresses")?;
    let address = |text: &str| {
        let short = || text.chars().take(NAME_CHARS_MAX).collect();
        text.parse::<IpAddr>().map_err(|_| Unreadable::Address(short()))
    };
    let port: i32 = get(row, first + 5)?;
    Ok(Instance {
        id,
        name,
        host: HostId::parse(get(row, first + 2)?)?,
        aliases: aliases.into_iter().map(HostId::parse).collect::<Result<_, _>>()?,
        addresses: addresses.into_iter().map(address).collect::<Result<_, _>>()?,
        port: port.try_into().map_err(|_| Unreadable::Number { number: port.into(), what: "port" })?,
    })
}

/// Where a row of a daemon is, for people.
pub(crate) fn place_of_daemon(row: &Row, first: usize) -> String {
    let id: &[u8] = row.try_get(first).unwrap_or_default();
    let id: String = id.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("repmd.daemons {id}")
}

pub(crate) fn id(row: &Row, index: usize) -> Result<InstanceId, Unreadable> {
    let bytes: &[u8] = get(row, index)?;
    let bytes = bytes.try_into().map_err(|_| Unreadable::Column("an id has 16 bytes".to_owned()))?;
    Ok(InstanceId(u128::from_be_bytes(bytes)))
}

/// A list of texts that is as long as it says.
struct Texts<'a>(Vec<&'a str>);

impl<'a> FromSql<'a> for Texts<'a> {
    fn from_sql(of_type: &Type, bytes: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        // After how many dimensions it has, whether some are null, and their type. The client library makes room for as
        // many as are announced, before it has seen one.
        let announced =
            bytes.get(12..16).and_then(|count| count.try_into().ok()).map_or(0, u32::from_be_bytes);
        if bytes.len() / size_of::<u32>() < announced as usize {
            return Err(format!("{announced} texts in {} bytes", bytes.len()).into());
        }
        Vec::from_sql(of_type, bytes).map(Self)
    }

    fn accepts(of_type: &Type) -> bool {
        Vec::<&str>::accepts(of_type)
    }
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T, Unreadable> {
    row.try_get(index).map_err(|error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Unreadable::Column(format!("{error}{cause}"))
    })
}

fn at_most(most: usize, count: usize, what: &'static str) -> Result<(), Unreadable> {
    if most < count { Err(Unreadable::TooMany { count, what, most }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Column, array_of, ask, one_row};

    #[tokio::test(flavor = "current_thread")]
    async fn no_room_is_made_for_more_aliases_than_there_are() {
        let with_aliases = async |aliases: Column| {
            let (id, text) = (Column::new(&Type::BYTEA, [7; 16]), Column::new(&Type::TEXT, "db-1"));
            let (name, port) = (Column::new(&Type::BYTEA, "a"), Column::new(&Type::INT4, [0, 0, 17, 17]));
            let answer = one_row(&[id, name, text, aliases, Column::texts(&["10.0.0.1"]), port]);
            let read = |row: &Row| read_instance(row, 0).map_err(|unreadable| unreadable.to_string());
            ask([answer], read).await.unwrap().remove(0)
        };
        for aliases in [&[][..], &["db-1.example", "db"]] {
            assert_eq!(with_aliases(Column::texts(aliases)).await.unwrap().aliases.len(), aliases.len());
        }
        let announced = Column::new(&Type::TEXT_ARRAY, array_of(i32::MAX as usize));
        let refused = with_aliases(announced).await.unwrap_err();
        assert!(refused.ends_with(": 2147483647 texts in 20 bytes"), "{refused}");
    }

    fn lease() -> Lease {
        let instance = Instance {
            id: InstanceId(0xab),
            name: "a".to_owned(),
            host: HostId::parse("db-1").unwrap(),
            aliases: vec![],
            addresses: vec![],
            port: 4369,
        };
        let claim = Claim {
            number: 7,
            node: Node::ordinary(AliveName::parse(b"rabbit").unwrap(), 25672),
            advertised_port: 9100,
            registered_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_800_000_000_123_456_789),
            last: None,
        };
        let lease = claim.granted(Arc::new(instance), Creation::new(9).unwrap());
        assert_eq!(mark_of(&lease), mark_of_claim(&claim));
        lease
    }

    /// A later version that makes another mark of the same lease writes all rows anew, once.
    #[test]
    fn a_mark_is_the_same_in_each_build() {
        assert_eq!(mark_of(&lease()), 398_649_542_018);
    }

    #[test]
    fn a_digest_sees_each_field() {
        let whole = Digest::of([&lease()].into_iter());
        let with = |change: &dyn Fn(&mut Lease, &mut Registration)| {
            let mut lease = lease();
            let mut registration = (*lease.registration).clone();
            change(&mut lease, &mut registration);
            Digest::of([&Lease { registration: Arc::new(registration), ..lease }].into_iter())
        };
        assert_eq!(with(&|_, _| {}), whole);
        let changed = [
            with(&|lease, _| lease.token.number += 1),
            with(&|_, it| it.creation = it.creation.next()),
            with(&|_, it| it.node.name = AliveName::parse(b"rabbiu").unwrap()),
            with(&|_, it| it.node.port += 1),
            with(&|_, it| it.node.node_type.0 += 1),
            with(&|_, it| it.node.protocol += 1),
            with(&|_, it| it.node.highest_version += 1),
            with(&|_, it| it.node.lowest_version += 1),
            with(&|_, it| it.node.extra = Box::from(*b"x")),
            with(&|_, it| it.advertised_port += 1),
            with(&|_, it| it.registered_at += Duration::from_nanos(1)),
            Digest::of([&lease(), &lease()].into_iter()),
            Digest::default(),
        ];
        for (index, digest) in changed.iter().enumerate() {
            assert!(*digest != whole && !changed[..index].contains(digest), "{index}");
        }
        let most = Digest { names: 1, sum: (1 << MARK_BITS) - 1 };
        assert!(most.sum.checked_mul(1 << 17).is_some());
    }
}
