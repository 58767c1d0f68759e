use super::*;
use crate::registry::me::Me;
use crate::registry::question::{Choice, choose};
use repmd_backend_api::{Creation, Seen};

#[test]
fn a_name_means_a_node_a_node_of_a_host_or_a_hosts_daemon() {
    let rows = [
        ("a", Some(bare("a"))),
        ("a@there", Some(on("there", "a"))),
        ("a@b@there", Some(on("there", "a@b"))),
        ("@there", Some(Question::Daemon(host("there")))),
        ("a@", Some(bare("a@"))),
        ("", None),
    ];
    for (text, question) in rows {
        assert_eq!(Question::parse(text), question, "{text}");
        assert!(question.is_none_or(|question| question.to_string() == text));
    }
}

/// What is chosen among the nodes of these daemons, and so many that cannot be read. A host, or what else it is.
fn chosen(question: &Question, me: &Arc<Instance>, holders: &[&Arc<Instance>], unreadable: usize) -> String {
    let claim = |number| Claim {
        number,
        node: node("a", 1),
        advertised_port: 1,
        registered_at: std::time::SystemTime::UNIX_EPOCH,
        last: None,
    };
    let leases =
        (0..).zip(holders).map(|(number, holder)| claim(number).granted(Arc::clone(holder), Creation::FIRST));
    let found = leases.map(|lease| Found { registration: lease.registration, left: None });
    let seen = Seen { unreadable, ..Seen::from(found.collect::<Vec<_>>()) };
    match choose(question, &seen, &Me::new(Arc::clone(me))) {
        Choice::One(found) => found.registration.instance.host.to_string(),
        Choice::None => "none".to_owned(),
        Choice::Several(nodes) => format!("{} of several", nodes.len()),
        Choice::Unknown => "unknown".to_owned(),
    }
}

#[test]
fn the_node_of_the_host_that_is_meant_goes_before_others_and_the_only_one_elsewhere_is_meant() {
    let [me, there, yonder] = ["here", "there", "yonder"].map(|host| Arc::new(daemon(host)));
    let beside = Arc::new(Instance::new("here:5000", host("here")));
    let a = bare("a");
    assert_eq!(chosen(&a, &me, &[], 0), "none");
    assert_eq!(chosen(&a, &me, &[&me], 0), "none", "its own table knows better");
    assert_eq!(chosen(&a, &me, &[&there], 0), "there");
    assert_eq!(chosen(&a, &me, &[&there, &me], 0), "there");
    assert_eq!(chosen(&a, &me, &[&there, &yonder], 0), "2 of several");
    assert_eq!(chosen(&a, &me, &[&there, &yonder, &beside], 0), "here");
    assert_eq!(chosen(&on("yonder", "a"), &me, &[&there, &yonder], 0), "yonder");
    assert_eq!(chosen(&on("an.alias", "a"), &me, &[&there], 0), "there");
    assert_eq!(chosen(&on("an.alias", "a"), &me, &[&there, &yonder], 0), "2 of several");
}

#[test]
fn a_node_that_cannot_be_read_is_a_candidate_like_others() {
    let [me, there] = ["here", "there"].map(|host| Arc::new(daemon(host)));
    assert_eq!(chosen(&bare("a"), &me, &[], 1), "unknown");
    assert_eq!(chosen(&bare("a"), &me, &[&me], 1), "unknown");
    assert_eq!(chosen(&bare("a"), &me, &[&there], 1), "1 of several");
    assert_eq!(chosen(&on("there", "a"), &me, &[&there], 1), "there");
}
