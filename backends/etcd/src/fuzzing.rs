//! What the target in `fuzz/` reaches: whatever a member, or somebody in its place, answers, and what is made of it.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use prost::Message;
use repmd_backend_api::{
    AliveName, Claim, Creation, HostId, Instance, InstanceId, NOTE_BYTES_MAX, Node, Seen,
};
use repmd_backend_remote::Changes;
use tokio::runtime::{Builder, Runtime};

use crate::connection::Connection;
use crate::creation::Serial;
use crate::history::History;
use crate::inspect::Member;
use crate::keys::{Keys, read_id};
use crate::proto::{
    AlarmResponse, AuthenticateResponse, Event, KeyValue, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseTimeToLiveResponse, RangeResponse, ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
};
use crate::read::{left_of, read_daemon, read_note};
use crate::record::{Numbered, decode_instance, decode_lease, encode_instance, encode_lease};
use crate::settings::Settings;
use crate::store::{Store, Times, read_epoch};
use crate::watch::Watcher;

const CLUSTER: &str = "a/b";

/// What answers are read by. Nothing runs in its runtime, so it is never connected with anybody.
struct Reader {
    store: Arc<Store>,
    _runtime: Runtime,
}

static READER: LazyLock<Reader> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().build().expect("it needs no thread");
    let _entered = runtime.enter();
    let settings = Settings::from_url("etcd://127.0.0.1", CLUSTER, Duration::from_secs(15));
    let settings = Arc::new(settings.expect("it has a host"));
    let (keys, times) = (Keys::new(CLUSTER), Times::of(settings.lease_ttl));
    let connection = Connection::open(settings, &keys);
    let store = Arc::new(Store::new(connection, keys, Arc::new(instance()), times));
    Reader { store, _runtime: runtime }
});

fn instance() -> Instance {
    let host = |text| HostId::parse(text).expect("it is a host");
    let address = |text: &str| text.parse().expect("it is an address");
    Instance {
        id: InstanceId(0xab),
        name: "a \"b\"".to_owned(),
        host: host("db-1"),
        aliases: vec![host("db-1.example")],
        addresses: vec![address("10.0.0.1"), address("fe80::1")],
        port: 4369,
    }
}

/// What a daemon writes, with its keys.
fn written() -> Vec<KeyValue> {
    let (keys, instance) = (Keys::new(CLUSTER), Arc::new(instance()));
    let (host, id) = (&instance.host, instance.id);
    let name = AliveName::parse("r/\"é".as_bytes()).expect("it is a name");
    let node = Node { extra: Box::from([0, 255]), ..Node::ordinary(name.clone(), 25672) };
    let registered_at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_800_000_000_123_456_789);
    let claim = Claim { number: u64::MAX, node, advertised_port: 9100, registered_at, last: None };
    let lease = claim.granted(Arc::clone(&instance), Creation::FIRST);
    let record = |numbered| encode_lease(&lease, &instance, numbered);
    let there = |key: String, value: String| KeyValue {
        key: key.into(),
        mod_revision: 7,
        value: value.into(),
        lease: 8,
    };
    vec![
        there(keys.node(host, &name), record(Numbered::As(Creation::FIRST))),
        there(keys.node(host, &name), record(Numbered::By(Serial { base: 1 << 40, skew: 2 }))),
        there(keys.daemon(id), encode_instance(&instance)),
        there(keys.note(id), "note".to_owned()),
        there(keys.name(host, &name), String::new()),
        there(keys.alias(&instance.aliases[0], host, id), String::new()),
        there(keys.epoch(), "115200000000".to_owned()),
    ]
}

/// Whatever is answered is read or refused, and what is read is written so that it reads the same.
///
/// The first byte says what is asked. Below 128, one of the entries that daemons write is changed: the next bytes say
/// which, where, how much of it is replaced, and the rest is the replacement. From there on, the rest is the answer.
///
/// # Panics
/// Where it does not.
pub fn reply(bytes: &[u8]) {
    match bytes {
        [asked, which, at, length, part @ ..] if *asked < 128 => {
            let mut entries = written();
            let entry = usize::from(*which) % entries.len();
            let kv = &mut entries[entry];
            match asked % 4 {
                0 => replace(&mut kv.key, *at, *length, part),
                1 => replace(&mut kv.value, *at, *length, part),
                2 => kv.mod_revision = number(part),
                _ => kv.lease = number(part),
            }
            answered(8, &RangeResponse { header: None, kvs: entries, more: false }.encode_to_vec());
        }
        [asked, answer @ ..] => answered(asked % 9, answer),
        [] => {}
    }
}

fn replace(of: &mut Vec<u8>, at: u8, length: u8, part: &[u8]) {
    let start = usize::from(at) * of.len() / 256;
    let end = (start + usize::from(length) / 4).min(of.len());
    of.splice(start..end, part.iter().copied());
}

fn number(bytes: &[u8]) -> i64 {
    bytes.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

fn answered(asked: u8, answer: &[u8]) {
    match asked {
        0 => {
            let Ok(answer) = TxnResponse::decode(answer) else { return };
            note(answer.header.as_ref());
            answer.ranges().for_each(|range| ranged(&range));
        }
        1 => {
            let Ok(answer) = WatchResponse::decode(answer) else { return };
            let mut watcher = Watcher::new(Arc::clone(&READER.store), Changes::new());
            answer.events.iter().for_each(|event| watcher.hear(event));
        }
        2 => {
            let Ok(answer) = LeaseTimeToLiveResponse::decode(answer) else { return };
            assert!(left_of(&answer).as_secs() <= answer.granted_ttl.max(0).unsigned_abs());
        }
        3 => {
            let Ok(status) = StatusResponse::decode(answer) else { return };
            let member = Member { latency: Duration::ZERO, status, alarms: Vec::new() };
            let address = repmd_backend_remote::Address { host: "h".to_owned(), port: 1 };
            member.judge(&address, &mut Vec::new(), &mut Vec::new());
        }
        4 => drop(AlarmResponse::decode(answer)),
        5 => drop(AuthenticateResponse::decode(answer)),
        6 => drop(LeaseGrantResponse::decode(answer)),
        7 => drop(LeaseKeepAliveResponse::decode(answer)),
        _ => {
            let Ok(answer) = RangeResponse::decode(answer) else { return };
            note(answer.header.as_ref());
            ranged(&answer);
        }
    }
}

/// Takes note of the revision, as of a connection that has seen another one.
fn note(header: Option<&ResponseHeader>) {
    let history = History::default();
    history.after(0, Some(&ResponseHeader { cluster_id: 1, revision: 7 }));
    history.after(7, header);
    assert!(header.is_none() || history.turns() < 2);
}

fn ranged(range: &RangeResponse) {
    let (keys, host) = (Keys::new(CLUSTER), instance().host);
    let mut seen = Seen::default();
    for kv in &range.kvs {
        READER.store.add_node(&mut seen, kv);
        if let Some((name, host)) = keys.read_node(&kv.key) {
            assert_eq!(keys.node(&host, &name).as_bytes(), kv.key);
            same_again(kv, &host, &name);
        }
        if let Some(name) = keys.read_name(&host, &kv.key) {
            assert_eq!(keys.name(&host, &name).as_bytes(), kv.key);
        }
        let _ = keys.read_alias(&instance().aliases[0], &kv.key);
        if let Some(id) = read_id(&keys.daemons(), &kv.key) {
            assert_eq!(keys.daemon(id).as_bytes(), kv.key);
        }
        if let Ok(daemon) = read_daemon(&keys.daemons(), kv) {
            let written = encode_instance(&daemon);
            assert_eq!(decode_instance(daemon.id, written.as_bytes()).expect("it was read before"), *daemon);
        }
        if let Ok(note) = read_note(&keys.notes(), kv) {
            assert!(note.text.len() <= NOTE_BYTES_MAX);
        }
        let _ = read_epoch(&kv.value);
        let mut watcher = Watcher::new(Arc::clone(&READER.store), Changes::new());
        watcher.hear(&Event { kind: 0, kv: Some(kv.clone()) });
    }
    assert!(seen.items.len() <= range.kvs.len());
}

fn same_again(kv: &KeyValue, host: &HostId, name: &AliveName) {
    let Ok(lease) = decode_lease(&kv.value, kv.mod_revision, host, name) else { return };
    let instance = &lease.registration.instance;
    let written = encode_lease(&lease, instance, Numbered::As(lease.creation()));
    let again = decode_lease(written.as_bytes(), kv.mod_revision, host, name).expect("it was read before");
    assert_eq!((again.token, again.registration), (lease.token, lease.registration));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise the changes would be of something that is refused as it is.
    #[test]
    fn what_is_changed_can_be_read_before() {
        let (keys, entries) = (Keys::new(CLUSTER), written());
        let mut seen = Seen::default();
        entries[..2].iter().for_each(|kv| READER.store.add_node(&mut seen, kv));
        assert_eq!((seen.items.len(), seen.unreadable), (2, 0));
        assert!(read_daemon(&keys.daemons(), &entries[2]).is_ok());
        assert!(read_note(&keys.notes(), &entries[3]).is_ok());
        assert!(keys.read_name(&instance().host, &entries[4].key).is_some());
        assert!(keys.read_alias(&instance().aliases[0], &entries[5].key).is_some());
        assert_eq!(read_epoch(&entries[6].value), Some(115_200_000_000));
        for kind in 0..=255 {
            reply(&[kind]);
            reply(&[kind, 1, 0, 0, b'x']);
        }
    }
}
