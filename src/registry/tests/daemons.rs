use super::*;
use crate::registry::{Daemons, NobodyKnows, Source};

fn hosts(daemons: &Daemons) -> Vec<String> {
    daemons.all().iter().map(|daemon| daemon.host.to_string()).collect()
}

/// The host of the daemon, and where it is known from.
fn told(told: &Told) -> (Option<String>, Source) {
    let host = match &told.answer {
        Answer::Daemon(daemon) => Some(daemon.host.to_string()),
        Answer::Node(_) | Answer::Absent => None,
    };
    (host, told.source)
}

#[tokio::test(start_paused = true)]
async fn the_daemons_are_known_for_a_second() {
    let stage = Stage::new();
    stage.other(daemon("there")).await;
    assert!(stage.registry.known_daemons().is_none());
    assert_eq!(hosts(&stage.registry.daemons().await.unwrap()), ["there"]);
    stage.other(daemon("yonder")).await;
    sleep(SECOND - MILLISECOND).await;
    assert_eq!(hosts(&stage.registry.known_daemons().unwrap().unwrap()), ["there"]);
    assert_eq!(hosts(&stage.registry.daemons().await.unwrap()), ["there"]);
    sleep(MILLISECOND).await;
    assert!(stage.registry.known_daemons().is_none());
    assert_eq!(hosts(&stage.registry.current_daemons().await.unwrap()), ["there", "yonder"]);
    assert_eq!(stage.store.calls("daemons"), 2);
}

#[tokio::test(start_paused = true)]
async fn the_last_list_of_daemons_serves_while_the_store_is_away_and_then_nobody_knows() {
    let stage = Stage::new();
    stage.other(daemon("there")).await;
    stage.registry.daemons().await.unwrap();
    sleep(SECOND).await;
    stage.store.is("", Fault::Away);
    assert_eq!(hosts(&stage.registry.current_daemons().await.unwrap()), ["there"]);
    assert!(stage.registry.away().is_some());
    assert!(stage.registry.daemons().await.is_none());
    assert_eq!(hosts(&stage.registry.known_daemons().unwrap().unwrap()), ["there"]);
    // Reached at its start, and as long again for a lease that one of them may have taken then.
    sleep(TTL - SECOND - MILLISECOND).await;
    assert!(stage.registry.known_daemons().unwrap().is_ok());
    sleep(MILLISECOND).await;
    assert_eq!(stage.registry.known_daemons().unwrap().unwrap_err(), NobodyKnows);
    assert_eq!(stage.registry.current_daemons().await.unwrap_err(), NobodyKnows);
    assert_eq!(stage.store.calls("daemons"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_was_at_an_address_a_moment_ago_still_is_and_a_new_one_is_asked_for() {
    let stage = Stage::new();
    let at = |host| daemon(host).addresses[0];
    assert_eq!(stage.registry.is_known_of_the_cluster(at("there")), None);
    assert!(!stage.registry.is_of_the_cluster(at("there")).await);
    assert_eq!(stage.registry.is_known_of_the_cluster(at("there")), Some(false));
    stage.other(daemon("there")).await;
    sleep(SECOND).await;
    assert_eq!(stage.registry.is_known_of_the_cluster(at("there")), None);
    assert!(stage.registry.is_of_the_cluster(at("there")).await);
    sleep(TTL - MILLISECOND).await;
    assert_eq!(stage.registry.is_known_of_the_cluster(at("there")), Some(true));
    assert_eq!(stage.registry.is_known_of_the_cluster(at("yonder")), None);
    sleep(MILLISECOND).await;
    stage.is_reached().await;
    sleep(TTL).await;
    assert_eq!(stage.registry.is_known_of_the_cluster(at("there")), None);
    stage.goes_away().await;
    assert_eq!(stage.registry.is_known_of_the_cluster(at("there")), Some(false), "nobody knows");
    assert!(!stage.registry.is_of_the_cluster(at("there")).await);
}

#[tokio::test(start_paused = true)]
async fn the_daemon_of_a_host_is_told_from_the_store_from_memory_and_from_what_was_last_known() {
    let stage = Stage::new();
    stage.other(daemon("there")).await;
    let [there, yonder] = ["there", "yonder"].map(|name| Question::Daemon(host(name)));
    let is_there = Some("there".to_owned());
    assert!(stage.registry.known(&there).is_none());
    let asked = Instant::now();
    let from_the_store = stage.look_up(&there).await;
    assert_eq!(told(&from_the_store), (is_there.clone(), Source::Registry));
    assert_eq!(from_the_store.asked, Some(asked));
    sleep(SECOND - MILLISECOND).await;
    assert_eq!(told(&stage.look_up(&there).await), (is_there.clone(), Source::Cache));
    assert_eq!(told(&stage.registry.known(&yonder).unwrap()), (None, Source::Cache));
    sleep(MILLISECOND).await;
    stage.store.is("", Fault::Away);
    assert_eq!(told(&stage.look_up(&there).await), (is_there.clone(), Source::Stale));
    assert_eq!(told(&stage.registry.known(&there).unwrap()), (is_there, Source::Stale));
    sleep(TTL).await;
    let nobody_knows = stage.registry.known(&there).unwrap();
    assert_eq!((told(&nobody_knows), nobody_knows.asked), ((None, Source::Stale), None));
    let stats = stage.registry.stats();
    assert_eq!((stats.remembered.get(), stats.loaded.get(), stats.stale.get()), (2, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_registry_of_one_process_knows_of_no_other_daemon() {
    let stage = Stage::alone();
    assert!(stage.registry.daemons().await.is_none());
    assert_eq!(hosts(&stage.registry.known_daemons().unwrap().unwrap()), [""; 0]);
    assert_eq!(hosts(&stage.registry.current_daemons().await.unwrap()), [""; 0]);
    assert_eq!(stage.registry.is_known_of_the_cluster([10, 0, 0, 1].into()), Some(false));
    assert_eq!(stage.store.calls(""), 0);
}
