//! Several daemons, one store and many nodes on a clock of their own, under everything that goes wrong.
//!
//! A seed decides what happens: nodes start and end, daemons crash, stop and come back, links to the store are
//! cut, stalled and lossy, the store loses everything, clocks are off by a day, others write over registrations, and
//! daemons are upgraded to a record format that the rest cannot read, or go on with another program. After each step the
//! promises of the registry are checked, and at the end the history of all that was asked and answered (`tests/history`).
//! The whole run is one thread with paused time, so a seed always takes the same way:
//!
//! ```text
//! cargo test --test simulation                                    # 2,000 seeds
//! REPMD_SIMULATION_SEEDS=100000 cargo test --test simulation      # more
//! REPMD_SIMULATION_FIRST=50000 cargo test --test simulation       # from this one on: beside another process
//! REPMD_SIMULATION_SEED=17 cargo test --test simulation           # one again, with its story
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod checks;
mod dice;
mod node;
mod record;
mod store;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dice::Dice;
use repmd_history::{Broken, Promise};
use store::Rules;
use world::World;

/// Steps of one seed; with the pauses between them about three quarters of a minute of the world's time.
const STEPS: usize = 200;

/// Every so many seeds all is mended at the end, which takes long.
const CALM_SEEDS: u64 = 8;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("it is a number"))
}

#[test]
fn every_promise_holds_whatever_goes_wrong() {
    if let Some(seed) = number("REPMD_SIMULATION_SEED") {
        let (story, broken) = play(seed, Rules::ALL);
        println!("{}", story.join("\n"));
        assert_eq!(broken, None);
        return;
    }
    let first = number("REPMD_SIMULATION_FIRST").unwrap_or(0);
    let end = first + number("REPMD_SIMULATION_SEEDS").unwrap_or(2000);
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let play_some = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if end <= seed {
                    return;
                }
                if let (story, Some(broken)) = play(seed, Rules::ALL) {
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

/// What the history shows when a rule is taken out.
fn shown_without(rules: Rules, promise: Promise) {
    let shown: Vec<_> = (0..100).flat_map(|seed| tell(seed, rules).2).collect();
    assert!(shown.iter().any(|broken| broken.promise == promise), "{rules:?} breaks only {shown:#?}");
}

/// A node that comes back on another port while its daemon is cut off once stood for a conflict of the daemon with
/// itself.
#[test]
fn a_store_that_takes_a_daemons_own_past_for_another_owner_is_found_out() {
    let rules = Rules { own_past: false, ..Rules::ALL };
    let broken: Vec<_> = (0..40).filter_map(|seed| tell(seed, rules).1).collect();
    assert!(broken.iter().any(|broken| broken.contains("nobody else has it")), "{broken:?}");
    shown_without(rules, Promise::NoConflictWithItself);
}

#[test]
fn a_store_that_takes_names_from_living_daemons_is_found_out() {
    shown_without(Rules { owner_test: false, ..Rules::ALL }, Promise::OneLease);
}

#[test]
fn a_store_whose_late_releases_end_the_next_life_is_found_out() {
    shown_without(Rules { token_test: false, ..Rules::ALL }, Promise::LeasesStay);
}

/// RabbitMQ that died together with its daemon once did not boot, because it found its own name in NAMES.
#[test]
fn a_daemon_that_lists_nodes_of_its_own_past_is_found_out() {
    shown_without(Rules { past_is_known: false, ..Rules::ALL }, Promise::NoGhosts);
}

#[test]
fn a_store_that_does_not_tell_all_changes_is_found_out() {
    shown_without(Rules { tells_changes: false, ..Rules::ALL }, Promise::ChangesAreEnough);
}

/// Seeds that have shown a fault of the daemon: a creation that came back. `REPMD_SIMULATION_SEED=4031 cargo test --test
/// simulation` tells the story.
const FOUND: [u64; 1] = [4031];

#[test]
fn what_was_found_once_stays_mended() {
    for seed in FOUND {
        assert_eq!(play(seed, Rules::ALL).1, None, "seed {seed}");
    }
}

#[test]
fn a_seed_always_takes_the_same_way() {
    for seed in [1, 2, 3] {
        assert_eq!(play(seed, Rules::ALL), play(seed, Rules::ALL));
    }
}

#[test]
fn each_kind_of_trouble_happens() {
    let stories: Vec<String> = (0..60).flat_map(|seed| play(seed, Rules::ALL).0).collect();
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
        "goes on with another program",
        "all is mended",
    ] {
        happened(what);
    }
}

/// Plays one seed: what happened, and the first promise that broke.
fn play(seed: u64, rules: Rules) -> (Vec<String>, Option<String>) {
    let (story, broken, shown) = tell(seed, rules);
    (story, broken.or_else(|| shown.first().map(ToString::to_string)))
}

/// Plays one seed: what happened, the promise that the world saw broken, and those that its history shows broken.
fn tell(seed: u64, rules: Rules) -> (Vec<String>, Option<String>, Vec<Broken>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let world = World::new(seed, rules);
        let mut dice = Dice::new(seed);
        let mut broken = None;
        for _ in 0..STEPS {
            let pause = if dice.chance(0.04) { dice.below(6000) } else { dice.below(300) };
            tokio::time::sleep(Duration::from_millis(pause)).await;
            world.step(&mut dice).await;
            broken = broken.or(world.check().await);
            if broken.is_some() && rules == Rules::ALL {
                break;
            }
        }
        if seed.is_multiple_of(CALM_SEEDS) {
            world.calm_down(&mut dice).await;
        }
        let shown = world.recorder.history().check();
        (world.story(), broken, shown)
    })
}
