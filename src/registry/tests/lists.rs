use super::*;
use crate::registry::NobodyKnows;
use repmd_backend_api::InstanceId;

const ASKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// The daemon as it was before it started again.
fn earlier() -> Instance {
    Instance { id: InstanceId::random(), ..daemon("here") }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_a_host_has_what_other_daemons_hold_newest_first_and_by_name_within_a_moment() {
    let stage = Stage::new();
    stage.register(1, "mine").await;
    stage.other(earlier()).await.register("former", 1).await;
    // The first claims of each are of one moment.
    let [five, six] = ["here:5000", "here:6000"];
    let five = stage.other(Instance { name: five.to_owned(), ..daemon("here") }).await;
    let six = stage.other(Instance { name: six.to_owned(), ..daemon("here") }).await;
    for (holder, name) in [(&five, "z"), (&six, "a"), (&five, "n"), (&six, "m")] {
        holder.register(name, 1).await;
    }
    stage.holder("there", "elsewhere", 1).await;
    let here = host("here");
    assert!(stage.registry.known_nodes(&here).is_none());
    assert_eq!(names(&stage.registry.nodes(&here).await), ["m@here", "n@here", "a@here", "z@here"]);
    let cluster = names(&stage.registry.cluster().await.nodes);
    assert_eq!(cluster, ["a@here", "former@here", "m@here", "n@here", "z@here", "elsewhere@there"]);
}

#[tokio::test(start_paused = true)]
async fn lists_are_known_for_a_second() {
    let stage = Stage::new();
    let (there, of_there) = (stage.other(daemon("there")).await, host("there"));
    let counts = async || {
        let nodes = stage.registry.nodes(&of_there).await.len();
        let holders = stage.registry.holders(&name("a"), ASKER).await.unwrap().len();
        (nodes, holders, stage.registry.cluster().await.nodes.len())
    };
    assert_eq!(counts().await, (0, 0, 0));
    there.register("a", 1).await;
    sleep(SECOND - MILLISECOND).await;
    assert_eq!(counts().await, (0, 0, 0));
    assert!(stage.registry.known_nodes(&of_there).is_some());
    assert!(stage.registry.known_holders(&name("a")).is_some());
    sleep(MILLISECOND).await;
    assert!(stage.registry.known_nodes(&of_there).is_none());
    assert!(stage.registry.known_holders(&name("a")).is_none());
    assert_eq!(counts().await, (1, 1, 1));
    let calls = ["list of there", "list of all", "find a near here, 1024 of them"];
    assert_eq!(calls.map(|call| stage.store.calls(call)), [2; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_the_cluster_may_take_long_and_says_nothing_of_the_stores_health() {
    let stage = Stage::new();
    stage.holder("there", "a", 1).await;
    stage.store.is("list", Fault::Late(8 * DEADLINE - MILLISECOND));
    let asked = Instant::now();
    let cluster = stage.registry.cluster().await;
    assert_eq!((cluster.nodes.len(), cluster.asked, cluster.is_stale), (1, Some(asked), false));
    assert_eq!(stage.registry.cluster().await.asked, Some(asked), "what takes so long rests");
    sleep(5 * SECOND).await;
    stage.store.is("list", Fault::Late(9 * DEADLINE));
    let cluster = stage.registry.cluster().await;
    assert_eq!((cluster.nodes.len(), cluster.asked, cluster.is_stale), (1, Some(asked), true));
    assert_eq!(stage.registry.away(), None);
    stage.goes_away().await;
    let cluster = stage.registry.cluster().await;
    assert_eq!((cluster.nodes.len(), cluster.asked, cluster.is_stale), (1, Some(asked), true));
    assert_eq!(stage.store.calls("list of all"), 2, "it is not asked while it is away");
}

#[tokio::test(start_paused = true)]
async fn a_fresh_list_of_the_cluster_may_be_out_of_date_if_the_store_went_away_since() {
    let stage = Stage::new();
    assert!(!stage.registry.cluster().await.is_stale);
    stage.goes_away().await;
    assert!(stage.registry.cluster().await.is_stale);
    let never = Stage::new();
    never.goes_away().await;
    let cluster = never.registry.cluster().await;
    assert_eq!((cluster.nodes.len(), cluster.asked, cluster.is_stale), (0, None, true));
}

#[tokio::test(start_paused = true)]
async fn nobody_who_has_time_asks_a_slow_store_for_the_cluster() {
    let stage = Stage::new();
    stage.holder("there", "a", 1).await;
    let nodes = async || stage.registry.cluster_at_leisure().await.len();
    stage.store.is("", Fault::Late(DEADLINE - MILLISECOND));
    stage.is_reached().await;
    assert_eq!((nodes().await, stage.store.calls("list of all")), (0, 0));
    stage.store.heals();
    stage.is_reached().await;
    assert_eq!(nodes().await, 1);
    sleep(SECOND).await;
    stage.store.is("", Fault::Late(DEADLINE - MILLISECOND));
    stage.is_reached().await;
    assert_eq!((nodes().await, stage.store.calls("list of all")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_a_list_has_what_may_live() {
    let stage = Stage::of(Lookup::Cluster, Some(2 * SECOND));
    let there = stage.other(daemon("there")).await;
    there.register("a", 1).await;
    sleep(10 * SECOND).await;
    let (_yonder, b) = stage.holder("yonder", "a", 1).await;
    there.register("b", 1).await;
    assert_eq!(stage.registry.nodes(&host("there")).await.len(), 2);
    assert_eq!(stage.registry.holders(&name("a"), ASKER).await.unwrap().len(), 2);
    let known = || {
        let holders = stage.registry.known_holders(&name("a")).expect("it is known at once");
        let nodes = stage.registry.known_nodes(&host("there")).expect("it is known at once");
        (names(&nodes), holders.map(|holders| names(&holders)))
    };
    sleep(SECOND).await;
    stage.goes_away().await;
    assert_eq!(known().0, ["b@there", "a@there"]);
    assert_eq!(known().1.unwrap().len(), 2);
    // It is found back for a moment by others, and asked for nothing of this.
    for _ in 0..6 {
        stage.store.heals();
        stage.is_reached().await;
        stage.goes_away().await;
        sleep(SECOND).await;
    }
    // The leases of ten seconds before ended two seconds ago.
    assert_eq!(known(), (vec!["b@there".to_owned()], Ok(vec![b.registration.node_name().to_string()])));
    sleep(SECOND).await;
    assert_eq!(known(), (Vec::new(), Err(NobodyKnows)));
    assert_eq!(stage.registry.nodes(&host("there")).await.len(), 0);
    assert_eq!(stage.registry.holders(&name("a"), ASKER).await, Err(NobodyKnows));
    assert_eq!(stage.store.calls("list") + stage.store.calls("find"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_the_store_owes_is_what_it_last_was_or_nothing() {
    let stage = Stage::new();
    stage.holder("there", "a", 1).await;
    assert_eq!(stage.registry.nodes(&host("there")).await.len(), 1);
    assert_eq!(stage.registry.holders(&name("a"), ASKER).await.unwrap().len(), 1);
    sleep(SECOND).await;
    stage.store.is("", Fault::Denies);
    assert_eq!(stage.registry.nodes(&host("there")).await.len(), 1);
    assert_eq!(stage.registry.nodes(&host("yonder")).await.len(), 0);
    assert_eq!(stage.registry.holders(&name("a"), ASKER).await.unwrap().len(), 1);
    assert_eq!(stage.registry.holders(&name("b"), ASKER).await, Err(NobodyKnows));
}

#[tokio::test(start_paused = true)]
async fn that_nobody_had_a_name_is_known_for_a_ttl() {
    let stage = Stage::of(Lookup::Cluster, Some(2 * SECOND));
    assert_eq!(stage.registry.holders(&name("a"), ASKER).await, Ok(Arc::default()));
    for second in 0..18 {
        stage.store.heals();
        stage.is_reached().await;
        stage.goes_away().await;
        let known = stage.registry.known_holders(&name("a")).unwrap();
        assert_eq!(known.is_ok(), second < 17, "after {second} s");
        sleep(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_of_an_earlier_run_hold_no_name_and_entries_that_cannot_be_read_are_counted() {
    let stage = Stage::new();
    stage.other(earlier()).await.register("a", 1).await;
    stage.holder("there", "a", 1).await;
    assert_eq!(names(&stage.registry.holders(&name("a"), ASKER).await.unwrap()), ["a@there"]);
    stage.store.is_foreign.store(true, Ordering::Relaxed);
    sleep(SECOND).await;
    assert_eq!(stage.registry.holders(&name("a"), ASKER).await.unwrap().len(), 0);
    assert_eq!(stage.registry.nodes(&host("there")).await.len(), 0);
    assert_eq!(stage.registry.cluster().await.nodes.len(), 0);
    assert_eq!(stage.registry.unreadable_entries(), 2 + 1 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_registry_of_one_process_has_no_other_nodes() {
    let stage = Stage::alone();
    stage.register(1, "a").await;
    let asked = stage.store.calls("");
    let cluster = stage.registry.cluster().await;
    assert_eq!((cluster.nodes.len(), cluster.asked, cluster.is_stale), (0, None, false));
    assert_eq!(stage.registry.known_nodes(&host("here")), Some(Arc::default()));
    assert_eq!(stage.registry.known_holders(&name("a")), Some(Ok(Arc::default())));
    assert_eq!(stage.store.calls(""), asked);
}

#[tokio::test(start_paused = true)]
async fn lists_are_remembered_within_bounds() {
    let stage = Stage::new();
    let (hosts, names): (Vec<_>, Vec<_>) =
        (0..6000).map(|number| (host(&format!("h{number}")), name(&format!("n{number}")))).unzip();
    for (host, name) in hosts.iter().zip(&names) {
        stage.registry.nodes(host).await;
        stage.registry.holders(name, ASKER).await.unwrap();
    }
    let of_hosts = hosts.iter().filter(|host| stage.registry.known_nodes(host).is_some()).count();
    let of_names = names.iter().filter(|name| stage.registry.known_holders(name).is_some()).count();
    assert!((500..=1024).contains(&of_hosts), "{of_hosts}");
    assert!((2000..=4096).contains(&of_names), "{of_names}");
}
