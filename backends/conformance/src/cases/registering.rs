//! [`RegistryBackend::register`](repmd_backend_api::RegistryBackend::register): who gets a name.

use std::sync::Arc;

use repmd_backend_api::{NodeType, Scope};

use crate::Fixture;
use crate::daemon::{Daemon, at_once};

pub async fn a_fresh_name_is_granted_and_kept_as_it_was_claimed(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    let mut claims = [daemon.claim("rabbit"), daemon.claim("full"), daemon.claim("sparse")];
    claims[1].node.extra = (0..=255).cycle().take(1020).collect();
    let sparse = &mut claims[2].node;
    (sparse.port, sparse.node_type, sparse.protocol) = (0, NodeType(255), 255);
    // The lowest version may be above the highest.
    (sparse.highest_version, sparse.lowest_version, sparse.extra) = (0, u16::MAX, Box::default());
    for claim in &claims {
        let lease = daemon.backend.register(claim).await.unwrap();
        assert_eq!(lease.token, claim.token(daemon.instance.id));
        let expected = claim.granted(Arc::clone(&daemon.instance), lease.creation());
        assert_eq!(lease.registration, expected.registration);
        let found = other.find(claim.node.name.as_str(), &Scope::Cluster).await;
        assert_eq!(found, [Arc::clone(&lease.registration)], "another daemon finds what was registered");
    }
}

pub async fn a_daemon_replaces_its_own_registration(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let old = daemon.register("rabbit").await;
    let mut claim = daemon.claim("rabbit");
    claim.node.port = 25673;
    let new = daemon.backend.register(&claim).await.expect("the daemon knows its own sockets");
    assert_ne!(new.token, old.token);
    assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&new.registration));
}

pub async fn the_next_run_of_a_daemon_replaces_what_the_last_one_left(fixture: impl Fixture) {
    let last_run = Daemon::of(&fixture, "db-1").await;
    last_run.register("rabbit").await;
    // It was killed: nothing says that it is gone, and it counts as alive for a while.
    let next_run = last_run.next_run(&fixture).await;
    let claim = next_run.claim("rabbit");
    let lease = next_run.backend.register(&claim).await.expect("an earlier run's entry refuses nobody");
    assert_eq!(next_run.found("rabbit").await.as_ref(), Some(&lease.registration));
}

pub async fn a_claim_that_is_repeated_gets_the_lease_that_it_has(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let claim = daemon.claim("rabbit");
    let first = daemon.backend.register(&claim).await.unwrap();
    // The answer was lost, and the daemon has connected anew.
    let anew = fixture.open(Arc::clone(&daemon.instance)).await;
    let again = anew.register(&claim).await.expect("its own claim refuses nobody");
    assert_eq!((again.token, again.registration), (first.token, first.registration));
    assert_eq!(daemon.listed(&Scope::Cluster).await, ["rabbit"]);
}

pub async fn a_claim_that_is_sent_twice_at_once_is_granted_once(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    for round in 0..10 {
        let claim = daemon.claim(&format!("rabbit{round}"));
        let granted = at_once([(&daemon, claim.clone()), (&daemon, claim)]).await;
        let creations: Vec<_> = granted.into_iter().map(|granted| granted.unwrap()).collect();
        assert_eq!(creations[0], creations[1]);
    }
}

pub async fn one_name_on_two_hosts_is_two_registrations(fixture: impl Fixture) {
    let daemons = [Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await];
    let leases = [daemons[0].register("rabbit").await, daemons[1].register("rabbit").await];
    for (daemon, lease) in daemons.iter().zip(&leases) {
        assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&lease.registration));
    }
    assert_eq!(daemons[0].find("rabbit", &Scope::Cluster).await.len(), 2);
    daemons[0].release(&leases[0]).await;
    assert_eq!(daemons[1].find("rabbit", &Scope::Cluster).await, [Arc::clone(&leases[1].registration)]);
}
