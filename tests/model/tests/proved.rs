//! The model with all its rules breaks no promise, and with any one of them taken out it breaks one.

use std::thread::available_parallelism;

use repmd_lease_model::{Budget, Leases, Rules};
use stateright::{Checker, HasDiscoveries, Model};

/// Some hundred thousand states: seconds.
const SMALL: Budget =
    Budget { names: 1, starts: 2, restarts: 1, losses: 1, silences: 0, fail_overs: 1, renewals: 1 };

/// Millions: for when a rule changes.
const LARGE: Budget =
    Budget { names: 2, starts: 2, restarts: 1, losses: 1, silences: 1, fail_overs: 1, renewals: 1 };

/// Walks through the model, until it has seen all of it or what it is to find.
fn walk(budget: Budget, rules: Rules, until: HasDiscoveries) -> impl Checker<Leases> {
    let threads = available_parallelism().map_or(1, usize::from);
    Leases { budget, rules }.checker().threads(threads).finish_when(until).spawn_bfs().join()
}

fn holds_within(budget: Budget) {
    let checker = walk(budget, Rules::ALL, HasDiscoveries::Any);
    println!("{} states, {} steps deep: {budget:?}", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

fn breaks_without(rules: Rules, promise: &'static str) {
    let broken = walk(SMALL, rules, HasDiscoveries::AllOf([promise].into())).discoveries();
    assert!(broken.contains_key(promise), "{rules:?} breaks only {:?}", broken.keys());
}

#[test]
fn no_order_of_events_breaks_a_promise() {
    holds_within(SMALL);
}

/// `cargo test -p repmd-lease-model -- --ignored --nocapture`
#[test]
#[ignore = "minutes: for when a rule changes"]
fn no_order_of_more_events_on_two_names_breaks_a_promise() {
    holds_within(LARGE);
}

#[test]
fn without_the_test_of_tokens_a_late_release_ends_the_next_life() {
    breaks_without(Rules { token_test: false, ..Rules::ALL }, "a release ends no other life");
}

#[test]
fn without_the_test_of_owners_a_claim_takes_a_living_name() {
    let rules = Rules { owner_test: false, ..Rules::ALL };
    breaks_without(rules, "a claim takes no name from a living daemon's node");
}

#[test]
fn without_the_rule_of_the_own_past_a_node_is_in_conflict_with_itself() {
    let rules = Rules { own_past: false, ..Rules::ALL };
    breaks_without(rules, "no node is in conflict with its own past");
}

#[test]
fn without_the_clock_a_creation_comes_back_after_a_fail_over() {
    breaks_without(Rules { clock: false, ..Rules::ALL }, "no creation comes back");
}
