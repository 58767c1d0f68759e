use std::collections::HashMap;

use super::*;
use crate::registry::{Carried, CarriedPast, LeaseCounts, State};
use futures_util::FutureExt;
use repmd_backend_api::{Creation, InstanceId};

fn states(stage: &Stage) -> Vec<State> {
    stage.registry.held().into_iter().map(|held| held.state).collect()
}

fn is_nudged(stage: &Stage) -> bool {
    stage.registry.store.nudged().now_or_never().is_some()
}

fn releasing(stage: &Stage) -> Vec<u64> {
    stage.registry.carried().releasing.iter().map(|lease| lease.token.number).collect()
}

#[tokio::test(start_paused = true)]
async fn a_node_is_what_it_said_with_the_creation_that_the_store_gave_it() {
    let stage = Stage::new();
    stage.store.lies.store(true, Ordering::Relaxed);
    sleep(SECOND).await;
    let lease = stage.registry.register(7, node("a", 9000), 9100).await.unwrap();
    let registration = &lease.registration;
    assert_eq!((registration.node.port, registration.advertised_port), (9000, 9100));
    assert_eq!(registration.registered_at, std::time::SystemTime::UNIX_EPOCH + EPOCH + SECOND);
    assert_eq!((lease.token.number, lease.token.instance), (7, stage.registry.instance().id));
    assert!(!lease.creation().is_offline());
    let held = stage.registry.held();
    assert_eq!((&held[0].lease, &held[0].state), (&lease, &State::Published));
    assert_eq!((held[0].renewed, held.len()), (Some(Instant::now()), 1));
    assert!(!is_nudged(&stage));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_another_living_daemon_of_the_host_holds_is_taken() {
    let stage = Stage::new();
    let beside = stage.other(Instance { name: "here:5000".to_owned(), ..daemon("here") }).await;
    beside.register("a", 1).await;
    let taken = stage.registry.register(1, node("a", 2), 2).await.unwrap_err();
    assert_eq!((&*taken.name, &*taken.holder), ("a@here", "here:5000"));
    assert_eq!((stage.registry.held().len(), stage.registry.away()), (0, None));
    // It no longer counts as alive.
    sleep(TTL * 2 / 3).await;
    stage.register(2, "a").await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_late_away_or_refuses_turns_no_node_away() {
    for fault in [Fault::Late(10 * SECOND), Fault::Away, Fault::Denies] {
        let stage = Stage::new();
        stage.store.is("register", fault);
        let lease = stage.register(1, "a").await;
        assert!(lease.creation().is_offline());
        assert_eq!(states(&stage), [State::Unpublished], "{fault:?}");
        assert!(is_nudged(&stage), "there is something to publish: {fault:?}");
        let next = stage.register(2, "a").await;
        assert_ne!(lease.creation(), next.creation());
    }
}

#[tokio::test(start_paused = true)]
async fn the_store_is_told_the_last_creation_of_a_name() {
    let stage = Stage::new();
    let lease = stage.register(1, "a").await;
    assert_eq!(stage.store.last_call(), "register a after None");
    stage.registry.release(&lease).await;
    stage.register(2, "a").await;
    assert_eq!(stage.store.last_call(), format!("register a after {:?}", Some(lease.creation())));
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_moves_while_a_node_registers_publishes_it_again() {
    let stage = Stage::of_no_address();
    stage.store.is("register", Fault::Late(DEADLINE / 2));
    let moves = async {
        sleep(DEADLINE / 4).await;
        stage.store.is_at(Some([10, 0, 0, 7]));
        stage.registry.store.follow_addresses().expect("it is somewhere else");
    };
    let (lease, ()) = tokio::join!(stage.register(1, "a"), moves);
    assert_eq!(states(&stage), [State::Unpublished]);
    assert_eq!(stage.registry.held()[0].lease.registration.instance, stage.registry.instance());
    assert!(is_nudged(&stage));
    let now = stage.registry.with_addresses_of_now(lease.registration);
    assert_eq!(now.instance.addresses, [IpAddr::from([10, 0, 0, 7])]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_is_let_go_at_once_though_the_store_cannot_be_told() {
    for fault in [None, Some(Fault::Away), Some(Fault::Denies), Some(Fault::Late(10 * SECOND))] {
        let stage = Stage::new();
        let lease = stage.register(1, "a").await;
        fault.inspect(|fault| stage.store.is("release", *fault));
        let mut releases = Box::pin(stage.registry.release(&lease));
        let is_late = matches!(fault, Some(Fault::Late(_)));
        assert_eq!((&mut releases).now_or_never().is_none(), is_late);
        assert_eq!(stage.registry.held().len(), 0);
        assert_eq!(releasing(&stage), vec![1; usize::from(is_late)], "the store may not know it yet");
        if is_late {
            releases.await;
            assert_eq!(releasing(&stage), [0; 0]);
        }
        assert_eq!(stage.store.calls("release a"), 1);
        assert_eq!(stage.registry.carried().past.departures, [(name("a"), DEADLINE * u32::from(is_late))]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_run_had_no_time_to_release_the_next_program_releases() {
    let stage = Stage::new();
    let leases = [stage.register(1, "a").await, stage.register(2, "b").await];
    stage.store.is("release", Fault::Late(SECOND));
    for lease in &leases {
        assert!(stage.registry.release(lease).now_or_never().is_none());
    }
    assert_eq!(releasing(&stage), [1, 2]);
    let next = Stage::before(stage.memory.clone(), (*stage.registry.instance()).clone(), Lookup::Host, None);
    next.registry.resume(Vec::new(), stage.registry.carried()).await;
    assert_eq!((releasing(&next), next.registry.held().len()), (vec![1, 2], 0));
    next.registry.release_the_rest().await;
    assert_eq!((releasing(&next), next.store.calls("release")), (Vec::new(), 2));
    assert_eq!(stage.other(daemon("there")).await.handle.list(&Scope::Cluster).await.unwrap().items, []);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_hands_over_releases_nothing() {
    let stage = Stage::new();
    let lease = stage.register(1, "a").await;
    stage.registry.hand_over();
    stage.registry.release(&lease).await;
    assert_eq!((stage.registry.held().len(), stage.store.calls("release")), (1, 0));
    stage.registry.retire().await;
    assert_eq!(stage.store.calls("retire"), 1);
    let alone = Stage::alone();
    let lease = alone.register(1, "a").await;
    alone.registry.hand_over();
    alone.registry.release(&lease).await;
    alone.registry.retire().await;
    assert_eq!((alone.store.calls("release"), alone.store.calls("retire")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_registry_of_one_process_needs_no_leases_and_has_no_past_but_creations() {
    let stage = Stage::alone();
    let lease = stage.register(1, "a").await;
    assert_eq!((stage.registry.held().len(), stage.registry.lease_counts().all), (0, 0));
    assert_eq!((stage.registry.is_shared(), stage.registry.lease_ttl()), (false, None));
    stage.registry.release(&lease).await;
    let Carried { renewed, releasing, past } = stage.registry.carried();
    assert_eq!((renewed.len(), releasing.len()), (0, 0));
    assert_eq!((past.departures, past.creations), (Vec::new(), vec![(name("a"), lease.creation())]));
    assert!(!is_nudged(&stage));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_adopted_is_held_by_this_run_and_published_and_its_creation_is_spent() {
    let stage = Stage::new();
    let earlier = stage.other(Instance { id: InstanceId::random(), ..daemon("here") }).await;
    let orphan = earlier.register("a", 1).await;
    assert!(stage.registry.is_ours_of_before(&orphan.registration));
    let lease = stage.registry.adopt(5, Arc::clone(&orphan.registration));
    assert_eq!((lease.token.number, lease.token.instance), (5, stage.registry.instance().id));
    assert_eq!((lease.creation(), states(&stage)), (orphan.creation(), vec![State::Unpublished]));
    assert!(is_nudged(&stage));
    let past = stage.registry.carried().past;
    assert_eq!(past.creations, [(name("a"), orphan.creation())]);
    assert_eq!(past.departures, [(name("a"), Duration::ZERO)]);
    stage.registry.forget(&lease);
    assert_eq!((stage.registry.held().len(), stage.store.calls("release")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_next_program_goes_on_with_what_was_published_and_publishes_the_rest() {
    let stage = Stage::new();
    let lease = stage.register(1, "a").await;
    assert!(!stage.registry.is_ours_of_before(&lease.registration));
    stage.store.is("register", Fault::Denies);
    stage.register(2, "b").await;
    sleep(SECOND).await;
    assert_eq!((stage.registry.is_shared(), stage.registry.lease_ttl()), (true, Some(TTL)));
    let counts = LeaseCounts { all: 2, unpublished: 1, ..LeaseCounts::default() };
    assert_eq!(stage.registry.lease_counts(), counts);
    let carried = stage.registry.carried();
    assert_eq!(carried.renewed, HashMap::from([(1, SECOND)]));
    let nodes = stage.registry.held().into_iter();
    let nodes = nodes.map(|held| (held.lease.token.number, held.lease.registration)).collect();
    let next = Stage::before(stage.memory.clone(), (*stage.registry.instance()).clone(), Lookup::Host, None);
    next.registry.resume(nodes, carried).await;
    assert_eq!(states(&next), [State::Published, State::Unpublished]);
    let renewed: Vec<_> = next.registry.held().into_iter().map(|held| held.renewed).collect();
    assert_eq!(renewed, [Some(Instant::now() - SECOND), None]);
    assert_eq!(next.store.calls(""), 0);
}

#[tokio::test(start_paused = true)]
async fn the_next_program_remembers_who_was_here() {
    let stage = Stage::new();
    let creation = Creation::new(70).unwrap();
    let past = CarriedPast {
        departures: vec![(name("a"), SECOND)],
        creations: vec![(name("a"), creation)],
        ..CarriedPast::default()
    };
    sleep(SECOND).await;
    stage.registry.resume(Vec::new(), Carried { past: past.clone(), ..Carried::default() }).await;
    assert_eq!(stage.registry.carried().past, past);
}

#[tokio::test(start_paused = true)]
async fn a_registry_of_one_process_is_given_what_was_held_before() {
    let before = Stage::alone();
    let lease = before.register(1, "a").await;
    let stage = Stage::alone();
    stage.registry.resume(vec![(1, lease.registration)], Carried::default()).await;
    assert_eq!((stage.store.calls("publish 1"), stage.registry.held().len()), (1, 0));
}
