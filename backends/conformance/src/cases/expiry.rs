//! What time does to registrations and daemons. Only here and in `silence` does a case let time pass.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use repmd_backend_api::{Renewal, Scope, Search, liveness};

use crate::Fixture;
use crate::daemon::{Daemon, alive};
use crate::in_time::{dead_after, in_time, over_after, pass_until, ttl};

pub async fn a_registration_runs_out_with_its_ttl(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    daemon.register("rabbit").await;
    let scopes = [Scope::Cluster, daemon.scope()];
    let seen = async || {
        let mut seen = Vec::new();
        for scope in &scopes {
            seen.push((daemon.find("rabbit", scope).await, daemon.listed(scope).await));
        }
        seen
    };
    let nothing = vec![(Vec::new(), Vec::new()); 2];
    pass_until(&fixture, over_after(&daemon), async || seen().await == nothing).await;
    assert_eq!(seen().await, nothing);
}

pub async fn a_registration_lasts_for_its_ttl(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let ttl = ttl(&daemon);
    let (found, listed) = in_time(ttl, async || {
        daemon.register("rabbit").await;
        fixture.pass(ttl * 3 / 4).await;
        (daemon.found("rabbit").await, daemon.listed(&Scope::Cluster).await)
    })
    .await;
    assert!(found.is_some() && listed == ["rabbit"], "gone before its TTL");
}

pub async fn a_renewal_extends_the_lease(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let ttl = ttl(&daemon);
    let step = ttl * 2 / 3;
    // Two steps are longer than a TTL; when they take less than a TTL more than one of them, both have
    // taken less than a TTL.
    let (renewals, found, listed) = in_time(step + ttl, async || {
        let lease = daemon.register("rabbit").await;
        fixture.pass(step).await;
        let renewals = daemon.renew(&[lease]).await;
        fixture.pass(step).await;
        (renewals, daemon.found("rabbit").await, daemon.listed(&Scope::Cluster).await)
    })
    .await;
    assert_eq!(renewals, [Renewal::Held]);
    assert!(found.is_some() && listed == ["rabbit"], "gone though it was renewed");
    pass_until(&fixture, over_after(&daemon), async || daemon.found("rabbit").await.is_none()).await;
    assert_eq!(daemon.found("rabbit").await, None, "a renewed lease runs out too");
}

pub async fn what_is_found_says_how_long_it_lives_on(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let (ttl, ends_within) = (ttl(&daemon), daemon.promises().ends_within);
    let left = async || {
        let (name, near) = (alive("rabbit"), &daemon.instance.host);
        let search = Search { name: &name, scope: &Scope::Cluster, near, most: 2 };
        let found = daemon.backend.find(&search).await.unwrap().items;
        let listed = daemon.backend.list(&Scope::Cluster).await.unwrap().items;
        [found, listed].map(|found| found.first().and_then(|found| found.left).unwrap_or_default())
    };
    let (before, after, renewed) = in_time(ttl, async || {
        let started = Instant::now();
        let lease = daemon.register("rabbit").await;
        let before = left().await.map(|left| left + started.elapsed());
        fixture.pass(ttl / 2).await;
        let after = left().await;
        let started = Instant::now();
        daemon.renew(&[lease]).await;
        (before, after, left().await.map(|left| left + started.elapsed()))
    })
    .await;
    // Stores round.
    let whole = ttl * 99 / 100;
    assert!(before.iter().all(|left| whole <= *left), "{before:?} of {ttl:?} left at first");
    assert!(
        after.iter().all(|left| *left <= ttl / 2 + ends_within),
        "{after:?} of {ttl:?} left after half of it"
    );
    assert!(renewed.iter().all(|left| whole <= *left), "{renewed:?} of {ttl:?} left by a renewal");
}

pub async fn a_name_that_ran_out_gets_a_new_owner_and_a_new_creation(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let old = first.register("rabbit").await;
    pass_until(&fixture, over_after(&first), async || second.found("rabbit").await.is_none()).await;
    let new = second.register("rabbit").await;
    assert_ne!(old.creation(), new.creation());
}

pub async fn a_renewal_brings_back_what_ran_out(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let lease = daemon.register("rabbit").await;
    pass_until(&fixture, over_after(&daemon), async || daemon.found("rabbit").await.is_none()).await;
    let (renewals, found) =
        in_time(ttl(&daemon), async || (daemon.renew(from_ref(&lease)).await, daemon.found("rabbit").await))
            .await;
    assert_eq!(renewals, [Renewal::Held]);
    assert_eq!(found.as_ref(), Some(&lease.registration));
}

pub async fn a_daemon_that_fell_silent_is_not_listed(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    daemon.register("rabbit").await;
    other.renew(&[]).await;
    let alive = async || [other.daemons(&Scope::Cluster).await, other.daemons(&daemon.scope()).await];
    pass_until(&fixture, dead_after(&daemon), async || alive().await.concat().is_empty()).await;
    assert_eq!(alive().await, [[], []]);
}

pub async fn a_daemon_that_renews_nothing_stays_alive_by_renewing(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    let step = liveness(ttl(&daemon)) * 3 / 5;
    let daemons = in_time(step + liveness(ttl(&daemon)), async || {
        daemon.renew(&[]).await;
        fixture.pass(step).await;
        daemon.renew(&[]).await;
        fixture.pass(step).await;
        other.daemons(&Scope::Cluster).await
    })
    .await;
    assert_eq!(daemons, [daemon.instance]);
}

pub async fn what_is_published_is_extended_and_its_daemon_alive(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    // Two steps are longer than a TTL.
    let step = ttl(&daemon) * 3 / 5;
    let (renewals, found, daemons) = in_time(step + liveness(ttl(&daemon)), async || {
        let lease = daemon.register("rabbit").await;
        fixture.pass(step).await;
        let renewals = daemon.publish(&[lease]).await;
        fixture.pass(step).await;
        (renewals, other.find("rabbit", &daemon.scope()).await, other.daemons(&Scope::Cluster).await)
    })
    .await;
    assert_eq!((renewals, found.len()), (vec![Renewal::Held], 1));
    assert_eq!(daemons, [daemon.instance]);
}

pub async fn what_a_round_of_renewals_leaves_out_runs_out(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let held = daemon.register("rabbit").await;
    daemon.register("hare").await;
    daemon.renew(from_ref(&held)).await;
    let has_hare = async || {
        let listed = daemon.listed(&Scope::Cluster).await;
        daemon.found("hare").await.is_some() || listed.contains(&"hare".to_owned())
    };
    let (step, mut passed) = (ttl(&daemon) / 2, Duration::ZERO);
    // Past the TTL of what is held in any case.
    while passed <= ttl(&daemon) || (passed < over_after(&daemon) && has_hare().await) {
        fixture.pass(step).await;
        passed += step;
        assert_eq!(daemon.renew(from_ref(&held)).await, [Renewal::Held]);
    }
    assert!(!has_hare().await);
}

pub async fn a_note_that_is_not_left_again_runs_out(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    let step = liveness(ttl(&daemon)) * 3 / 5;
    let kept = in_time(liveness(ttl(&daemon)), async || {
        daemon.renew(&[]).await;
        daemon.leave_note(b"one").await;
        fixture.pass(step).await;
        daemon.renew(&[]).await;
        other.notes().await
    })
    .await;
    assert_eq!(kept, [(daemon.instance.id, b"one".to_vec())]);
    let mut passed = step;
    while passed < dead_after(&daemon) && !other.notes().await.is_empty() {
        fixture.pass(step).await;
        passed += step;
        daemon.renew(&[]).await;
    }
    assert_eq!(other.notes().await, []);
}
