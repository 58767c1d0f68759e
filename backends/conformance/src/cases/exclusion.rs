//! One holder of a name on a host: who is refused, and whose renewal is a conflict.

use std::collections::HashSet;
use std::slice::from_ref;
use std::sync::Arc;

use repmd_backend_api::{BackendError, Renewal};

use crate::Fixture;
use crate::daemon::{Daemon, at_once, conflict_with};

pub async fn a_name_of_a_live_daemon_is_refused_and_nothing_changes(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let lease = first.register("rabbit").await;
    assert_eq!(second.refused("rabbit").await, "first");
    assert_eq!(second.found("rabbit").await.as_ref(), Some(&lease.registration));
    assert_eq!(first.renew(&[lease]).await, [Renewal::Held]);
}

pub async fn the_names_of_a_retired_daemon_are_free_at_once(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    first.register("rabbit").await;
    first.retire().await;
    let claim = second.claim("rabbit");
    let lease = second.backend.register(&claim).await.expect("a retired daemon refuses nobody");
    assert_eq!(second.found("rabbit").await.as_ref(), Some(&lease.registration));
}

pub async fn of_many_daemons_that_claim_one_name_at_once_one_gets_it(fixture: impl Fixture) {
    let mut daemons = Vec::new();
    for number in 0..8 {
        daemons.push(Daemon::start(&fixture, &format!("daemon{number}"), "db-1").await);
    }
    for round in 0..10 {
        let name = format!("rabbit{round}");
        let claims: Vec<_> = daemons.iter().map(|daemon| daemon.claim(&name)).collect();
        let granted = at_once(daemons.iter().zip(claims)).await;
        let winners: Vec<_> = (0..granted.len()).filter(|&at| granted[at].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{name} is granted to {winners:?}");
        let winner = &daemons[winners[0]].instance;
        let holders: HashSet<_> = granted.into_iter().filter_map(Result::err).collect();
        assert_eq!(holders, HashSet::from([winner.name.clone()]), "refusals name the winner");
        let found = daemons[0].found(&name).await.expect("it is granted");
        assert_eq!(found.instance, *winner);
    }
}

pub async fn a_claim_that_arrives_late_leaves_a_newer_one_alone(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let late = daemon.claim("rabbit");
    let newer = daemon.register("rabbit").await;
    let refused = daemon.backend.register(&late).await;
    assert!(matches!(refused, Err(BackendError::NameTaken { .. })), "{refused:?}");
    assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&newer.registration));
}

pub async fn a_daemon_that_is_refused_is_listed(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    first.register("rabbit").await;
    second.refused("rabbit").await;
    assert_eq!(first.daemons(&first.scope()).await, [Arc::clone(&first.instance), second.instance]);
}

pub async fn a_renewal_never_overwrites_another_owner(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let old = first.register("rabbit").await;
    first.retire().await;
    let new = second.register("rabbit").await;
    // A node that was accepted without the store clashes as well.
    for lease in [&old, &first.unpublished("rabbit")].map(from_ref) {
        assert_eq!(first.renew(lease).await, [conflict_with(&second)]);
        assert_eq!(first.publish(lease).await, [conflict_with(&second)]);
    }
    assert_eq!(first.found("rabbit").await.as_ref(), Some(&new.registration));
    assert_eq!(second.renew(from_ref(&new)).await, [Renewal::Held]);
    // An older lease of a daemon takes nothing back from its newer one.
    let newer = second.register("rabbit").await;
    assert_eq!(second.publish(&[new]).await, [conflict_with(&second)]);
    assert_eq!(second.found("rabbit").await.as_ref(), Some(&newer.registration));
}

pub async fn a_renewal_replaces_what_an_earlier_run_that_is_over_left_behind(fixture: impl Fixture) {
    let last_run = Daemon::of(&fixture, "db-1").await;
    let old = last_run.register("rabbit").await;
    let daemon = last_run.next_run(&fixture).await;
    let lease = daemon.unpublished("rabbit");
    // While both runs live, they are two daemons with one name: neither takes from the other.
    assert_eq!(daemon.renew(from_ref(&lease)).await, [conflict_with(&daemon)]);
    last_run.retire().await;
    assert_eq!(daemon.renew(from_ref(&lease)).await, [Renewal::Held]);
    assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&lease.registration));
    // What comes late from the run that is over takes nothing back.
    assert_eq!(last_run.renew(&[old]).await, [conflict_with(&daemon)]);
    assert_eq!(daemon.found("rabbit").await.as_ref(), Some(&lease.registration));
}

pub async fn a_renewal_says_what_became_of_which_lease(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let mut leases = Vec::new();
    for number in 0..9 {
        leases.push(first.register(&format!("rabbit{number}")).await);
    }
    first.retire().await;
    for taken in [0, 1, 4, 7] {
        second.register(&format!("rabbit{taken}")).await;
    }
    first.release(&leases[5]).await;
    let expected: Vec<_> = (0..9)
        .map(|number| if [0, 1, 4, 7].contains(&number) { conflict_with(&second) } else { Renewal::Held })
        .collect();
    assert_eq!(first.renew(&leases).await, expected);
    assert_eq!(first.publish(&leases).await, expected);
}
