use super::*;
use crate::registry::store::Store;
use futures_util::FutureExt;
use futures_util::future::join_all;

async fn ask(store: &Store) -> Result<(), Option<BackendError>> {
    store.ask("retire", RegistryBackend::retire).await
}

fn is_nudged(store: &Store) -> bool {
    store.nudged().now_or_never().is_some()
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_deadline_nor_at_all_for_a_store_that_is_away() {
    let stage = Stage::new();
    let (store, started) = (&stage.registry.store, Instant::now());
    stage.store.is("", Fault::Late(DEADLINE - MILLISECOND));
    ask(store).await.unwrap();
    stage.store.is("", Fault::Late(10 * SECOND));
    let asked = Instant::now();
    let error = ask(store).await.unwrap_err().expect("it was called");
    assert!(matches!(error, BackendError::Unavailable { waited: DEADLINE, .. }), "{error:?}");
    assert_eq!(asked.elapsed(), DEADLINE);
    assert_eq!(store.away().unwrap().away_for, Duration::ZERO);
    assert!(ask(store).await.unwrap_err().is_none());
    assert_eq!((asked.elapsed(), stage.store.calls("retire")), (DEADLINE, 2));
    assert!(DEADLINE < started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn that_the_store_went_away_is_worth_a_look_and_that_it_refuses_is_not() {
    let stage = Stage::new();
    let store = &stage.registry.store;
    stage.store.is("", Fault::Denies);
    ask(store).await.unwrap_err();
    assert!(!is_nudged(store) && !store.is_away());
    stage.store.is("", Fault::Away);
    ask(store).await.unwrap_err();
    assert!(is_nudged(store) && store.is_away());
    ask(store).await.unwrap_err();
    assert!(!is_nudged(store), "it was not asked");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_patient_calls_a_store_that_is_away_for_as_many_deadlines_and_finds_it_back() {
    let stage = Stage::new();
    stage.goes_away().await;
    let store = &stage.registry.store;
    stage.store.is("", Fault::Late(4 * DEADLINE));
    let asked = Instant::now();
    store.call("retire", 3, RegistryBackend::retire).await.unwrap_err();
    assert_eq!((asked.elapsed(), store.is_away()), (3 * DEADLINE, true));
    stage.store.is("", Fault::Late(3 * DEADLINE - MILLISECOND));
    store.call("retire", 3, RegistryBackend::retire).await.unwrap();
    assert!(!store.is_away());
}

#[tokio::test(start_paused = true)]
async fn what_may_take_long_gets_eight_deadlines_and_says_nothing_of_the_stores_health() {
    let stage = Stage::new();
    let store = &stage.registry.store;
    stage.store.is("", Fault::Late(8 * DEADLINE - MILLISECOND));
    store.patiently(RegistryBackend::retire).await.unwrap();
    stage.store.is("", Fault::Late(9 * DEADLINE));
    let asked = Instant::now();
    store.patiently(RegistryBackend::retire).await.unwrap_err();
    assert_eq!(asked.elapsed(), 8 * DEADLINE);
    assert!(!store.is_slow() && !store.is_away() && store.health.last_reached().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_store_is_slow_while_its_last_answer_took_more_than_half_of_the_deadline() {
    let stage = Stage::new();
    let store = &stage.registry.store;
    let mut is_slow = Vec::new();
    for late in [DEADLINE / 2, DEADLINE / 2 + MILLISECOND, 2 * DEADLINE, Duration::ZERO] {
        stage.store.is("", Fault::Late(late));
        let _ = store.call("retire", 1, RegistryBackend::retire).await;
        is_slow.push(store.is_slow());
    }
    assert_eq!(is_slow, [false, true, true, false]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_serves_for_a_ttl_after_the_store_was_reached_and_after_its_own_lease() {
    let stage = Stage::new();
    let (store, asked, left) = (&stage.registry.store, Instant::now(), Some(5 * SECOND));
    assert!(!store.may_serve(asked, left), "it was never reached");
    stage.is_reached().await;
    sleep(TTL - MILLISECOND).await;
    assert!(store.may_serve(asked, None) && store.may_serve(asked, left));
    sleep(MILLISECOND).await;
    assert!(!store.may_serve(asked, None) && !store.may_serve(asked, left));
    stage.is_reached().await;
    assert!(!store.may_serve(asked, None) && store.may_serve(asked, left), "its lease lasted longer");
    sleep(5 * SECOND - MILLISECOND).await;
    assert!(store.may_serve(asked, left));
    sleep(MILLISECOND).await;
    assert!(!store.may_serve(asked, left));
}

#[tokio::test(start_paused = true)]
async fn settings_say_how_long_an_answer_serves() {
    let stage = Stage::of(Lookup::Cluster, Some(2 * SECOND));
    stage.is_reached().await;
    let (store, asked) = (&stage.registry.store, Instant::now());
    sleep(2 * SECOND - MILLISECOND).await;
    assert!(store.may_serve(asked, None));
    sleep(MILLISECOND).await;
    assert!(!store.may_serve(asked, None));
}

#[tokio::test(start_paused = true)]
async fn questions_under_way_have_a_bound_for_each_asker_and_none_for_the_daemon_itself() {
    for (asker, most) in [(Some([10, 0, 0, 9].into()), 256), (None, 300)] {
        let stage = Stage::new();
        stage.store.is("", Fault::Late(DEADLINE / 4));
        let near = host("here");
        let (name, scope) = (name("a"), Scope::Cluster);
        let search = Search { name: &name, scope: &scope, near: &near, most: 1 };
        let asks = (0..300).map(|_| stage.registry.store.find(&search, asker));
        assert!(join_all(asks).await.iter().all(Option::is_some));
        assert_eq!(stage.store.most_under_way.load(Ordering::Relaxed), most);
        assert_eq!(stage.registry.questions_left_out(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_turn_in_vain_gets_no_answer_and_is_counted() {
    let stage = Stage::new();
    stage.store.is("find", Fault::Late(DEADLINE - MILLISECOND));
    let asker = Some(IpAddr::from([10, 0, 0, 9]));
    // The first 256 are asked, and the next wait for them; the last would have to wait for these too.
    let names: Vec<_> = (0..600).map(|number| bare(&format!("n{number}"))).collect();
    join_all(names.iter().map(|name| stage.registry.look_up(name, asker))).await;
    assert_eq!((stage.store.calls("find"), stage.registry.questions_left_out()), (512, 88));
}

#[tokio::test(start_paused = true)]
async fn calls_are_counted_by_verb_with_those_that_failed() {
    let stage = Stage::new();
    let store = &stage.registry.store;
    ask(store).await.unwrap();
    stage.store.is("", Fault::Denies);
    ask(store).await.unwrap_err();
    let calls = stage.registry.stats().calls();
    let counted: Vec<_> = calls.map(|(verb, _, failed)| (verb, failed)).filter(|(_, n)| 0 < *n).collect();
    assert_eq!(counted, [("retire", 1)]);
}
