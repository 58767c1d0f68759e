//! Registries in other stores than Redis, as the doctor sees them from a host of a cluster.

use repmd_test_stores::{Etcd, Postgres};
use repmd_test_support::{Daemon, wait_until};

use crate::SOON;
use crate::host::{Found, Host, hosts};

/// Two hosts whose daemons share the store at `url`, which is on the first.
struct Two {
    a: Host,
    b: Host,
    url: &'static str,
    _daemons: [Daemon; 2],
}

impl Two {
    fn share(a: Host, b: Host, url: &'static str) -> Self {
        let daemons = [(&a, "10.99.0.1"), (&b, "10.99.0.2")]
            .map(|(host, address)| host.serve(&["--advertise", address, "--backend", url]));
        Self { a, b, url, _daemons: daemons }
    }

    fn examine(&self, node: &str) -> Found {
        self.a.doctor(&["--backend", self.url, node])
    }

    /// What is found of the store alone.
    fn doctor(&self) -> Found {
        self.a.doctor(&["--backend", self.url])
    }
}

#[test]
fn nodes_of_two_hosts_that_share_an_etcd_are_healthy_until_it_is_full_or_gone() {
    let (a, b) = hosts();
    let mut etcd = a.inside(|| Etcd::start_for_all(2379, &["--quota-backend-bytes", "600000"]));
    let two = Two::share(a, b, "etcd://10.99.0.1");
    let _node = two.b.erlang(&["-sname", "foo@hostb"]);
    wait_until("it is known", SOON, || !two.examine("foo@hostb").has("name-unknown"));
    two.examine("foo@hostb").are(&[]);

    two.a.inside(|| etcd.fill());
    let _late = two.a.register("late", 7000);
    wait_until("the daemon has met it", SOON, || two.doctor().has("daemon-degraded"));
    let found = two.doctor();
    assert!(found.saw("store-full").contains("NOSPACE"), "{found:?}");
    assert!(found.saw("node-unpublished").contains("late@hosta"), "{found:?}");

    two.a.inside(|| etcd.kill());
    wait_until("the daemon has met it", SOON, || two.doctor().has("store-away"));
    assert!(two.doctor().saw("store-away").contains("etcd://10.99.0.1"));
}

#[test]
fn nodes_of_two_hosts_that_share_a_postgres_are_healthy_until_a_right_is_taken_away_or_it_is_gone() {
    let (a, b) = hosts();
    let mut server = a.inside(|| Postgres::start_for_all(5432));
    let two = Two::share(a, b, "postgres://repmd@10.99.0.1/repmd");
    let _node = two.b.erlang(&["-sname", "foo@hostb"]);
    wait_until("it is known", SOON, || !two.examine("foo@hostb").has("name-unknown"));
    // The server is one for tests, as is told.
    two.examine("foo@hostb").is_only("store-without-fsync", "warning", &[]);

    two.a
        .inside(|| server.run("alter schema repmd owner to postgres; revoke all on schema repmd from repmd"));
    let found = two.doctor();
    assert!(found.saw("store-denied").contains("permission denied"), "{found:?}");

    two.a.inside(|| server.kill());
    wait_until("it is gone", SOON, || two.doctor().has("store-away"));
    let found = two.doctor();
    assert!(found.saw("store-away").contains("postgres://repmd@10.99.0.1/repmd"), "{found:?}");
}
