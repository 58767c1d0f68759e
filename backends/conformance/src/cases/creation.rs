//! Which creation a life of a name gets: two lives with an equal one make old pids look alive.

use std::collections::HashSet;
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
    next_run.backend.retire(&next_run.instance).await.unwrap();
    let second = Daemon::start(&fixture, "second", "db-1").await;
    note(second.register("rabbit").await.creation());
}

pub async fn a_creation_is_above_the_one_that_the_claimant_remembers(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let mut claim = daemon.claim("rabbit");
    claim.last = Creation::new(HIGH);
    let first = daemon.backend.register(&claim).await.unwrap();
    assert!(HIGH < first.creation().get() && !first.creation().is_offline(), "{}", first.creation());
    // What the store knows is not lowered by a claimant that knows less.
    let mut claim = daemon.claim("rabbit");
    claim.last = Some(Creation::FIRST);
    let second = daemon.backend.register(&claim).await.unwrap();
    assert!(first.creation() < second.creation(), "{} after {}", second.creation(), first.creation());
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

pub async fn after_a_restored_registration_the_next_creation_is_above_it(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let mut claim = daemon.claim("rabbit");
    claim.last = Creation::new(HIGH);
    let restored = daemon.backend.register(&claim).await.unwrap();
    fixture.lose_everything().await;
    assert_eq!(daemon.renew(std::slice::from_ref(&restored)).await, [Renewal::Held]);
    // Once over the restored registration, once after it was released.
    let replaced = daemon.register("rabbit").await;
    assert!(restored.creation() < replaced.creation(), "{} came again", replaced.creation());
    fixture.lose_everything().await;
    daemon.renew(std::slice::from_ref(&replaced)).await;
    daemon.release(&replaced).await;
    let next = daemon.register("rabbit").await;
    assert!(replaced.creation() < next.creation(), "{} came again", next.creation());
}

pub async fn an_offline_creation_is_kept_and_not_counted_on_from(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let before = daemon.register("rabbit").await;
    daemon.release(&before).await;
    let unpublished = daemon.claim("rabbit").granted(offline());
    assert_eq!(daemon.renew(std::slice::from_ref(&unpublished)).await, [Renewal::Held]);
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
    first.backend.retire(&first.instance).await.unwrap();
    let later = second.register("rabbit").await;
    second.release(&later).await;
    // The first daemon was only cut off. It may write what is absent, with its low creation.
    assert_eq!(first.renew(std::slice::from_ref(&earlier)).await, [Renewal::Held]);
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
