//! Several daemons, one store and many nodes on a clock of their own, under everything that goes wrong.
//!
//! A seed decides what happens: nodes start and end, daemons crash, stop and come back, links to the store are
//! cut, stalled and lossy, the store loses everything, clocks are off by a day, others write over registrations, and
//! daemons are upgraded to a record format that the rest cannot read. After each step the promises of
//! the registry are checked. The whole run is one thread with paused time, so a seed always takes the same way:
//!
//! ```text
//! cargo test --test simulation                                    # 2,000 seeds
//! REPMD_SIMULATION_SEEDS=50000 cargo test --test simulation       # more
//! REPMD_SIMULATION_SEED=17 cargo test --test simulation           # one again, with its story
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod checks;
mod dice;
mod node;
mod store;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dice::Dice;
use world::World;

/// Steps of one seed; with the pauses between them about three quarters of a minute of the world's time.
const STEPS: usize = 200;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("it is a number"))
}

#[test]
fn every_promise_holds_whatever_goes_wrong() {
    if let Some(seed) = number("REPMD_SIMULATION_SEED") {
        let (story, broken) = play(seed, false);
        println!("{}", story.join("\n"));
        assert_eq!(broken, None);
        return;
    }
    let (seeds, next) = (number("REPMD_SIMULATION_SEEDS").unwrap_or(2000), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let play_some = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seeds <= seed {
                    return;
                }
                if let (story, Some(broken)) = play(seed, false) {
                    let end = story[story.len().saturating_sub(60)..].join("\n");
                    panic!(
                        "{end}\n{broken}\nREPMD_SIMULATION_SEED={seed} cargo test --test simulation shows it again"
                    );
                }
            }
        };
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(play_some)).collect();
        for player in players {
            player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// A node that comes back on another port while its daemon is cut off once stood for a conflict of the daemon with
/// itself.
#[test]
fn a_store_that_takes_a_daemons_own_past_for_another_owner_is_found_out() {
    let broken: Vec<_> = (0..40).filter_map(|seed| play(seed, true).1).collect();
    assert!(broken.iter().any(|broken| broken.contains("nobody else has it")), "{broken:?}");
}

#[test]
fn a_seed_always_takes_the_same_way() {
    for seed in [1, 2, 3] {
        assert_eq!(play(seed, false), play(seed, false));
    }
}

#[test]
fn each_kind_of_trouble_happens() {
    let stories: Vec<String> = (0..60).flat_map(|seed| play(seed, false).0).collect();
    let happened = |what: &str| assert!(stories.iter().any(|line| line.contains(what)), "never: {what}");
    for what in [
        "crashes",
        "stops",
        "is cut off",
        "is stalled",
        "is lossy",
        "the store loses everything",
        "is accepted offline",
        "is refused",
        "is registered again",
        "is found",
        "is found of before",
        "is not found",
        "conflict",
        "are killed together",
        "restarts",
        "writes over",
        "starts, version 2",
    ] {
        happened(what);
    }
}

/// Plays one seed: what happened, and the promise that broke.
fn play(seed: u64, has_old_rule: bool) -> (Vec<String>, Option<String>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let world = World::new(seed, has_old_rule);
        let mut dice = Dice::new(seed);
        for _ in 0..STEPS {
            let pause = if dice.chance(0.04) { dice.below(6000) } else { dice.below(300) };
            tokio::time::sleep(Duration::from_millis(pause)).await;
            world.step(&mut dice).await;
            if let Some(broken) = world.check().await {
                return (world.story(), Some(broken));
            }
        }
        (world.story(), None)
    })
}
