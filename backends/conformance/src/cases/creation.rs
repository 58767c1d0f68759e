//! Which creation a life of a name gets: two lives with an equal one make old pids look alive.

use std::collections::HashSet;
use std::slice::from_ref;
use std::time::Duration;

use repmd_backend_api::{Creation, Renewal};

use crate::Fixture;
use crate::daemon::Daemon;

/// In the lower half, and far above any clock of this decade.
const HIGH: u32 = 2_100_000_000;

pub async fn no_life_of_a_name_has_the_creation_of_another(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let mut seen = HashSet::new();
    let mut note = |creation: Creation| {
        assert!(!creation.is_offline(), "{creation} is for daemons that cannot reach their store");
        assert!(seen.insert(creation), "{creation} was that of an earlier life");
    };
    for _ in 0..20 {
        let lease = first.register("rabbit").await;
        note(lease.creation());
        first.release(&lease).await;
    }
    for _ in 0..20 {
        note(first.register("rabbit").await.creation());
    }
    let next_run = first.next_run(&fixture).await;
    note(next_run.register("rabbit").await.creation());
    next_run.retire().await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    note(second.register("rabbit").await.creation());
}

pub async fn a_creation_differs_from_the_one_that_the_claimant_remembers(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let mut last = None;
    for _ in 0..5 {
        let mut claim = daemon.claim("rabbit");
        claim.last = last;
        let creation = daemon.backend.register(&claim).await.unwrap().creation();
        assert_ne!(Some(creation), last, "{creation} came again");
        last = Some(creation);
        fixture.lose_everything().await;
    }
    let mut claim = daemon.claim("rabbit");
    claim.last = Creation::new(HIGH);
    let first = daemon.backend.register(&claim).await.unwrap();
    assert!(HIGH != first.creation().get() && !first.creation().is_offline(), "{}", first.creation());
    // What the store knows is not lowered by a claimant that knows less.
    let mut claim = daemon.claim("rabbit");
    claim.last = Some(Creation::FIRST);
    let second = daemon.backend.register(&claim).await.unwrap();
    assert_ne!(first.creation(), second.creation());
}

pub async fn a_remembered_offline_creation_is_not_counted_on_from(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let first = daemon.register("rabbit").await;
    let mut claim = daemon.claim("rabbit");
    claim.last = Some(offline());
    let second = daemon.backend.register(&claim).await.unwrap();
    assert!(!second.creation().is_offline(), "{} is counted on from {}", second.creation(), offline());
    assert_ne!(first.creation(), second.creation());
}

pub async fn after_a_restored_registration_the_next_creation_differs(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    // The next creation, unless the store takes note of what it is told; it had that before it lost all.
    let restored = async || {
        let before = daemon.register("rabbit").await;
        daemon.release(&before).await;
        let restored = daemon.lease("rabbit", before.creation().next());
        assert_eq!(daemon.renew(from_ref(&restored)).await, [Renewal::Held]);
        restored
    };
    // Once over the restored registration, once after it was released.
    let held = restored().await;
    let replaced = daemon.register("rabbit").await;
    assert_ne!(held.creation(), replaced.creation());
    daemon.release(&replaced).await;
    let released = restored().await;
    daemon.release(&released).await;
    let next = daemon.register("rabbit").await;
    assert_ne!(released.creation(), next.creation());
}

pub async fn an_offline_creation_is_kept_and_not_counted_on_from(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let before = daemon.register("rabbit").await;
    daemon.release(&before).await;
    let unpublished = daemon.lease("rabbit", offline());
    assert_eq!(daemon.renew(from_ref(&unpublished)).await, [Renewal::Held]);
    let kept = daemon.found("rabbit").await.map(|found| found.creation);
    assert_eq!(kept, Some(offline()));
    let after = daemon.register("rabbit").await;
    assert!(!after.creation().is_offline(), "{} is counted on from {}", after.creation(), offline());
    assert_ne!(before.creation(), after.creation());
}

pub async fn a_late_renewal_of_an_earlier_life_brings_no_creation_back(fixture: impl Fixture) {
    let first = Daemon::start(&fixture, "first", "db-1").await;
    let second = Daemon::start(&fixture, "second", "db-1").await;
    let earlier = first.register("rabbit").await;
    first.retire().await;
    let later = second.register("rabbit").await;
    second.release(&later).await;
    // The first daemon was only cut off. It may write what is absent, with its low creation.
    assert_eq!(first.renew(from_ref(&earlier)).await, [Renewal::Held]);
    first.release(&earlier).await;
    let next = second.register("rabbit").await;
    assert!(
        ![earlier.creation(), later.creation()].contains(&next.creation()),
        "{} came again",
        next.creation()
    );
}

fn offline() -> Creation {
    Creation::offline(Duration::from_secs(1_800_000_000), 7)
}
