//! Faults happen as they are asked for, and the same for the same seed.

#![allow(clippy::unwrap_used, reason = "its helpers are tests too")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::{FutureExt, StreamExt};
use repmd_backend_api::{
    AliveName, BackendError, Change, Claim, HostId, Instance, Node, RegistryBackend, Scope,
};
use repmd_backend_faulty::{Faults, Faulty, Link, Odds};
use repmd_backend_memory::{Handle, Memory};
use tokio::time::{Instant, timeout};

/// A registry, and the same one over a faulty link.
fn registry(seed: u64) -> (Handle, Faulty, Faults) {
    let (memory, daemon) = (Memory::new(), Instance::new("db-1:4369", HostId::parse("db-1").unwrap()));
    let daemon = Arc::new(daemon);
    let faulty = Faulty::new(Arc::new(memory.attach(Arc::clone(&daemon))), seed);
    let faults = faulty.faults();
    (memory.attach(daemon), faulty, faults)
}

fn name(text: &str) -> AliveName {
    AliveName::parse(text.as_bytes()).unwrap()
}

fn claim(text: &str) -> Claim {
    static CLAIMS: AtomicU64 = AtomicU64::new(0);
    Claim {
        number: CLAIMS.fetch_add(1, Ordering::Relaxed),
        node: Node::ordinary(name(text), 25672),
        advertised_port: 25672,
        registered_at: SystemTime::UNIX_EPOCH,
        last: None,
    }
}

async fn is_registered(registry: &dyn RegistryBackend, text: &str) -> bool {
    let listed = registry.list(&Scope::Cluster).await.unwrap().items;
    listed.iter().any(|found| found.registration.node.name == name(text))
}

fn unavailable<T>(answer: Result<T, BackendError>) -> bool {
    matches!(answer, Err(BackendError::Unavailable { .. }))
}

/// What happens to 200 calls: whether each fails, and how long it takes.
async fn history(seed: u64) -> Vec<(bool, Duration)> {
    let (_, faulty, faults) = registry(seed);
    let delay_max = Duration::from_millis(300);
    faults.set_odds(Odds { refused: 0.2, lost: 0.2, delayed: 0.5, delay_max });
    let mut history = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        let failed = unavailable(faulty.list(&Scope::Cluster).await);
        history.push((failed, started.elapsed()));
    }
    history
}

#[tokio::test(start_paused = true)]
async fn a_seed_brings_its_own_faults_each_time() {
    let first = history(7).await;
    assert_eq!(first, history(7).await);
    assert_ne!(first, history(8).await);
    let failed = first.iter().filter(|(failed, _)| *failed).count();
    let delayed = first.iter().filter(|(_, took)| !took.is_zero()).count();
    // 36 and 75 of 100 are expected.
    assert!((40..=104).contains(&failed) && (120..=180).contains(&delayed), "{failed} and {delayed} of 200");
    assert!(first.iter().all(|(_, took)| *took <= Duration::from_millis(602)));
}

#[tokio::test]
async fn without_odds_a_call_is_over_when_it_is_first_polled() {
    let (_, faulty, _) = registry(1);
    let registered = faulty.register(&claim("rabbit")).now_or_never().expect("nothing waits");
    assert!(registered.is_ok());
}

#[tokio::test]
async fn a_refused_call_is_not_made_and_a_lost_answer_is_that_of_a_call_that_was() {
    let (memory, faulty, faults) = registry(1);
    faults.set_odds(Odds { refused: 1.0, ..Odds::default() });
    assert!(unavailable(faulty.register(&claim("refused")).await));
    faults.set_odds(Odds { lost: 1.0, ..Odds::default() });
    assert!(unavailable(faulty.register(&claim("lost")).await));
    assert!(!is_registered(&memory, "refused").await);
    assert!(is_registered(&memory, "lost").await);
}

#[tokio::test(start_paused = true)]
async fn a_cut_link_fails_calls_at_once_and_takes_the_answers_of_those_under_way() {
    let (memory, faulty, faults) = registry(1);
    faults.set_link(Link::Cut);
    let started = Instant::now();
    assert!(unavailable(faulty.register(&claim("late")).await) && started.elapsed().is_zero());
    faults.set_link(Link::Up);
    faults.set_odds(Odds { delayed: 1.0, delay_max: Duration::from_secs(1), ..Odds::default() });
    let under_way = claim("under way");
    let cut = async {
        while !is_registered(&memory, "under way").await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        faults.set_link(Link::Cut);
    };
    assert!(unavailable(tokio::join!(faulty.register(&under_way), cut).0));
    assert!(!is_registered(&memory, "late").await);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_call_waits_for_ever_unless_the_link_is_healed() {
    let (memory, faulty, faults) = registry(1);
    faults.set_link(Link::Stalled);
    let claim = claim("rabbit");
    let mut stalled = faulty.register(&claim);
    assert!(timeout(Duration::from_secs(86_400), &mut stalled).await.is_err());
    assert!(!is_registered(&memory, "rabbit").await);
    faults.set_link(Link::Up);
    stalled.await.unwrap();
    assert!(is_registered(&memory, "rabbit").await);
}

#[tokio::test]
async fn a_watcher_is_told_that_it_missed_what_happened_while_the_link_was_cut() {
    let (memory, faulty, faults) = registry(1);
    let mut changes = faulty.watch();
    let told = |text: &str| Some(Change::Registered(name(text), HostId::parse("db-1").unwrap()));
    memory.register(&claim("before")).await.unwrap();
    assert_eq!(changes.next().await, told("before"));
    faults.set_link(Link::Cut);
    memory.register(&claim("meanwhile")).await.unwrap();
    assert_eq!(changes.next().now_or_never(), None, "a change passed a cut link");
    faults.set_link(Link::Up);
    memory.register(&claim("after")).await.unwrap();
    assert_eq!(changes.next().await, Some(Change::Missed));
    assert_eq!(changes.next().await, told("after"));
}
