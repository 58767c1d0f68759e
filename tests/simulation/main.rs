//! Several daemons, one store and many nodes on a clock of their own, under everything that goes wrong.
//!
//! A seed decides what happens: nodes start and end, daemons crash, stop and come back, links to the store are
//! cut, stalled and lossy, the store loses everything, clocks are off by a day. After each step the promises of
//! the registry are checked. The whole run is one thread with paused time, so a seed always takes the same way:
//!
//! ```text
//! cargo test --test simulation                                    # 1,000 seeds
//! REPMD_SIMULATION_SEEDS=50000 cargo test --test simulation       # more
//! REPMD_SIMULATION_SEED=17 cargo test --test simulation           # one again, with its story
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod checks;
mod dice;
mod node;
mod world;

use std::time::Duration;

use dice::Dice;
use world::World;

/// Steps of one seed; with the pauses between them about a minute of the world's time.
const STEPS: usize = 250;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("it is a number"))
}

#[test]
fn every_promise_holds_whatever_goes_wrong() {
    if let Some(seed) = number("REPMD_SIMULATION_SEED") {
        let (story, broken) = play(seed);
        println!("{}", story.join("\n"));
        assert_eq!(broken, None);
        return;
    }
    for seed in 0..number("REPMD_SIMULATION_SEEDS").unwrap_or(1000) {
        if let (story, Some(broken)) = play(seed) {
            let end = story[story.len().saturating_sub(60)..].join("\n");
            panic!(
                "{end}\n{broken}\nREPMD_SIMULATION_SEED={seed} cargo test --test simulation shows it again"
            );
        }
    }
}

#[test]
fn a_seed_always_takes_the_same_way() {
    for seed in [1, 2, 3] {
        assert_eq!(play(seed), play(seed));
    }
}

#[test]
fn each_kind_of_trouble_happens() {
    let stories: Vec<String> = (0..20).flat_map(|seed| play(seed).0).collect();
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
    ] {
        happened(what);
    }
}

/// Plays one seed: what happened, and the promise that broke.
fn play(seed: u64) -> (Vec<String>, Option<String>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let world = World::new(seed);
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
