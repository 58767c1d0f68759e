use super::*;
use crate::registry::{NO_ADDRESS, State};
use repmd_backend_api::InstanceId;

const INTERVAL: Duration = Duration::from_secs(5);

/// The times between moments.
fn pauses(times: &[Instant]) -> Vec<Duration> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_registry_of_one_process_is_not_kept_and_another_is_until_it_is_told_to_stop() {
    let alone = Stage::alone();
    alone.registry.keep(&CancellationToken::new()).await;
    assert_eq!(alone.store.calls(""), 0);
    let stage = Stage::new();
    let stop = CancellationToken::new();
    let stops = async {
        sleep(SECOND).await;
        stop.cancel();
    };
    let started = Instant::now();
    tokio::join!(stage.registry.keep(&stop), stops);
    assert_eq!(started.elapsed(), SECOND);
    assert!(stage.store.calls("renew") > 0);
}

#[tokio::test(start_paused = true)]
async fn a_round_comes_at_once_another_at_a_time_of_ones_own_and_then_one_in_a_third_of_the_ttl() {
    let mut seconds = Vec::new();
    for _ in 0..8 {
        let stage = Stage::new();
        let started = Instant::now();
        stage.keep();
        sleep(4 * INTERVAL).await;
        let rounds = stage.store.times("renew 0");
        assert_eq!(rounds[0], started);
        let pauses = pauses(&rounds);
        assert!(pauses[0] <= INTERVAL && pauses[1..].iter().all(|pause| *pause == INTERVAL), "{pauses:?}");
        seconds.push(pauses[0]);
        let there = stage.other(daemon("there")).await;
        assert_eq!(there.handle.daemons(&Scope::Cluster).await.unwrap().items.len(), 2, "it says so");
    }
    seconds.sort_unstable();
    assert!(seconds[0] < seconds[7], "no two daemons are in step: {seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_round_is_spread_over_half_of_the_time_to_the_next() {
    let stage = Stage::new();
    for number in 0..1100_u16 {
        stage.register(number.into(), &format!("n{number}")).await;
    }
    stage.keep();
    sleep(INTERVAL / 2).await;
    let calls = ["renew 1100", "renew 600", "renew 100"].map(|call| stage.store.times(call)[0]);
    let spread = (INTERVAL / 2).mul_f64(500.0 / 1100.0);
    let exactly = |pause: Duration| (pause.as_millis() as i64 - spread.as_millis() as i64).abs() < 5;
    assert!(pauses(&calls).into_iter().all(exactly), "{:?}", pauses(&calls));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_does_not_know_is_published_at_once_and_no_sooner_again_than_in_the_next_round() {
    let stage = Stage::new();
    stage.keep();
    sleep(2 * INTERVAL).await;
    let rounds = stage.store.calls("renew");
    stage.store.is("register", Fault::Denies);
    stage.store.is("publish", Fault::Denies);
    stage.register(1, "a").await;
    sleep(MILLISECOND).await;
    assert_eq!((stage.store.calls("publish 1"), stage.store.calls("renew")), (1, rounds));
    stage.store.heals();
    sleep(INTERVAL).await;
    assert_eq!((stage.store.calls("publish"), stage.store.calls("renew 1")), (1, 1));
    assert_eq!(stage.registry.held()[0].state, State::Published);
    let known = stage.other(daemon("there")).await.handle.list(&Scope::Cluster).await.unwrap();
    assert_eq!(names(&known.items), ["a@here"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_publishes_has_500_leases_and_two_without_an_answer_are_enough() {
    let stage = Stage::new();
    stage.keep();
    sleep(2 * INTERVAL).await;
    stage.store.is("register", Fault::Denies);
    let many = async |offset: u64| {
        for number in offset..offset + 1700 {
            stage.register(number, &format!("n{number}")).await;
        }
        sleep(MILLISECOND).await;
    };
    many(0).await;
    let sizes = ["publish 500", "publish 200", "publish"].map(|call| stage.store.calls(call));
    assert_eq!(sizes, [3, 1, 4]);
    assert_eq!(stage.registry.lease_counts().unpublished, 0);
    stage.store.is("publish", Fault::Away);
    many(10_000).await;
    assert_eq!(stage.store.calls("publish 500"), 3 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_has_four_deadlines() {
    let stage = Stage::new();
    stage.store.is("", Fault::Late(4 * DEADLINE - MILLISECOND));
    stage.keep();
    sleep(4 * DEADLINE).await;
    assert_eq!(stage.registry.away(), None);
    assert!(stage.registry.store.health.last_reached().is_some());
    let stage = Stage::new();
    stage.store.is("", Fault::Late(10 * SECOND));
    stage.keep();
    sleep(4 * DEADLINE - MILLISECOND).await;
    assert_eq!(stage.registry.away(), None);
    sleep(2 * MILLISECOND).await;
    assert!(stage.registry.away().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_tried_after_pauses_that_grow_to_a_second() {
    let stage = Stage::new();
    stage.store.is("", Fault::Away);
    stage.keep();
    // A node does not make it any sooner.
    for number in 0..40 {
        stage.register(number, "a").await;
        sleep(INTERVAL / 10).await;
    }
    let tries = stage.store.times("publish 0");
    let pauses = pauses(&tries);
    let most = |index: u32| SECOND.min(50 * MILLISECOND * 2_u32.pow(index.min(10)));
    for (index, pause) in (0..).zip(&pauses) {
        assert!((most(index) / 2..=most(index) + 2 * MILLISECOND).contains(pause), "{index}: {pauses:?}");
    }
    assert!(15 < pauses.len(), "{pauses:?}");
    let differ = pauses[6..].windows(2).any(|pair| pair[0] != pair[1]);
    assert!(differ, "never the same: {pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_back_gets_everything_after_a_sign_of_life() {
    let stage = Stage::new();
    stage.keep();
    sleep(2 * INTERVAL).await;
    stage.store.is("", Fault::Away);
    stage.register(1, "a").await;
    sleep(MILLISECOND).await;
    assert!(stage.registry.away().is_some());
    stage.store.heals();
    sleep(SECOND + INTERVAL / 5).await;
    assert_eq!(stage.registry.away(), None);
    let (sign, renewal) = (*stage.store.times("publish 0").last().unwrap(), stage.store.times("renew 1")[0]);
    assert!((sign..=sign + INTERVAL / 5).contains(&renewal));
    assert_eq!(stage.registry.held()[0].state, State::Published);
    // All that find it back would be in step, so the next round comes earlier.
    let before = stage.store.calls("renew 1");
    sleep(INTERVAL).await;
    assert_eq!(stage.store.calls("renew 1"), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_while_it_is_renewed_is_released_once_more() {
    let stage = Stage::new();
    let lease = stage.register(1, "a").await;
    stage.store.is("renew", Fault::AnswersLate(SECOND));
    stage.keep();
    sleep(SECOND / 2).await;
    stage.registry.release(&lease).await;
    assert_eq!(stage.store.calls("release a"), 1);
    sleep(SECOND).await;
    assert_eq!(stage.store.calls("release a"), 2);
    let known = stage.other(daemon("there")).await.handle.list(&Scope::Cluster).await.unwrap();
    assert_eq!(known.items, []);
}

#[tokio::test(start_paused = true)]
async fn names_that_the_store_has_of_this_host_at_the_start_are_not_answered_from_elsewhere() {
    let stage = Stage::new();
    let earlier = stage.other(Instance { id: InstanceId::random(), ..daemon("here") }).await;
    let lease = earlier.register("a", 1).await;
    let aliased = Instance { aliases: vec![host("here")], ..daemon("yonder") };
    stage.other(aliased).await.register("b", 1).await;
    stage.store.is("list", Fault::Denies);
    stage.keep();
    sleep(INTERVAL).await;
    stage.store.heals();
    let before = stage.store.calls("list of here");
    sleep(4 * INTERVAL).await;
    assert_eq!(stage.store.calls("list of here"), before + 1, "until it is known");
    earlier.handle.release(&lease).await.unwrap();
    let asked = async |question: Question| {
        stage.look_up(&question).await;
        stage.store.last_call()
    };
    assert_eq!(asked(bare("a")).await, "find a on here near here, 4 of them");
    assert_eq!(asked(bare("b")).await, "find b near here, 4 of them", "it was not here");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_moves_publishes_what_it_holds_at_its_new_address() {
    let stage = Stage::of_no_address();
    stage.register(1, "a").await;
    stage.keep();
    sleep(2 * INTERVAL).await;
    assert_eq!(stage.registry.readiness().borrow().notes, [NO_ADDRESS]);
    assert_eq!(stage.store.updates.load(Ordering::Relaxed), 1);
    stage.store.is_at(Some([10, 0, 0, 7]));
    sleep(INTERVAL).await;
    assert_eq!(stage.registry.readiness().borrow().notes, [""; 0]);
    assert_eq!(stage.store.updates.load(Ordering::Relaxed), 2);
    let known = stage.other(daemon("there")).await.handle.list(&Scope::Cluster).await.unwrap().items;
    assert_eq!(known[0].registration.instance.addresses, [IpAddr::from([10, 0, 0, 7])]);
    // A connection that is lost and made anew during a round is one from elsewhere.
    stage.store.is("renew", Fault::Late(SECOND));
    let last = *stage.store.times("renew").last().unwrap();
    tokio::time::sleep_until(last + INTERVAL + SECOND / 2).await;
    stage.store.is_at(Some([10, 0, 0, 8]));
    sleep(SECOND).await;
    let rounds = stage.store.times("renew");
    assert_eq!(rounds[rounds.len() - 1] - rounds[rounds.len() - 2], SECOND, "at once");
}

#[tokio::test(start_paused = true)]
async fn operators_hear_of_what_is_wrong_when_it_changes() {
    let stage = Stage::new();
    let mut readiness = stage.registry.readiness();
    stage.keep();
    sleep(2 * INTERVAL).await;
    assert!(!readiness.has_changed().unwrap(), "all is well");
    stage.other(daemon("there")).await;
    stage.holder("there", "a", 1).await;
    stage.store.is_foreign.store(true, Ordering::Relaxed);
    stage.look_up(&bare("a")).await;
    sleep(INTERVAL).await;
    assert!(readiness.has_changed().unwrap());
    assert_eq!(readiness.borrow_and_update().notes, ["an entry cannot be read: not ours"]);
    sleep(INTERVAL).await;
    assert!(!readiness.has_changed().unwrap(), "it is as it was");
    stage.store.is("", Fault::Away);
    sleep(INTERVAL).await;
    let complaints = readiness.borrow_and_update().complaints.join("; ");
    assert!(complaints.starts_with("the registry is away"), "{complaints}");
    stage.store.heals();
    stage.store.is("renew", Fault::Denies);
    sleep(INTERVAL).await;
    let complaints = readiness.borrow_and_update().complaints.join("; ");
    assert!(complaints.starts_with("renew: the registry refuses"), "{complaints}");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_looks_for_itself_at_its_start_once_its_past_is_over_and_each_minute() {
    let stage = Stage::new();
    stage.keep();
    let started = Instant::now();
    sleep(41 * INTERVAL).await;
    let looks = stage.store.times("daemons");
    assert!(looks[0] - started <= INTERVAL);
    let rounds: Vec<_> = looks.iter().map(|at| (*at - looks[0]).as_millis() / INTERVAL.as_millis()).collect();
    assert_eq!(rounds, [0, 4, 12, 24, 36]);
    // With a thousand of them, each would read a thousand.
    assert_eq!(stage.store.calls("daemons of here"), looks.len());
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_has_company_looks_in_each_round_until_it_is_alone() {
    let stage = Stage::new();
    stage.keep();
    sleep(7 * INTERVAL).await;
    let looks = || stage.store.calls("daemons");
    assert_eq!(looks(), 2);
    stage.store.tell(&Change::Registered(name("a"), host("here")));
    sleep(3 * INTERVAL).await;
    assert_eq!(looks(), 3, "somebody else was here, and is no rival");
    let twin = stage.other(Instance { id: InstanceId::random(), ..daemon("here") }).await;
    stage.store.tell(&Change::Registered(name("a"), host("here")));
    sleep(INTERVAL).await;
    let complaints = stage.registry.readiness().borrow().complaints.join("; ");
    assert!(complaints.starts_with("two daemons are called here:4369"), "{complaints}");
    assert_eq!(looks(), 4);
    twin.handle.retire().await.unwrap();
    sleep(INTERVAL).await;
    assert_eq!(looks(), 5);
    assert_eq!(stage.registry.readiness().borrow().complaints, [""; 0]);
    // Of a store that is away it asks nothing.
    stage.store.is("", Fault::Away);
    stage.register(1, "a").await;
    stage.store.tell(&Change::Registered(name("b"), host("here")));
    let before = looks();
    sleep(3 * INTERVAL).await;
    assert_eq!(looks(), before);
}

#[tokio::test(start_paused = true)]
async fn a_round_ends_with_a_second_silence_or_with_a_refusal_of_all() {
    for (fault, calls) in [(Fault::Away, 2), (Fault::Denies, 1)] {
        let stage = Stage::new();
        for number in 0..10_u16 {
            stage.register(number.into(), &format!("n{number}")).await;
        }
        stage.keep();
        sleep(3 * INTERVAL).await;
        let renewed = stage.store.calls("renew");
        stage.store.is("", fault);
        sleep(INTERVAL).await;
        assert_eq!(stage.store.calls("renew"), renewed + calls, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_run_that_counts_as_alive_for_a_moment_is_no_rival() {
    let stage = Stage::new();
    let _earlier = stage.other(Instance { id: InstanceId::random(), ..daemon("here") }).await;
    stage.keep();
    sleep(INTERVAL).await;
    let looks = stage.store.calls("daemons");
    stage.store.tell(&Change::Registered(name("a"), host("here")));
    sleep(INTERVAL - MILLISECOND).await;
    assert_eq!((looks, stage.store.calls("daemons")), (1, 2));
    let lives = stage.other(daemon("there")).await.handle.daemons(&Scope::Cluster).await.unwrap().items;
    assert_eq!(lives.iter().filter(|daemon| daemon.name == "here:4369").count(), 2, "for a moment");
    assert_eq!(stage.registry.readiness().borrow().complaints, [""; 0]);
}
