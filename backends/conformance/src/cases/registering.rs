//! [`RegistryBackend::register`](repmd_backend_api::RegistryBackend::register): who gets a name.

use std::collections::HashSet;
use std::sync::Arc;

use repmd_backend_api::{BackendError, Claim, NodeType, Renewal, Scope};

use crate::Fixture;
use crate::daemon::Daemon;

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
        assert_eq!(lease.token, claim.token());
        assert_eq!(lease.registration, claim.granted(lease.creation()).registration);
        let found = other.find(claim.node.name.as_str(), &Scope::Cluster).await;
        assert_eq!(found, [Arc::clone(&lease.registration)], "another daemon finds what was registered");
    }
}

pub async fn a_name_of_a_live_daemon_is_refused_and_nothing_changes(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let lease = first.register("rabbit").await;
    assert_eq!(second.refused("rabbit").await, "first");
    assert_eq!(second.found("rabbit").await.as_ref(), Some(&lease.registration));
    assert_eq!(first.renew(&[lease]).await, [Renewal::Held]);
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

pub async fn the_names_of_a_retired_daemon_are_free_at_once(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    first.register("rabbit").await;
    first.backend.retire(&first.instance).await.unwrap();
    let claim = second.claim("rabbit");
    let lease = second.backend.register(&claim).await.expect("a retired daemon refuses nobody");
    assert_eq!(second.found("rabbit").await.as_ref(), Some(&lease.registration));
}

pub async fn a_claim_that_is_repeated_gets_the_lease_that_it_has(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let claim = daemon.claim("rabbit");
    let first = daemon.backend.register(&claim).await.unwrap();
    // The answer was lost, and the daemon has connected anew.
    let again = fixture.open().await.register(&claim).await.expect("its own claim refuses nobody");
    assert_eq!((again.token, again.registration), (first.token, first.registration));
    assert_eq!(daemon.listed(&Scope::Cluster).await, ["rabbit"]);
}

pub async fn a_claim_that_is_sent_twice_at_once_is_granted_once(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    for round in 0..10 {
        let claim = daemon.claim(&format!("rabbit{round}"));
        let granted = at_once(&fixture, &[claim.clone(), claim]).await;
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

pub async fn of_many_daemons_that_claim_one_name_at_once_one_gets_it(fixture: impl Fixture) {
    let mut daemons = Vec::new();
    for number in 0..8 {
        daemons.push(Daemon::start(&fixture, &format!("daemon{number}"), "db-1").await);
    }
    for round in 0..10 {
        let name = format!("rabbit{round}");
        let claims: Vec<_> = daemons.iter().map(|daemon| daemon.claim(&name)).collect();
        let granted = at_once(&fixture, &claims).await;
        let winners: Vec<_> = (0..claims.len()).filter(|&at| granted[at].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{name} is granted to {winners:?}");
        let winner = &daemons[winners[0]].instance;
        let holders: HashSet<_> = granted.into_iter().filter_map(Result::err).collect();
        assert_eq!(holders, HashSet::from([winner.name.clone()]), "refusals name the winner");
        let found = daemons[0].found(&name).await.expect("it is granted");
        assert_eq!(found.instance, *winner);
    }
}

/// Sends all claims at once, each by a handle of its own: the creations granted, or the holders named.
async fn at_once(fixture: &impl Fixture, claims: &[Claim]) -> Vec<Result<u32, String>> {
    let mut sent = Vec::new();
    for claim in claims {
        let (backend, claim) = (fixture.open().await, claim.clone());
        sent.push(tokio::spawn(async move {
            match backend.register(&claim).await {
                Ok(lease) => Ok(lease.creation().get()),
                Err(BackendError::NameTaken { holder, .. }) => Err(holder),
                Err(error) => panic!("neither granted nor refused: {error:?}"),
            }
        }));
    }
    let mut answers = Vec::new();
    for answer in sent {
        answers.push(answer.await.unwrap());
    }
    answers
}

pub async fn a_claim_that_arrives_late_leaves_a_newer_one_alone(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let late = daemon.claim("rabbit");
    let newer = daemon.register("rabbit").await;
    let refused = daemon.backend.register(&late).await;
    assert!(matches!(refused, Err(BackendError::NameTaken { .. })), "{refused:?}");
    assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&newer.registration));
}
