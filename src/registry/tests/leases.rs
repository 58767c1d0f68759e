use super::*;
use crate::registry::leases::Leases;
use crate::registry::{Events, LeaseCounts, State, What};
use repmd_backend_api::{Creation, Registration, Renewal, Renewed};

fn leases() -> (Leases, Arc<Events>) {
    let started = Instant::now();
    let events = Arc::new(Events::new(Arc::new(move || EPOCH + started.elapsed())));
    (Leases::new(Arc::clone(&events)), events)
}

fn lease(number: u64, text: &str) -> Lease {
    let me = Arc::new(daemon("here"));
    let registered_at = std::time::SystemTime::UNIX_EPOCH;
    let claim = Claim { number, node: node(text, 1), advertised_port: 1, registered_at, last: None };
    claim.granted(me, Creation::FIRST)
}

fn states(leases: &Leases) -> Vec<State> {
    leases.all().into_iter().map(|held| held.state).collect()
}

fn renewed(lease: &Lease, renewal: Renewal) -> Vec<Renewed> {
    vec![Renewed { lease: lease.clone(), renewal }]
}

#[tokio::test(start_paused = true)]
async fn leases_are_held_oldest_first_until_they_are_let_go() {
    let (leases, _) = leases();
    let [a, b] = [lease(2, "a"), lease(1, "b")];
    leases.hold(a.clone(), true);
    leases.hold(b.clone(), false);
    assert_eq!((leases.numbers(), leases.unpublished()), (vec![1, 2], vec![1]));
    assert_eq!(states(&leases), [State::Unpublished, State::Published]);
    assert_eq!((leases.get(2), leases.get(3)), (Some(a.clone()), None));
    assert_eq!(["a", "b", "c"].map(|text| leases.has(&name(text))), [true, true, false]);
    let moved = Arc::new(Instance { addresses: Vec::new(), ..(*a.registration.instance).clone() });
    leases.hold_as(&moved);
    let now = leases.get(2).unwrap();
    assert_eq!(*now.registration, Registration { instance: moved, ..(*a.registration).clone() });
    leases.let_go(&a);
    assert_eq!((leases.numbers(), leases.has(&name("a"))), (vec![1], false));
}

#[tokio::test(start_paused = true)]
async fn operators_are_told_what_is_not_published_and_why() {
    let (leases, _) = leases();
    let all = ["a", "b", "c", "d", "e"].map(|text| lease(u64::from(text.as_bytes()[0]), text));
    for lease in &all {
        leases.hold(lease.clone(), lease.registration.node.name.as_str() == "a");
    }
    let conflict = Renewal::Conflict { holder: "another".to_owned() };
    assert_eq!(leases.note(renewed(&all[1], conflict), Instant::now()), []);
    let failed = Renewal::Failed { reason: "no".to_owned() };
    assert_eq!(leases.note(renewed(&all[2], failed), Instant::now()), []);
    assert_eq!(leases.counts(), LeaseCounts { all: 5, unpublished: 2, conflict: 1, failed: 1 });
    let complaints =
        ["b@here is also held by another", "c@here cannot be published: no", "2 names are not published"];
    assert_eq!(leases.complaints(), complaints);
    for lease in &all {
        leases.note(renewed(lease, Renewal::Held), Instant::now());
    }
    assert_eq!((leases.complaints().len(), leases.counts().all), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_an_event_once_and_again_after_it_was_over() {
    let (leases, events) = leases();
    let held = lease(1, "a");
    leases.hold(held.clone(), true);
    let seen = *events.newest().borrow();
    let conflicts = || {
        let told = events.since(seen).into_iter().map(|event| event.what).collect::<Vec<_>>();
        let (node, holder) = (held.registration.node_name(), "another".to_owned());
        let conflict = What::Conflict { node, holder };
        assert!(told.iter().all(|what| *what == conflict), "{told:?}");
        told.len()
    };
    let mut counts = Vec::new();
    let conflict = || Renewal::Conflict { holder: "another".to_owned() };
    for renewal in [conflict(), conflict(), Renewal::Held, Renewal::Held, conflict()] {
        sleep(TTL).await;
        leases.note(renewed(&held, renewal), Instant::now());
        counts.push(conflicts());
    }
    assert_eq!(counts, [1, 1, 1, 1, 2]);
    leases.note(renewed(&held, Renewal::Held), Instant::now());
    sleep(TTL).await;
    leases.end_those_that_ran_out(TTL);
    leases.note(renewed(&held, conflict()), Instant::now());
    assert_eq!(conflicts(), 3, "it ran out, and another has it");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_as_of_the_question_and_one_that_was_let_go_meanwhile_is_told() {
    let (leases, _) = leases();
    let [held, gone] = [lease(1, "a"), lease(2, "b")];
    leases.hold(held.clone(), false);
    let asked = Instant::now();
    sleep(SECOND).await;
    let both = [renewed(&held, Renewal::Held), renewed(&gone, Renewal::Held)].concat();
    assert_eq!(leases.note(both, asked), [gone]);
    assert_eq!((leases.all()[0].renewed, states(&leases)), (Some(asked), vec![State::Published]));
    leases.note(renewed(&held, Renewal::Failed { reason: "no".to_owned() }), Instant::now());
    assert_eq!(leases.all()[0].renewed, Some(asked));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_not_renewed_for_a_ttl_has_run_out() {
    let (leases, _) = leases();
    let [held, failed, new] = [lease(1, "a"), lease(2, "b"), lease(3, "c")];
    leases.hold(held, true);
    leases.hold(failed.clone(), true);
    leases.note(renewed(&failed, Renewal::Failed { reason: "no".to_owned() }), Instant::now());
    sleep(TTL - MILLISECOND).await;
    leases.hold(new, true);
    let is_failed = State::Failed { reason: "no".to_owned() };
    leases.end_those_that_ran_out(TTL);
    assert_eq!(states(&leases), [State::Published, is_failed.clone(), State::Published]);
    sleep(MILLISECOND).await;
    leases.end_those_that_ran_out(TTL);
    assert_eq!(states(&leases), [State::Unpublished, is_failed, State::Published]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_goes_over_to_the_next_program_with_the_time_since_its_renewal() {
    let (leases, _) = leases();
    sleep(SECOND).await;
    leases.resume(lease(1, "a"), Some(SECOND));
    leases.resume(lease(2, "b"), None);
    let renewed: Vec<_> = leases.all().into_iter().map(|held| held.renewed).collect();
    assert_eq!(renewed, [Some(Instant::now() - SECOND), None]);
    assert_eq!(states(&leases), [State::Published, State::Unpublished]);
}
