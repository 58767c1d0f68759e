//! What others have written under our keys.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::slice::from_ref;

use repmd_backend_api::{BackendError, RegistryBackend, Renewal, Scope};
use repmd_test_stores::{Etcd as Store, EtcdKind, Release};

use crate::daemon::{Daemon, key, scope, until};

/// A lease of the store, for values of somebody else.
fn lease(store: &Store) -> String {
    let said = store.tell(&["lease", "grant", "600"]);
    said.split_whitespace().nth(1).unwrap().to_owned()
}

fn put(store: &Store, at: &str, value: &str, lease: &str) {
    store.tell(&["put", &format!("--lease={lease}"), "--", &key(at), value]);
}

#[tokio::test]
async fn what_cannot_be_read_costs_its_own_name_alone() {
    let store = Store::alone();
    let (daemon, other) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let kept = daemon.register("rabbit", 1).await.unwrap();
    let on = lease(&store);
    let record = store.tell(&["get", "--print-value-only", &key("node/rabbit/a")]);
    for (at, value) in [
        ("node/rabbit/odd", "what"),
        // Of another name, of a later format, and under no key of ours.
        ("node/hare/a", record.trim_end()),
        ("node/mole/a", "2 {}"),
        ("node/rabbit/UPPER", record.trim_end()),
        ("node/rabbit", "x"),
        ("daemon/nobody", "1 {}"),
        ("daemon/000000000000000000000000000000ab", "\u{1}"),
        ("note/nobody", "note"),
        ("alias/x/y", ""),
    ] {
        put(&store, at, value, &on);
    }
    // Nothing of ours is without an end.
    store.tell(&["put", &key("node/endless/a"), record.trim_end()]);
    for daemon in [&daemon, &other] {
        assert_eq!(daemon.ports("rabbit", &scope("a")).await, [1]);
        let everywhere = daemon.find("rabbit", &Scope::Cluster).await.unwrap();
        assert_eq!((everywhere.items.len(), everywhere.unreadable), (1, 2), "{everywhere:?}");
        let listed = daemon.backend.list(&Scope::Cluster).await.unwrap();
        assert_eq!((listed.items.len(), listed.unreadable), (1, 6), "{listed:?}");
        let daemons = daemon.backend.daemons(&Scope::Cluster).await.unwrap();
        assert_eq!((daemons.items.len(), daemons.unreadable), (1, 2), "{daemons:?}");
        assert_eq!(daemon.backend.notes().await.unwrap().unreadable, 1);
        assert!(daemon.find("rabbit", &scope("x")).await.unwrap().items.is_empty());
    }
    // A name that is not ours to overwrite.
    for name in ["hare", "mole", "endless"] {
        let error = daemon.register(name, 1).await.unwrap_err();
        let BackendError::Corrupt { key: at, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*at, key(&format!("node/{name}/a")));
        let unpublished = daemon.unpublished(name, 1);
        let renewed = daemon.renew(&[kept.clone(), unpublished]).await.unwrap();
        assert!(matches!(&renewed[..], [Renewal::Held, Renewal::Failed { .. }]), "{renewed:?}");
    }
    // It is taken when it is gone.
    store.tell(&["del", &key("node/mole/a")]);
    daemon.register("mole", 1).await.unwrap();
}

#[tokio::test]
async fn what_is_written_over_a_registration_is_noticed_and_never_overwritten() {
    let store = Store::alone();
    let (daemon, other) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let leases = [daemon.register("rabbit", 1).await.unwrap(), daemon.register("hare", 2).await.unwrap()];
    let on = lease(&store);
    put(&store, "node/rabbit/a", "x", &on);
    until("it is noticed", async || {
        let renewed = daemon.renew(&leases).await.unwrap();
        assert_eq!(renewed[1], Renewal::Held);
        matches!(&renewed[0], Renewal::Failed { .. })
    })
    .await;
    store.tell(&["del", &key("node/rabbit/a")]);
    assert_eq!(daemon.renew(&leases).await.unwrap(), [Renewal::Held, Renewal::Held]);
    assert_eq!(other.ports("rabbit", &scope("a")).await, [1]);
}

#[tokio::test]
async fn values_that_are_longer_than_an_answer_cost_their_own_names_alone() {
    let options = ["--max-request-bytes", "10000000"];
    let store = Store::start(EtcdKind::Alone, Release::InstalledEtcd, &options);
    let (daemon, other) = (Daemon::on(&store, "a"), Daemon::on(&store, "b"));
    let mut leases = Vec::new();
    for number in 0..40 {
        leases.push(daemon.register(&format!("rabbit{number:02}"), number).await.unwrap());
    }
    let own = daemon.register("rabbit", 99).await.unwrap();
    let on = lease(&store);
    // A hundred KB each, which no argument of a program may be longer than; then one that no answer has room for.
    let long = "x".repeat(100_000);
    for number in 0..60 {
        put(&store, &format!("node/rabbit/long{number}"), &long, &on);
    }
    put_zeros(&store, &key("node/rabbit/longest"), 6_000_000, &on);
    let listed = other.backend.list(&Scope::Cluster).await.unwrap();
    assert_eq!((listed.items.len(), listed.unreadable), (41, 61));
    let found = daemon.find("rabbit", &Scope::Cluster).await.unwrap();
    assert_eq!(found.items.len(), 1, "{found:?}");
    assert_eq!(other.ports("rabbit07", &Scope::Cluster).await, [7]);
    assert_eq!(daemon.renew(from_ref(&own)).await.unwrap(), [Renewal::Held]);
}

/// Writes more than etcdctl sends at once.
fn put_zeros(store: &Store, key: &str, bytes: usize, lease: &str) {
    let lease = u64::from_str_radix(lease, 16).unwrap();
    let body = format!(
        "{{\"key\":\"{}\",\"value\":\"{}\",\"lease\":\"{lease}\"}}",
        base64(key.as_bytes()),
        base64(&vec![0; bytes])
    );
    let mut http = TcpStream::connect(store.address(0)).unwrap();
    let head = format!(
        "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    http.write_all(head.as_bytes()).unwrap();
    http.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let of_three = |three: &[u8]| {
        let number =
            (0..3).fold(0, |number, at| number << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        let digit = |at: usize| char::from(DIGITS[(number >> (18 - 6 * at)) as usize & 63]);
        (0..4).map(move |at| if at <= three.len() { digit(at) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(of_three).collect()
}

#[tokio::test]
async fn an_epoch_that_is_none_is_as_good_as_lost() {
    let store = Store::alone();
    let mut creations = std::collections::HashSet::new();
    for epoch in ["x", "", "-1", "18446744073709551615", "0"] {
        // The clock stands in, which gives 64 numbers a second.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        store.tell(&["put", "--", &key("epoch"), epoch]);
        for run in 0..2 {
            let daemon = Daemon::on(&store, "a");
            let lease = daemon.register("rabbit", run).await.unwrap();
            assert!(!lease.creation().is_offline() && creations.insert(lease.creation()), "{epoch}");
            daemon.backend.retire().await.unwrap();
        }
    }
}
