//! A replica takes the primary's place, and does not have the last writes.

use std::time::Instant;

use repmd_test_stores::Store;

use crate::stage::Stage;
use crate::{INTERVAL, SLACK};

/// All daemons of these tests are of this cluster.
const KEY: &str = "repmd:{default}:";

#[test]
fn a_fail_over_by_sentinel_that_loses_writes_is_healed_within_one_interval() {
    fails_over(Store::sentinel);
}

#[test]
fn a_promoted_replica_of_a_redis_cluster_is_healed_within_one_interval() {
    fails_over(Store::cluster);
}

fn fails_over(store: fn() -> Store) {
    let mut stage = Stage::new(store);
    let first = stage.plan("a").set("instance-name", "first").start();
    let second = stage.plan("a").set("instance-name", "second").start();
    let other = stage.host("b");
    let _kept = first.register_some("kept", 1000, 10);
    for asked in [&first, &other] {
        asked.wait_until_well();
    }
    let copied: i64 = stage.store.query(KEY, &["WAIT", "1", "10000"]);
    assert_eq!(copied, 1, "the replica has what there is");
    stage.store.stop_replicating();
    let _lost = first.register_some("lost", 2000, 10);
    let _twice = first.register("twice", 3000);

    // The first daemon stands still meanwhile, so that the second is there before it.
    let mut newcomer = None;
    first.while_halted(|| {
        stage.store.fail_over(KEY);
        second.wait_until_well();
        newcomer = second.try_register("twice", 4000);
    });
    let newcomer = newcomer.expect("the store does not know of the other");
    let healed = Instant::now();
    while !(other.finds_all("kept", "a", 1000, 10) && other.finds_all("lost", "a", 2000, 10)) {
        assert!(healed.elapsed() < INTERVAL + 2 * SLACK, "not all are back:\n{}", first.log());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // Two owners are reported, and neither is disturbed.
    first.wait_until_degraded("twice@a is also held by second");
    assert!(healed.elapsed() < INTERVAL + 2 * SLACK, "reported after {:?}", healed.elapsed());
    assert_eq!(first.logged(&["WARN", "conflict", "twice@a", "second"]), 1, "{}", first.log());
    assert_eq!((first.find("twice"), second.find("twice")), (Some(3000), Some(4000)));
    assert_eq!(other.find("twice@a"), Some(4000), "elsewhere it is the one in the store");
    // When one of them leaves, the other is the one.
    drop(newcomer);
    first.wait_until_well();
    other.wait_until_it_finds("twice@a", Some(3000));
    assert_eq!(first.logged(&["WARN", "conflict"]), 1, "told once:\n{}", first.log());
}
