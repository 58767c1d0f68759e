//! What time does to the one holder of a name.

use std::slice::from_ref;
use std::time::Duration;

use repmd_backend_api::liveness;

use crate::Fixture;
use crate::daemon::{Daemon, conflict_with};
use crate::in_time::{dead_after, in_time, over_after, pass_until, ttl};

pub async fn a_holder_that_fell_silent_loses_its_name_before_its_lease_is_over(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let (ttl, dead_after) = (ttl(&first), dead_after(&first));
    // A store whose times are so rough cannot promise which of the two is over first.
    let outlives = dead_after < ttl;
    let limit = if outlives { ttl } else { Duration::MAX };
    let (still_there, claimed, found) = in_time(limit, async || {
        // In a second try the name is the second daemon's.
        second.retire().await;
        first.register("rabbit").await;
        if outlives {
            fixture.pass(dead_after).await;
        } else {
            pass_until(&fixture, dead_after, async || first.found("rabbit").await.is_none()).await;
        }
        let still_there = first.found("rabbit").await;
        let claimed = second.backend.register(&second.claim("rabbit")).await;
        (still_there, claimed, second.found("rabbit").await)
    })
    .await;
    assert!(still_there.is_some() || !outlives, "gone before its TTL");
    let lease = claimed.expect("a holder that no longer counts as alive refuses nobody");
    assert_eq!(found.as_ref(), Some(&lease.registration));
}

pub async fn a_holder_that_renews_keeps_its_name(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let step = liveness(ttl(&first)) * 3 / 5;
    let claimed = in_time(step + liveness(ttl(&first)), async || {
        second.retire().await;
        let lease = first.register("rabbit").await;
        fixture.pass(step).await;
        first.renew(&[lease]).await;
        fixture.pass(step).await;
        second.backend.register(&second.claim("rabbit")).await
    })
    .await;
    assert!(claimed.is_err(), "a live daemon's name was taken");
}

pub async fn an_old_owner_that_renews_or_releases_late_leaves_the_new_one_alone(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let old = first.register("rabbit").await;
    pass_until(&fixture, over_after(&first), async || second.found("rabbit").await.is_none()).await;
    let (renewals, found, new) = in_time(ttl(&first), async || {
        let new = second.register("rabbit").await;
        let renewals = [first.renew(from_ref(&old)).await, first.publish(from_ref(&old)).await];
        first.release(&old).await;
        (renewals, second.found("rabbit").await, new)
    })
    .await;
    assert_eq!(renewals, [[conflict_with(&second)], [conflict_with(&second)]]);
    assert_eq!(found.as_ref(), Some(&new.registration));
}
