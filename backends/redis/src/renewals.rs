//! Leases that are renewed without a script.
//!
//! Nearly all leases are in the store as this daemon last left them, and what there is to do is to look and to let them
//! last longer: two short commands each, which cost the store a third of what a script does. All else is the script's:
//! what the store has not, or has otherwise, and what the indexes must lead to again.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Pipeline, RedisResult, Value};
use repmd_backend_api::{AliveName, Lease};

/// How often renewals write the indexes, for the length of one lease: one that lives on is renewed at least once in any
/// such time. Writing them costs more than the renewal itself. `scripts/prelude.lua` has it, too: what the indexes hold
/// lasts for two of these.
const PERIOD: Duration = Duration::from_secs(600);

/// How much later the turn of a name comes than that of one whose last byte is one less.
const TURN: Duration = Duration::from_secs(61);

/// The version and the order, which stand before what a daemon writes of a lease.
const HEAD: usize = 22;

/// What the store had at the last renewal as this daemon has it. These alone are extended before it is known what is
/// there now: should another owner be, its lease lasts longer by one renewal, once.
#[derive(Debug)]
pub(crate) struct Extendable {
    /// The numbers of their claims.
    numbers: Mutex<HashSet<u64>>,
    since: Instant,
    lease_ttl: Duration,
}

/// One lease, as it is written down.
#[derive(Debug)]
pub(crate) struct Written<'a> {
    pub(crate) lease: &'a Lease,
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Extendable {
    pub(crate) fn new(lease_ttl: Duration) -> Self {
        Self { numbers: Mutex::default(), since: Instant::now(), lease_ttl }
    }

    /// The store has this one, or it has not, or has another in its place.
    pub(crate) fn note(&self, lease: &Lease, is_there: bool) {
        let mut numbers = self.lock();
        if is_there {
            numbers.insert(lease.token.number);
        } else {
            numbers.remove(&lease.token.number);
        }
    }

    /// Whether this one may be extended without a script.
    pub(crate) fn has(&self, lease: &Lease) -> bool {
        !is_time_to_index(&lease.registration.node.name, self.since.elapsed(), self.lease_ttl)
            && self.lock().contains(&lease.token.number)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at each of `leases`, and lets it last for `milliseconds` more.
pub(crate) fn look_and_extend(leases: &[Written<'_>], milliseconds: u64) -> Pipeline {
    let mut commands = Pipeline::with_capacity(2 * leases.len());
    commands.ignore_errors();
    for Written { key, value, .. } in leases {
        // One byte more than there should be, and never all that somebody else may have put there.
        commands.cmd("GETRANGE").arg(key).arg(0).arg(HEAD + value.len());
        commands.cmd("PEXPIRE").arg(key).arg(milliseconds);
    }
    commands
}

/// Whether each of `leases` is there as it was written, and lasts longer, by the answers to [`look_and_extend`].
pub(crate) fn are_extended(leases: &[Written<'_>], answers: &[RedisResult<Value>]) -> Vec<bool> {
    let mut answers = answers.chunks_exact(2);
    let is_extended = |Written { value, .. }: &Written<'_>| match answers.next() {
        Some([Ok(Value::BulkString(there)), Ok(Value::Int(1))]) => {
            there.starts_with(b"1 ") && there.get(HEAD..) == Some(value.as_bytes())
        }
        _ => false,
    };
    leases.iter().map(is_extended).collect()
}

/// Whether it is the turn of a name, so long after the first. Names take turns by their last bytes.
fn is_time_to_index(name: &AliveName, elapsed: Duration, lease_ttl: Duration) -> bool {
    let last = name.as_str().bytes().next_back().unwrap_or_default();
    let into = (elapsed + TURN * u32::from(last)).as_millis() % PERIOD.as_millis();
    into < lease_ttl.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;
    use repmd_backend_api::{
        Creation, HostId, Instance, InstanceId, LeaseToken, Node, NodeType, Registration,
    };
    use std::sync::Arc;
    use std::time::SystemTime;

    fn lease() -> Lease {
        let instance = Instance {
            id: InstanceId(7),
            name: "i".to_owned(),
            host: HostId::parse("a").unwrap(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            port: 4369,
        };
        let name = AliveName::parse(b"rabbit").unwrap();
        let registration = Registration {
            node: Node {
                name,
                port: 9100,
                node_type: NodeType(77),
                protocol: 0,
                highest_version: 6,
                lowest_version: 5,
                extra: Box::default(),
            },
            advertised_port: 9100,
            creation: Creation::new(7).unwrap(),
            instance: Arc::new(instance),
            registered_at: SystemTime::UNIX_EPOCH,
        };
        let token = LeaseToken { instance: InstanceId(7), number: 1 };
        Lease { token, registration: Arc::new(registration) }
    }

    #[test]
    fn a_lease_is_extended_only_where_it_is_there_as_it_was_written_and_lasts_longer() {
        let lease = lease();
        let value = record::encode_lease(&lease);
        let written = [Written { lease: &lease, key: "k".to_owned(), value: value.clone() }];
        let head = "1 0000000000000000007 ";
        let is_extended = |there: String, lasts: i64| {
            let answers = [Ok(Value::BulkString(there.into_bytes())), Ok(Value::Int(lasts))];
            are_extended(&written, &answers)[0]
        };
        assert!(is_extended(format!("{head}{value}"), 1));
        assert!(!is_extended(format!("{head}{value}"), 0), "it ran out meanwhile");
        for other in [
            String::new(),
            "1 ".to_owned(),
            format!("{head}{value}x"),
            format!("{head}{}", &value[..value.len() - 1]),
            format!("2{}{value}", &head[1..]),
            format!("{head}{}", value.replace("9100", "9101")),
        ] {
            assert!(!is_extended(other.clone(), 1), "{other:?}");
        }
        let refused = || Err(redis::RedisError::from((redis::ErrorKind::Parse, "no")));
        assert_eq!(are_extended(&written, &[refused(), Ok(Value::Int(1))]), [false]);
        let there = Ok(Value::BulkString(format!("{head}{value}").into_bytes()));
        assert_eq!(are_extended(&written, &[there, refused()]), [false]);
        assert_eq!(are_extended(&written, &[]), [false], "an answer that is short");
    }

    #[test]
    fn each_name_has_its_turn_once_in_a_period_and_not_all_at_once() {
        let ttl = Duration::from_secs(15);
        let turns = |name: &str| -> Vec<u64> {
            let name = AliveName::parse(name.as_bytes()).unwrap();
            (0..1200).filter(|at| is_time_to_index(&name, Duration::from_secs(*at), ttl)).collect()
        };
        let (one, other) = (turns("app-1"), turns("app-2"));
        assert_eq!((one.len(), one[15]), (30, one[0] + 600), "{one:?}");
        assert!(one.iter().all(|at| !other.contains(at)), "{one:?} {other:?}");
        let long = is_time_to_index(&AliveName::parse(b"a").unwrap(), Duration::from_secs(7), PERIOD);
        assert!(long, "a lease of a period is led to at each renewal");
    }
}
