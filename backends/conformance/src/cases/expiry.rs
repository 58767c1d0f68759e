//! What time does to registrations and daemons. Only here does a case let time pass.

use std::time::{Duration, Instant};

use repmd_backend_api::{Renewal, Scope, Search, liveness};

use crate::Fixture;
use crate::daemon::{Daemon, alive, conflict_with};

/// How often a case that must be fast is tried.
const TRIES: usize = 20;

pub async fn a_registration_runs_out_with_its_ttl(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    daemon.register("rabbit").await;
    fixture.pass(ttl(&daemon)).await;
    assert_eq!(daemon.find("rabbit", &Scope::Cluster).await, []);
    assert_eq!(daemon.found("rabbit").await, None);
    assert_eq!(daemon.listed(&Scope::Cluster).await, [""; 0]);
    assert_eq!(daemon.listed(&daemon.scope()).await, [""; 0]);
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
    fixture.pass(ttl).await;
    assert_eq!(daemon.found("rabbit").await, None, "a renewed lease runs out too");
}

pub async fn what_is_found_says_how_long_it_lives_on(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let ttl = ttl(&daemon);
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
    assert!(after.iter().all(|left| *left <= ttl / 2), "{after:?} of {ttl:?} left after half of it");
    assert!(renewed.iter().all(|left| whole <= *left), "{renewed:?} of {ttl:?} left by a renewal");
}

pub async fn a_name_that_ran_out_gets_a_new_owner_and_a_new_creation(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let old = first.register("rabbit").await;
    fixture.pass(ttl(&first)).await;
    let new = second.register("rabbit").await;
    assert_ne!(old.creation(), new.creation());
}

pub async fn an_old_owner_that_renews_or_releases_late_leaves_the_new_one_alone(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let ttl = ttl(&first);
    let old = first.register("rabbit").await;
    fixture.pass(ttl).await;
    let (renewals, found, new) = in_time(ttl, async || {
        let new = second.register("rabbit").await;
        let renewals = first.renew(std::slice::from_ref(&old)).await;
        first.release(&old).await;
        (renewals, second.found("rabbit").await, new)
    })
    .await;
    assert_eq!(renewals, [conflict_with(&second)]);
    assert_eq!(found.as_ref(), Some(&new.registration));
}

pub async fn a_renewal_brings_back_what_ran_out(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let ttl = ttl(&daemon);
    let lease = daemon.register("rabbit").await;
    fixture.pass(ttl).await;
    let (renewals, found) = in_time(ttl, async || {
        (daemon.renew(std::slice::from_ref(&lease)).await, daemon.found("rabbit").await)
    })
    .await;
    assert_eq!(renewals, [Renewal::Held]);
    assert_eq!(found.as_ref(), Some(&lease.registration));
}

pub async fn a_holder_that_fell_silent_loses_its_name_before_its_lease_is_over(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let ttl = ttl(&first);
    let (still_there, claimed, found) = in_time(ttl, async || {
        // In a second try the name is the second daemon's.
        second.backend.retire(&second.instance).await.unwrap();
        first.register("rabbit").await;
        fixture.pass(liveness(ttl)).await;
        let still_there = first.found("rabbit").await;
        let claimed = second.backend.register(&second.claim("rabbit")).await;
        (still_there, claimed, second.found("rabbit").await)
    })
    .await;
    assert!(still_there.is_some(), "gone before its TTL");
    let lease = claimed.expect("a holder that no longer counts as alive refuses nobody");
    assert_eq!(found.as_ref(), Some(&lease.registration));
}

pub async fn a_daemon_that_renews_nothing_stays_alive_by_renewing(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let ttl = ttl(&first);
    let step = liveness(ttl) * 3 / 5;
    let (daemons, claimed) = in_time(ttl, async || {
        second.backend.retire(&second.instance).await.unwrap();
        first.register("rabbit").await;
        fixture.pass(step).await;
        first.renew(&[]).await;
        fixture.pass(step).await;
        (first.daemons(&Scope::Cluster).await, second.backend.register(&second.claim("rabbit")).await)
    })
    .await;
    assert_eq!(daemons, [first.instance]);
    assert!(claimed.is_err(), "a live daemon's name was taken");
}

pub async fn a_daemon_that_fell_silent_is_not_listed(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    daemon.register("rabbit").await;
    other.renew(&[]).await;
    fixture.pass(liveness(ttl(&daemon))).await;
    assert_eq!(other.daemons(&Scope::Cluster).await, []);
    assert_eq!(other.daemons(&daemon.scope()).await, []);
}

pub async fn a_note_that_is_not_left_again_runs_out(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    let step = liveness(ttl(&daemon)) * 3 / 5;
    let (kept, left) = in_time(ttl(&daemon), async || {
        daemon.renew(&[]).await;
        daemon.leave_note(b"one").await;
        fixture.pass(step).await;
        daemon.renew(&[]).await;
        let kept = other.notes().await;
        fixture.pass(step).await;
        (kept, other.notes().await)
    })
    .await;
    assert_eq!(kept, [(daemon.instance.id, b"one".to_vec())]);
    assert_eq!(left, []);
}

fn ttl(daemon: &Daemon) -> Duration {
    daemon.backend.lease_ttl().expect("a registry with leases has a TTL")
}

/// What `attempt` gives once it took less than `limit`: when the machine stalls, leases run out under a
/// case, which proves nothing about the registry.
async fn in_time<T>(limit: Duration, attempt: impl AsyncFn() -> T) -> T {
    for _ in 0..TRIES {
        let started = Instant::now();
        let outcome = attempt().await;
        if started.elapsed() < limit {
            return outcome;
        }
    }
    panic!("this machine is too slow to do in {limit:?} what takes no time");
}
