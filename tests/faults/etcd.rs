//! The same faults, and some of its own, with etcd.

use std::time::{Duration, Instant};

use repmd_test_stores::{Etcd, EtcdKind, Release};

use crate::asker::Asker;
use crate::refusals::{Trouble, is_told_once};
use crate::stage::Stage;
use crate::{INTERVAL, SLACK, SOON, TTL, away};

#[test]
fn etcd_killed_and_started_empty_disturbs_no_host_and_has_all_names_back_within_one_interval() {
    away::killed_and_started_empty(Stage::etcd());
}

#[test]
fn etcd_stalled_for_30_s_disturbs_no_host_and_no_node_that_boots() {
    away::stalled_for_30_s(Stage::etcd());
}

#[test]
fn a_daemon_starts_without_its_etcd_serves_and_publishes_when_it_comes() {
    away::comes_later(Stage::etcd());
}

#[test]
fn an_etcd_that_takes_connections_and_never_answers_is_as_one_that_is_not_there() {
    away::is_silent_first(Stage::etcd());
}

/// How long members take to miss their leader, and to elect another.
const ELECTION: Duration = Duration::from_secs(4);

#[test]
fn a_leader_of_etcd_that_is_killed_refuses_no_node_and_costs_no_name() {
    let mut stage = Stage::new(Etcd::three);
    let (a, b) = (stage.host("a"), stage.host("b"));
    let _nodes = a.register_some("n", 1000, 20);
    b.wait_until_it_finds("n19@a", Some(1019));
    let asker = Asker::start(&a, "n7", 1007);
    stage.store.kill_member(stage.store.leader());
    let lost = Instant::now();
    let late = a.register_within_a_second("late", 2000);
    while lost.elapsed() < ELECTION {
        drop(b.register_within_a_second("passing", 3000));
        std::thread::sleep(INTERVAL / 10);
    }
    b.wait_until_it_finds("late@a", Some(2000));
    assert!(lost.elapsed() < ELECTION + INTERVAL + 2 * SLACK, "{:?}", lost.elapsed());
    assert!(b.finds_all("n", "a", 1000, 20));
    [&a, &b].into_iter().for_each(crate::stage::Host::wait_until_well);
    asker.was_undisturbed();
    drop(late);
    b.wait_until_it_finds("late@a", None);
    for host in [&a, &b] {
        assert_eq!(host.logged(&["conflict"]), 0, "{}", host.log());
    }
}

#[test]
fn etcd_without_a_quorum_is_away_and_lets_no_name_run_out() {
    let mut stage = Stage::new(Etcd::three);
    let (a, b) = (stage.host("a"), stage.host("b"));
    let _nodes = a.register_some("n", 1000, 5);
    b.wait_until_it_finds("n4@a", Some(1004));
    let leader = stage.store.leader();
    stage.store.kill_member(leader);
    stage.store.kill_member((leader + 1) % 3);
    let lost = Instant::now();
    let _late = a.register_within_a_second("late", 2000);
    for host in [&a, &b] {
        host.wait_until_degraded("the registry is away");
    }
    assert_eq!(a.find("late"), Some(2000));
    // What was known is answered for as long as a lease lasts, and not for ever.
    b.wait_until_it_finds("n4@a", None);
    while lost.elapsed() < 2 * TTL {
        drop(a.register_within_a_second("passing", 3000));
        std::thread::sleep(INTERVAL / 10);
    }
    stage.store.revive();
    b.wait_until_it_finds("late@a", Some(2000));
    assert!(b.finds_all("n", "a", 1000, 5));
    a.wait_until_well();
    assert_eq!(a.logged(&["conflict"]), 0, "{}", a.log());
}

#[test]
fn a_restored_backup_of_etcd_is_whole_within_one_interval() {
    let mut stage = Stage::etcd();
    let (a, b) = (stage.host("a"), stage.host("b"));
    let _kept = a.register_some("kept", 1000, 5);
    let gone = a.register("gone", 2000);
    b.wait_until_it_finds("gone@a", Some(2000));
    let backup = stage.store.back_up();
    drop(gone);
    let _new = a.register_some("new", 3000, 5);
    b.wait_until_it_finds("gone@a", None);
    stage.store.restore(&backup);
    let restored = Instant::now();
    while !(b.finds_all("kept", "a", 1000, 5)
        && b.finds_all("new", "a", 3000, 5)
        && b.find("gone@a").is_none())
    {
        assert!(restored.elapsed() < INTERVAL + 3 * SLACK, "not all is back:\n{}", a.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(INTERVAL);
    assert_eq!(b.find("gone@a"), None);
    a.wait_until_well();
}

fn is_told_with_logins(trouble: &Trouble<'_>) {
    let stage = Stage::etcd();
    // A user with the rights that docs/security.md gives it, and nobody without a login.
    stage.store.ask_for_logins(&[["repmd", "right", "repmd/default/"]]);
    let url = stage.store.url_for("repmd:right@");
    is_told_once(&stage, &url, trouble);
}

#[test]
fn a_password_that_etcd_no_longer_takes_is_told_once_and_harms_no_host() {
    is_told_with_logins(&Trouble {
        begin: "user delete repmd; user add repmd:changed; user grant-role repmd repmd",
        shows: "invalid user ID or password",
        mend: "user delete repmd; user add repmd:right; user grant-role repmd repmd",
    });
}

#[test]
fn a_right_in_etcd_that_was_taken_away_is_told_once_and_harms_no_host() {
    is_told_with_logins(&Trouble {
        begin: "role revoke-permission --prefix=true repmd repmd/default/",
        shows: "permission denied",
        mend: "role grant-permission --prefix=true repmd readwrite repmd/default/",
    });
}

#[test]
fn an_etcd_that_is_full_is_told_and_harms_no_host() {
    let stage = Stage::new(|| {
        Etcd::start(EtcdKind::Alone, Release::InstalledEtcd, &["--quota-backend-bytes", "300000"])
    });
    let (a, b) = (stage.host("a"), stage.host("b"));
    let _early = a.register("early", 1000);
    b.wait_until_it_finds("early@a", Some(1000));
    let asker = Asker::start(&a, "early", 1000);
    stage.store.fill();
    let _late = a.register_within_a_second("late", 2000);
    a.wait_until_degraded("space");
    std::thread::sleep(2 * TTL);
    // What is there is kept: that takes no space.
    assert_eq!((a.find("late"), b.find("early@a")), (Some(2000), Some(1000)));
    assert_eq!(b.find("late@a"), None);
    stage.store.make_room();
    b.wait_until_it_finds("late@a", Some(2000));
    a.wait_until_well();
    asker.was_undisturbed();
}

#[test]
fn something_else_under_the_key_of_one_name_in_etcd_costs_that_name_alone() {
    let stage = Stage::etcd();
    let (a, b) = (stage.host("a"), stage.host("b"));
    stage.store.tell(&["put", "repmd/default/node/odd/a", "x"]);
    let _nodes = a.register_some("n", 1000, 10);
    let _odd = a.register_within_a_second("odd", 2000);
    a.wait_until_degraded("odd");
    assert_eq!(a.find("odd"), Some(2000));
    std::thread::sleep(3 * INTERVAL);
    assert!((1..=2).contains(&a.logged(&["ERROR", "odd@a"])), "{}", a.log());
    assert!(b.finds_all("n", "a", 1000, 10));
    stage.store.tell(&["del", "repmd/default/node/odd/a"]);
    a.wait_until_well();
    b.wait_until_it_finds("odd@a", Some(2000));
}

/// Leases of etcd are not by the clocks of daemons either.
#[test]
fn a_daemon_that_is_killed_on_etcd_leaves_its_names_for_no_longer_than_their_lease() {
    let stage = Stage::etcd();
    let (a, b) = (stage.host("a"), stage.host("b"));
    let _node = a.register("n", 1000);
    b.wait_until_it_finds("n@a", Some(1000));
    a.kill();
    let killed = Instant::now();
    b.wait_until_it_finds("n@a", None);
    assert!(killed.elapsed() < TTL + 2 * SLACK && killed.elapsed() < SOON, "{:?}", killed.elapsed());
}
