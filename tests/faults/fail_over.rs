//! A replica takes the primary's place, and does not have the last writes.

use std::time::Instant;

use repmd_test_stores::{Backing, Postgres, Store};

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

#[test]
fn a_fail_over_of_postgres_that_loses_writes_is_healed_within_one_interval() {
    fails_over(Pair::start);
}

/// A store whose primary has a follower.
trait Followed: Backing {
    /// Waits until the follower has what there is.
    fn wait_until_copied(&self);
    /// Cuts it off from what is written from now on.
    fn stop_replicating(&self);
    /// Kills the primary, and lets the follower take its place.
    fn fail_over(&mut self);
}

impl Followed for Store {
    fn wait_until_copied(&self) {
        let copied: i64 = self.query(KEY, &["WAIT", "1", "10000"]);
        assert_eq!(copied, 1, "the replica has what there is");
    }

    fn stop_replicating(&self) {
        Self::stop_replicating(self);
    }

    fn fail_over(&mut self) {
        Self::fail_over(self, KEY);
    }
}

/// A PostgreSQL and its standby.
struct Pair {
    primary: Postgres,
    standby: Postgres,
}

impl Pair {
    fn start() -> Self {
        let primary = Postgres::start();
        let standby = primary.standby();
        Self { primary, standby }
    }
}

impl Backing for Pair {
    fn url(&self) -> String {
        self.standby.url_with(&self.primary)
    }

    fn kill(&mut self) {
        self.primary.kill();
    }

    fn revive_empty(&mut self) {
        self.primary.restart_empty();
    }

    fn pause(&mut self) {
        self.primary.pause();
    }

    fn resume(&mut self) {
        self.primary.resume();
    }

    fn tell(&self, commands: &str) {
        self.primary.tell(commands);
    }
}

impl Followed for Pair {
    fn wait_until_copied(&self) {
        self.standby.wait_until_caught_up(&self.primary);
    }

    fn stop_replicating(&self) {
        self.standby.stop_replicating();
    }

    fn fail_over(&mut self) {
        self.primary.kill();
        self.standby.promote();
    }
}

fn fails_over<S: Followed>(store: fn() -> S) {
    let mut stage = Stage::new(store);
    let first = stage.plan("a").set("instance-name", "first").start();
    let second = stage.plan("a").set("instance-name", "second").start();
    let other = stage.host("b");
    let _kept = first.register_some("kept", 1000, 10);
    for asked in [&first, &other] {
        asked.wait_until_well();
    }
    stage.store.wait_until_copied();
    stage.store.stop_replicating();
    let _lost = first.register_some("lost", 2000, 10);
    let _twice = first.register("twice", 3000);

    // The first daemon stands still meanwhile, so that the second is there before it.
    let mut newcomer = None;
    first.while_halted(|| {
        stage.store.fail_over();
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
