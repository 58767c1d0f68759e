use super::*;
use crate::registry::What;
use repmd_backend_api::NodeName;

const ASKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A stage that is kept, and has had the time to begin.
async fn kept() -> Stage {
    let stage = Stage::new();
    stage.keep();
    sleep(TTL).await;
    stage
}

async fn tell(stage: &Stage, change: Change) {
    stage.store.tell(&change);
    sleep(MILLISECOND).await;
}

fn at(host_name: &str, text: &str) -> (AliveName, HostId) {
    (name(text), host(host_name))
}

fn is_known(stage: &Stage, question: &Question) -> bool {
    stage.registry.known(question).is_some()
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_name_makes_its_answers_wrong_by_each_name_of_its_host_and_no_others() {
    let changes = [Change::Registered, Change::Released, Change::Expired];
    for change in changes {
        let stage = kept().await;
        let there = Instance { aliases: vec![host("there.example")], ..daemon("there") };
        let there = stage.other(there).await;
        there.register("a", 1).await;
        there.register("b", 2).await;
        let of_a = [bare("a"), on("there", "a"), on("there.example", "a")];
        let of_others = [bare("b"), on("there", "b"), on("there.example", "b"), on("yonder", "a")];
        for question in of_a.iter().chain(&of_others) {
            stage.look_up(question).await;
        }
        let (name, host) = at("there", "a");
        tell(&stage, change(name, host)).await;
        for question in &of_a {
            assert!(!is_known(&stage, question), "{question}");
        }
        assert!(of_others.iter().all(|question| is_known(&stage, question)));
        stage.goes_away().await;
        for question in &of_a {
            assert_eq!(port(&stage.registry.known(question).unwrap()), None, "it was wrong: {question}");
        }
        assert_eq!(port(&stage.registry.known(&of_others[0]).unwrap()), Some(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_makes_the_lists_that_it_is_in_out_of_date_and_no_others() {
    let stage = kept().await;
    for (host_name, text) in [("there", "a"), ("yonder", "b")] {
        stage.holder(host_name, text, 1).await;
    }
    let (there, yonder) = (host("there"), host("yonder"));
    stage.registry.nodes(&there).await;
    stage.registry.nodes(&yonder).await;
    stage.registry.holders(&name("a"), ASKER).await.unwrap();
    stage.registry.holders(&name("b"), ASKER).await.unwrap();
    stage.registry.cluster().await;
    stage.registry.daemons().await.unwrap();
    let listed = stage.store.calls("list of all");
    tell(&stage, Change::Released(name("a"), there.clone())).await;
    assert!(stage.registry.known_nodes(&there).is_none());
    assert!(stage.registry.known_nodes(&yonder).is_some());
    assert!(stage.registry.known_holders(&name("a")).is_none());
    assert!(stage.registry.known_holders(&name("b")).is_some());
    assert!(stage.registry.known_daemons().is_some(), "its daemon is known");
    stage.registry.cluster().await;
    assert_eq!(stage.store.calls("list of all"), listed + 1);
    tell(&stage, Change::Registered(name("a"), host("elsewhere"))).await;
    assert!(stage.registry.known_daemons().is_none(), "there is a daemon that is not in the list");
}

#[tokio::test(start_paused = true)]
async fn changes_that_were_missed_make_all_that_is_remembered_out_of_date_and_it_still_serves() {
    for ends in [false, true] {
        let stage = kept().await;
        stage.holder("there", "a", 1).await;
        let there = host("there");
        stage.look_up(&bare("a")).await;
        stage.registry.nodes(&there).await;
        stage.registry.holders(&name("a"), ASKER).await.unwrap();
        stage.registry.cluster().await;
        stage.registry.daemons().await.unwrap();
        let listed = stage.store.calls("list of all");
        if ends {
            stage.store.ends_watches();
        } else {
            // In one step with others, and only that it comes again says nothing new.
            stage.store.tell(&Change::Released(name("b"), host("yonder")));
            stage.store.tell(&Change::Missed);
        }
        sleep(MILLISECOND).await;
        assert!(!is_known(&stage, &bare("a")));
        assert!(stage.registry.known_nodes(&there).is_none());
        assert!(stage.registry.known_holders(&name("a")).is_none());
        assert!(stage.registry.known_daemons().is_none());
        stage.registry.cluster().await;
        assert_eq!(stage.store.calls("list of all"), listed + 1);
        stage.goes_away().await;
        assert_eq!(port(&stage.registry.known(&bare("a")).unwrap()), Some(1));
        assert_eq!(stage.registry.known_nodes(&there).unwrap().len(), 1);
        assert!(stage.registry.known_daemons().unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_ends_a_watch_is_watched_again_after_a_second() {
    let stage = kept().await;
    let watchers = || stage.store.watchers.lock().unwrap().len();
    assert_eq!(watchers(), 1);
    stage.store.ends_watches();
    sleep(SECOND - MILLISECOND).await;
    assert_eq!(watchers(), 0);
    sleep(2 * MILLISECOND).await;
    assert_eq!(watchers(), 1);
}

#[tokio::test(start_paused = true)]
async fn operators_are_told_of_each_change() {
    let stage = kept().await;
    let seen = *stage.registry.events().newest().borrow();
    for change in [
        Change::Registered(name("a"), host("there")),
        Change::Released(name("a"), host("there")),
        Change::Expired(name("b"), host("there")),
        Change::Missed,
        Change::Missed,
    ] {
        stage.store.tell(&change);
    }
    sleep(MILLISECOND).await;
    stage.store.ends_watches();
    sleep(2 * SECOND).await;
    let events = stage.registry.events().since(seen).into_iter().map(|event| event.what);
    let node = |text| NodeName { alive: name(text), host: host("there") };
    let told = [
        What::Registered { node: node("a"), port: None },
        What::Released { node: node("a") },
        What::Expired { node: node("b") },
        What::Missed,
    ];
    assert_eq!(events.collect::<Vec<_>>(), told);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_watch_is_an_event() {
    let stage = kept().await;
    let seen = *stage.registry.events().newest().borrow();
    stage.store.ends_watches();
    sleep(MILLISECOND).await;
    let events = stage.registry.events().since(seen);
    assert!(events.iter().map(|event| &event.what).eq([&What::Missed]), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_of_this_host_that_somebody_else_registered_is_company_and_its_own_are_none() {
    let stage = kept().await;
    stage.register(1, "mine").await;
    let has_company = || stage.registry.identity.has_company();
    tell(&stage, Change::Registered(name("mine"), host("here"))).await;
    tell(&stage, Change::Registered(name("a"), host("there"))).await;
    tell(&stage, Change::Released(name("a"), host("here"))).await;
    assert!(!has_company());
    tell(&stage, Change::Registered(name("a"), host("here"))).await;
    assert!(has_company());
}
