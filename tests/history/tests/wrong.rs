//! Histories that are wrong in one way each, beside one that is right: the checker must say which, and no more.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::time::Duration;

use repmd_backend_api::{Creation, InstanceId, LeaseToken};
use repmd_history::{
    Answer, Bounds, Call, History, Mirrored, Outcome, Promise, Sight, Span, Tenure, Told, Trouble, Verb,
};

const NODE: &str = "n@a";

/// Tenths of a second.
const fn at(tenths: u64) -> Duration {
    Duration::from_millis(tenths * 100)
}

fn span(called: u64, returned: u64) -> Span {
    Span { called: at(called), returned: at(returned) }
}

fn creation(number: u32) -> Outcome {
    Outcome::Granted(Creation::new(number).unwrap())
}

fn empty() -> History {
    History::new(Bounds {
        ttl: at(30),
        interval: at(10),
        fresh: at(10),
        stale_for: at(30),
        deadline: at(5),
        renewing: at(20),
        settle: at(16),
        slack: at(1),
        has_tables: true,
    })
}

/// Daemons 0 and 1 serve the host `a`.
fn tenure(daemon: usize, port: u16, asked: Span, outcome: Outcome, ended: Option<Span>) -> Tenure {
    Tenure { node: NODE.into(), daemon, port, asked, outcome, ended }
}

fn answer(asker: usize, asked: Span, port: Option<u16>) -> Answer {
    Answer { asker, asked, told: Told::Port(NODE.into(), port) }
}

fn call(verb: Verb, run: u128, number: u64, asked: Span, is_done: Option<bool>) -> Call {
    let token = LeaseToken { instance: InstanceId(run), number };
    Call { verb, node: NODE.into(), token, daemon: usize::try_from(run).unwrap(), asked, is_done }
}

/// A node on port 1 from 0 s, killed at 100 s; the next one on port 2 from 110 s.
fn two_lives() -> History {
    let mut history = empty();
    history.tenures = vec![
        tenure(0, 1, span(0, 1), creation(10), Some(span(1000, 1001))),
        tenure(0, 2, span(1100, 1101), creation(11), None),
    ];
    history.died = BTreeMap::from([(1, at(1000))]);
    history.answers = vec![
        answer(0, span(500, 501), Some(1)),
        answer(2, span(500, 501), Some(1)),
        answer(2, span(1010, 1011), Some(1)),
        answer(2, span(1050, 1051), None),
        answer(2, span(1200, 1201), Some(2)),
    ];
    history.calls = vec![
        call(Verb::Hold, 0, 1, span(0, 1), Some(true)),
        call(Verb::Hold, 0, 1, span(990, 991), Some(true)),
        call(Verb::Release, 0, 1, span(1000, 1001), Some(true)),
        call(Verb::Hold, 0, 2, span(1100, 1101), Some(true)),
    ];
    history.sights = vec![
        Sight { node: NODE.into(), asked: span(1050, 1051), holder: None },
        Sight { node: NODE.into(), asked: span(1110, 1111), holder: Some(2) },
    ];
    history.calm_since = Some(at(1110));
    history
}

fn shown(history: &History) -> Vec<Promise> {
    history.check().into_iter().map(|broken| broken.promise).collect()
}

#[test]
fn a_history_that_can_be_true_is_not_objected_to() {
    assert_eq!(two_lives().check(), []);
    assert_eq!(empty().check(), []);
}

#[test]
fn a_creation_that_comes_back_is_shown() {
    let mut history = two_lives();
    history.tenures[1].outcome = creation(10);
    assert_eq!(shown(&history), [Promise::CreationsDiffer]);
}

#[test]
fn two_nodes_of_one_name_with_one_daemon_are_shown() {
    let mut history = two_lives();
    history.tenures[0].ended = None;
    history.died.clear();
    history.answers.clear();
    assert_eq!(shown(&history), [Promise::OneHolderADaemon]);
    // One that may have ended before the other began.
    history.tenures[0].ended = Some(span(1100, 1105));
    assert_eq!(shown(&history), []);
}

#[test]
fn a_name_that_another_daemon_is_given_is_shown_where_the_store_could_know() {
    let mut history = two_lives();
    history.tenures[0].ended = None;
    history.tenures[1].daemon = 1;
    history.died.clear();
    history.answers.clear();
    history.calls.clear();
    history.sights.clear();
    assert_eq!(shown(&history), [Promise::OneHolderAHost]);
    let mut cut_off = history.clone();
    cut_off.troubles =
        vec![Trouble { daemon: Some(0), from: at(900), until: Some(at(1090)), is_late: false }];
    assert_eq!(shown(&cut_off), []);
    let mut hidden = history.clone();
    hidden.hidden = vec![(NODE.into(), at(1100))];
    assert_eq!(shown(&hidden), []);
    let mut empty_again = history.clone();
    empty_again.losses = vec![at(1095)];
    assert_eq!(shown(&empty_again), []);
    history.tenures[1].outcome = Outcome::Granted(Creation::offline(Duration::from_secs(1_800_000_000), 7));
    assert_eq!(shown(&history), []);
}

#[test]
fn a_refusal_of_a_name_that_nobody_has_is_shown() {
    let mut history = two_lives();
    history.tenures.push(tenure(1, 3, span(1060, 1061), Outcome::Refused, None));
    // The lease of the first may have lasted until then, but for a daemon that is well it does not matter.
    assert_eq!(shown(&history), [Promise::RefusedForAReason]);
    history.tenures[2].asked = span(1200, 1201);
    assert_eq!(shown(&history), []);
}

#[test]
fn a_port_that_none_of_the_nodes_has_is_shown() {
    let mut history = two_lives();
    history.answers.push(answer(2, span(500, 501), Some(7)));
    // One that was not asked for yet.
    history.answers.push(answer(2, span(510, 511), Some(2)));
    assert_eq!(shown(&history), [Promise::RightPort, Promise::RightPort]);
}

#[test]
fn an_answer_is_shown_that_is_older_than_it_may_be() {
    let old = |asker, called, troubles: &[Trouble]| {
        let mut history = two_lives();
        history.answers.push(answer(asker, span(called, called + 1), Some(1)));
        history.troubles = troubles.to_vec();
        history.calls.clear();
        history.sights.clear();
        shown(&history).contains(&Promise::NoOlder)
    };
    let trouble =
        |daemon, from, until, is_late| Trouble { daemon, from: at(from), until: Some(at(until)), is_late };
    // The daemon itself: at once.
    assert!(!old(0, 1001, &[]) && old(0, 1002, &[]));
    // Others: once the store was told, and they ask it again.
    assert!(!old(2, 1016, &[]) && old(2, 1017, &[]));
    // The store was not told: one lease after a renewal that was under way.
    let untold = trouble(Some(0), 995, 1200, false);
    assert!(!old(2, 1051, &[untold]) && old(2, 1052, &[untold]));
    // The asker cannot ask: the same, and as long as it vouches for what it knows.
    let deaf = trouble(Some(2), 990, 1200, false);
    assert!(!old(2, 1081, &[deaf]) && old(2, 1082, &[deaf]));
    // A renewal of before that the store carries out late.
    let late = trouble(Some(0), 995, 1010, true);
    assert!(!old(2, 1061, &[late]) && old(2, 1062, &[late]));
}

#[test]
fn a_node_that_is_there_and_not_found_is_shown() {
    let mut history = two_lives();
    history.answers.push(answer(0, span(1102, 1103), None));
    history.answers.push(answer(2, span(700, 701), None));
    assert_eq!(shown(&history), [Promise::FoundOnceThere; 2]);
    history.answers.truncate(5);
    // Who cannot ask knows nothing.
    history.answers.push(answer(2, span(700, 701), None));
    history.troubles = vec![Trouble { daemon: None, from: at(690), until: Some(at(710)), is_late: false }];
    assert_eq!(shown(&history), []);
}

#[test]
fn a_ghost_in_a_list_is_shown() {
    let mut history = two_lives();
    let names = |asked| Answer { asker: 0, asked, told: Told::Names(vec![(NODE.into(), 1)]) };
    history.answers.push(names(span(999, 1000)));
    assert_eq!(shown(&history), []);
    history.answers.push(names(span(1003, 1004)));
    assert_eq!(shown(&history), [Promise::NoGhosts]);
}

#[test]
fn a_lease_that_is_given_away_while_its_holder_counts_as_alive_is_shown() {
    let mut history = two_lives();
    history.calls.push(call(Verb::Hold, 1, 1, span(1115, 1116), Some(true)));
    assert_eq!(shown(&history), [Promise::OneLease]);
    // Two intervals after its last sign of life.
    history.calls[4].asked = span(1119, 1120);
    assert_eq!(shown(&history), []);
    history.calls[4].asked = span(1115, 1116);
    history.calls.insert(4, call(Verb::Release, 0, 2, span(1110, 1115), None));
    assert_eq!(shown(&history), []);
}

#[test]
fn a_lease_that_is_not_there_any_more_is_shown() {
    let mut history = two_lives();
    history.sights.push(Sight { node: NODE.into(), asked: span(1110, 1112), holder: None });
    assert_eq!(shown(&history), [Promise::LeasesStay]);
    history.sights[2].asked = span(1129, 1131);
    assert_eq!(shown(&history), []);
}

#[test]
fn a_conflict_with_ones_own_past_is_shown() {
    let mut history = two_lives();
    history.calls.push(call(Verb::Hold, 0, 2, span(1105, 1106), Some(false)));
    assert_eq!(shown(&history), [Promise::NoConflictWithItself]);
    // Another may have had it: nobody knows.
    history.calls.insert(4, call(Verb::Hold, 1, 1, span(1102, 1103), None));
    assert_eq!(shown(&history), []);
}

#[test]
fn a_mirror_that_is_not_the_list_is_shown() {
    let mut history = two_lives();
    let list = BTreeMap::from([(NODE.to_owned(), 2)]);
    history.mirrored.push(Mirrored { at: at(1200), mirror: list.clone(), list: list.clone() });
    assert_eq!(shown(&history), []);
    history.mirrored.push(Mirrored { at: at(1300), mirror: BTreeMap::new(), list });
    assert_eq!(shown(&history), [Promise::ChangesAreEnough]);
}

#[test]
fn daemons_that_do_not_agree_in_the_end_are_shown() {
    let mut history = two_lives();
    history.tenures[1].ended = Some(span(1105, 1105));
    history.died.insert(2, at(1105));
    history.answers.truncate(4);
    for (asker, port) in [(2, None), (3, None)] {
        history.answers.push(answer(asker, span(1170, 1171), port));
    }
    assert_eq!(shown(&history), []);
    history.answers[5].told = Told::Port(NODE.into(), Some(2));
    assert!(shown(&history).contains(&Promise::AllAgree));
    // The calm is over when a node ends.
    let mut ends = history.clone();
    ends.tenures.push(tenure(2, 9, span(0, 1), creation(12), Some(span(1170, 1170))));
    ends.tenures[2].node = "other@c".into();
    assert!(!shown(&ends).contains(&Promise::AllAgree));
    history.answers[5].asked = span(1160, 1161);
    assert!(!shown(&history).contains(&Promise::AllAgree));
}
