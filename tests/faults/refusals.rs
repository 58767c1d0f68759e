//! The store answers, and says no. Each is told once, leaves the host alone, and passes when it is mended.

use std::time::Instant;

use repmd_test_stores::Backing;

use crate::INTERVAL;
use crate::asker::Asker;
use crate::stage::{Plan, Stage};

/// Whom the daemon logs in as, and the rights that it needs.
const USER: &str = "ACL SETUSER repmd on >right ~repmd:{default}:* &repmd:{default}:* -@all \
                    +@read +@write +@scripting +@pubsub +time +hello";

/// The same of PostgreSQL: the role owns its database, and needs a password.
const ROLE: &str = "alter role repmd password 'right'";

/// A trouble, and how it shows.
pub(crate) struct Trouble<'a> {
    /// Brings it about.
    pub(crate) begin: &'a str,
    /// What the service manager shows of it.
    pub(crate) shows: &'a str,
    /// Mends it.
    pub(crate) mend: &'a str,
}

/// The trouble comes while the daemon runs, and then is there when another starts.
fn is_told_once_and_passes(trouble: &Trouble<'_>) {
    let stage = Stage::redis();
    stage.store.tell(USER);
    let url = stage.store.url_for("repmd:right@");
    is_told_once(&stage, &url, trouble);
}

fn is_told_once_of_postgres(trouble: &Trouble<'_>) {
    let stage = Stage::postgres();
    stage.store.tell(ROLE);
    stage.store.let_in("host all repmd all scram-sha-256\nhost all postgres all trust");
    is_told_once(&stage, &stage.store.url_for("repmd:right"), trouble);
}

/// The same for any store, whose login is in `url`.
pub(crate) fn is_told_once(stage: &Stage<impl Backing>, url: &str, trouble: &Trouble<'_>) {
    let plan = Plan::new(url, "a");
    let daemon = plan.start();
    let early = daemon.register("early", 1000);
    let other = Plan::new(url, "b").start();
    other.wait_until_it_finds("early@a", Some(1000));
    let asker = Asker::start(&daemon, "early", 1000);

    stage.store.tell(trouble.begin);
    let _late = daemon.register_within_a_second("late", 2000);
    daemon.wait_until_degraded(trouble.shows);
    let told = Instant::now();
    while told.elapsed() < 4 * INTERVAL {
        assert_eq!(daemon.find("late"), Some(2000));
        drop(daemon.register_within_a_second("passing", 3000));
        std::thread::sleep(INTERVAL / 10);
    }
    assert!(daemon.status().contains(trouble.shows), "{}", daemon.status());
    let (log, lines) = (daemon.log(), daemon.log().lines().count());
    let errors = daemon.logged(&["ERROR", trouble.shows]);
    // Once for each verb that is refused: register, renew, release and find.
    assert!((1..=4).contains(&errors), "{errors} of {lines} lines:\n{log}");
    assert_eq!(daemon.logged(&["the registry is away"]), 0, "it answers:\n{log}");
    // One that starts now serves too.
    let starting = Plan::new(url, "c").start();
    let _of_c = starting.register_within_a_second("n", 5000);
    starting.wait_until_degraded(trouble.shows);

    stage.store.tell(trouble.mend);
    for daemon in [&daemon, &starting] {
        daemon.wait_until_well();
    }
    for (name, port) in [("early@a", 1000), ("late@a", 2000), ("n@c", 5000)] {
        other.wait_until_it_finds(name, Some(port));
    }
    asker.was_undisturbed();
    drop(early);
}

#[test]
fn a_store_that_refuses_everything_is_not_asked_again_and_again() {
    let stage = Stage::redis();
    stage.store.tell(USER);
    stage.store.tell("ACL SETUSER repmd -evalsha -eval");
    let daemon = Plan::new(&stage.store.url_for("repmd:right@"), "a").start();
    let _node = daemon.register_within_a_second("n", 1000);
    daemon.wait_until_degraded("permissions");
    let (before, watched) = (daemon.cpu(), 3 * INTERVAL);
    std::thread::sleep(watched);
    let used = daemon.cpu() - before;
    assert!(used < watched / 10, "{used:?} of processor time in {watched:?}");
}

#[test]
fn a_store_that_is_full_is_told_once_and_harms_no_host() {
    is_told_once_and_passes(&Trouble {
        begin: "CONFIG SET maxmemory 1",
        shows: "OOM",
        mend: "CONFIG SET maxmemory 0",
    });
}

#[test]
fn a_store_that_became_a_read_only_replica_is_told_once_and_harms_no_host() {
    is_told_once_and_passes(&Trouble {
        begin: "REPLICAOF 127.0.0.1 1",
        shows: "read only replica",
        mend: "REPLICAOF NO ONE",
    });
}

#[test]
fn a_password_that_is_wrong_now_is_told_once_and_harms_no_host() {
    is_told_once_and_passes(&Trouble {
        // Redis asks nobody again who is in.
        begin: "ACL SETUSER repmd resetpass >changed; CLIENT KILL USER repmd",
        shows: "WRONGPASS",
        mend: "ACL SETUSER repmd resetpass >right",
    });
}

#[test]
fn something_else_under_our_keys_is_told_once_and_harms_no_host() {
    is_told_once_and_passes(&Trouble {
        begin: "DEL repmd:{default}:hosts; RPUSH repmd:{default}:hosts x",
        shows: "WRONGTYPE",
        mend: "DEL repmd:{default}:hosts",
    });
}

#[test]
fn a_right_that_was_taken_away_is_told_once_and_harms_no_host() {
    is_told_once_and_passes(&Trouble {
        begin: "ACL SETUSER repmd -@write",
        shows: "can't run this command",
        mend: "ACL SETUSER repmd +@write",
    });
}

/// Somebody has written something else where one registration would be: the others go on.
#[test]
fn an_entry_that_is_none_costs_its_own_name_alone() {
    let stage = Stage::redis();
    let (a, b) = (stage.host("a"), stage.host("b"));
    stage.store.tell("RPUSH repmd:{default}:node:a/odd x");
    let _nodes = a.register_some("n", 1000, 10);
    let _odd = a.register_within_a_second("odd", 2000);
    a.wait_until_degraded("odd");
    assert_eq!(a.find("odd"), Some(2000));
    assert!(b.finds_all("n", "a", 1000, 10));
    std::thread::sleep(3 * INTERVAL);
    assert!((1..=2).contains(&a.logged(&["odd@a", "read"])), "{}", a.log());
    assert!(b.finds_all("n", "a", 1000, 10));
    stage.store.tell("DEL repmd:{default}:node:a/odd");
    a.wait_until_well();
    b.wait_until_it_finds("odd@a", Some(2000));
}

#[test]
fn a_password_of_postgres_that_is_wrong_now_is_told_once_and_harms_no_host() {
    is_told_once_of_postgres(&Trouble {
        // Who is in is asked nothing again. A session that ends within its first second is no trouble that is waited for.
        begin: "select pg_sleep(1.1); alter role repmd password 'changed'; select pg_terminate_backend(pid) from pg_stat_activity where \
                usename = 'repmd'",
        shows: "password authentication failed",
        mend: "alter role repmd password 'right'",
    });
}

#[test]
fn a_right_in_postgres_that_was_taken_away_is_told_once_and_harms_no_host() {
    is_told_once_of_postgres(&Trouble {
        begin: "alter table repmd.daemons owner to postgres",
        shows: "permission denied for table daemons",
        mend: "alter table repmd.daemons owner to repmd",
    });
}

#[test]
fn a_postgres_that_became_read_only_is_told_once_and_harms_no_host() {
    is_told_once_of_postgres(&Trouble {
        begin: "select pg_sleep(1.1); alter role repmd set default_transaction_read_only = on; select pg_terminate_backend(pid) from \
                pg_stat_activity where usename = 'repmd'",
        shows: "is read-only",
        mend: "alter role repmd reset default_transaction_read_only",
    });
}
