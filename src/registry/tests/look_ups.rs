use super::*;
use crate::registry::Source;
use futures_util::future::join_all;
use repmd_backend_api::InstanceId;

/// The node's port, and where it is known from.
async fn answer(stage: &Stage, question: &Question) -> (Option<u16>, Source) {
    let told = stage.look_up(question).await;
    (port(&told), told.source)
}

fn is_known(stage: &Stage, question: &Question) -> bool {
    stage.registry.known(question).is_some()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_fresh_for_as_long_as_the_store_says_from_the_question_on() {
    let stage = Stage::new();
    stage.holder("there", "a", 1).await;
    let (question, late) = (on("there", "a"), 100 * MILLISECOND);
    stage.store.is("", Fault::Late(late));
    let asked = Instant::now();
    let told = stage.look_up(&question).await;
    assert_eq!((port(&told), told.source, told.asked), (Some(1), Source::Registry, Some(asked)));
    sleep(SECOND - late - MILLISECOND).await;
    let told = stage.registry.known(&question).unwrap();
    assert_eq!((port(&told), told.source, told.asked), (Some(1), Source::Cache, Some(asked)));
    sleep(MILLISECOND).await;
    assert!(!is_known(&stage, &question));
    assert_eq!(answer(&stage, &question).await, (Some(1), Source::Registry));
    let stats = stage.registry.stats();
    assert_eq!((stats.remembered.get(), stats.loaded.get(), stats.stale.get()), (1, 2, 0));
    assert_eq!(stage.store.calls("find"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_fresh_no_longer_than_its_lease() {
    let stage = Stage::new();
    stage.holder("there", "a", 1).await;
    sleep(TTL - SECOND / 2).await;
    let question = bare("a");
    assert_eq!(answer(&stage, &question).await, (Some(1), Source::Registry));
    sleep(SECOND / 2 - MILLISECOND).await;
    assert!(is_known(&stage, &question));
    sleep(MILLISECOND).await;
    assert_eq!(answer(&stage, &question).await, (None, Source::Registry));
}

#[tokio::test(start_paused = true)]
async fn that_there_is_no_such_node_is_remembered_for_25_ms() {
    let stage = Stage::new();
    for question in [bare("a"), on("there", "a")] {
        assert_eq!(answer(&stage, &question).await, (None, Source::Registry));
        sleep(24 * MILLISECOND).await;
        assert!(is_known(&stage, &question));
        sleep(MILLISECOND).await;
        assert!(!is_known(&stage, &question));
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_several_hosts_have_is_nobodys_for_as_long_as_an_answer_is_fresh() {
    let stage = Stage::new();
    stage.holder("there", "a", 1).await;
    stage.holder("yonder", "a", 2).await;
    assert_eq!(answer(&stage, &bare("a")).await, (None, Source::Registry));
    assert_eq!(stage.registry.stats().ambiguous.get(), 1);
    sleep(SECOND - MILLISECOND).await;
    assert!(is_known(&stage, &bare("a")));
    sleep(MILLISECOND).await;
    assert!(!is_known(&stage, &bare("a")));
    assert_eq!(answer(&stage, &on("yonder", "a")).await, (Some(2), Source::Registry));
    assert_eq!(stage.registry.stats().ambiguous.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn however_many_look_a_name_up_at_once_the_store_is_asked_once() {
    let stage = Stage::new();
    stage.holder("there", "a", 1).await;
    stage.store.is("", Fault::Late(DEADLINE / 2));
    let question = bare("a");
    let told = join_all((0..10).map(|_| stage.look_up(&question))).await;
    assert!(told.iter().all(|told| port(told) == Some(1)), "{told:?}");
    assert_eq!(stage.store.calls("find"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_question_reaches_as_far_as_settings_say_and_not_elsewhere_for_what_this_host_had_of_late() {
    let asked = async |stage: &Stage, question: &Question| {
        stage.look_up(question).await;
        stage.store.last_call()
    };
    let stage = Stage::new();
    assert_eq!(asked(&stage, &bare("a")).await, "find a near here, 4 of them");
    assert_eq!(asked(&stage, &on("there", "a")).await, "find a on there near here, 4 of them");
    let lease = stage.register(1, "b").await;
    stage.registry.release(&lease).await;
    assert_eq!(asked(&stage, &bare("b")).await, "find b on here near here, 4 of them");
    assert_eq!(asked(&stage, &on("there", "b")).await, "find b on there near here, 4 of them");
    sleep(Duration::from_secs(600)).await;
    assert_eq!(asked(&stage, &bare("b")).await, "find b near here, 4 of them");
    let of_the_host = Stage::of(Lookup::Host, None);
    assert_eq!(asked(&of_the_host, &bare("a")).await, "find a on here near here, 4 of them");
}

#[tokio::test(start_paused = true)]
async fn a_node_of_an_earlier_run_is_answered_for_while_something_listens_at_its_port() {
    let stage = Stage::new();
    let earlier = stage.other(Instance { id: InstanceId::random(), ..daemon("here") }).await;
    earlier.register("a", 9001).await;
    let beside = stage.other(Instance { name: "here:5000".to_owned(), ..daemon("here") }).await;
    beside.register("b", 9002).await;
    assert_eq!(answer(&stage, &bare("a")).await, (None, Source::Registry));
    assert_eq!(answer(&stage, &bare("b")).await, (Some(9002), Source::Registry), "another daemon's");
    stage.listening.lock().unwrap().push(9001);
    assert!(is_known(&stage, &bare("a")));
    sleep(25 * MILLISECOND).await;
    assert_eq!(answer(&stage, &bare("a")).await, (Some(9001), Source::Registry));
    sleep(SECOND - MILLISECOND).await;
    assert!(is_known(&stage, &bare("a")));
}

#[tokio::test(start_paused = true)]
async fn this_daemons_own_nodes_are_nobodys_elsewhere() {
    let stage = Stage::new();
    stage.register(1, "a").await;
    assert_eq!(answer(&stage, &bare("a")).await, (None, Source::Registry));
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_the_last_answer_serves_at_once_and_for_so_long() {
    let stage = Stage::of(Lookup::Cluster, Some(TTL));
    let (_there, lease) = stage.holder("there", "a", 1).await;
    let (known, unknown) = (bare("a"), bare("b"));
    let asked = Instant::now();
    stage.look_up(&known).await;
    // It may have left since; nobody knows.
    stage.memory.attach(Arc::clone(&lease.registration.instance)).release(&lease).await.unwrap();
    stage.goes_away().await;
    sleep(TTL - MILLISECOND).await;
    let told = stage.registry.known(&known).unwrap();
    assert_eq!((port(&told), told.source, told.asked), (Some(1), Source::Stale, Some(asked)));
    sleep(MILLISECOND).await;
    for question in [known, unknown] {
        let told = stage.registry.known(&question).unwrap();
        assert_eq!((port(&told), told.source, told.asked), (None, Source::Stale, None));
        assert_eq!(answer(&stage, &question).await, (None, Source::Stale));
    }
    assert_eq!((stage.store.calls("find"), stage.registry.stats().stale.get()), (1, 5));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_store_in_vain_gets_the_last_answer_and_those_behind_do_not_wait() {
    let stage = Stage::new();
    stage.holder("there", "a", 1).await;
    assert_eq!(answer(&stage, &bare("a")).await, (Some(1), Source::Registry));
    sleep(SECOND).await;
    stage.store.is("", Fault::Late(10 * SECOND));
    let asked = Instant::now();
    let question = bare("a");
    let told = join_all((0..10).map(|_| stage.look_up(&question))).await;
    assert!(told.iter().all(|told| (port(told), told.source) == (Some(1), Source::Stale)), "{told:?}");
    assert_eq!((asked.elapsed(), stage.store.calls("find")), (DEADLINE, 2));
}

#[tokio::test(start_paused = true)]
async fn of_an_entry_that_cannot_be_read_nobody_knows() {
    let stage = Stage::new();
    stage.holder("there", "a", 1).await;
    stage.store.is_foreign.store(true, Ordering::Relaxed);
    assert_eq!(answer(&stage, &bare("a")).await, (None, Source::Stale));
    assert!(!stage.registry.has_left(&host("there"), &name("a")).await);
    assert_eq!(stage.registry.unreadable_entries(), 2);
    assert_eq!(answer(&stage, &bare("b")).await, (None, Source::Registry));
    assert!(!is_known(&stage, &bare("a")));
}

#[tokio::test(start_paused = true)]
async fn a_node_has_left_if_the_store_says_so() {
    let stage = Stage::new();
    let (other, lease) = stage.holder("there", "a", 1).await;
    let has_left = async || stage.registry.has_left(&host("there"), &name("a")).await;
    assert!(!has_left().await);
    other.handle.release(&lease).await.unwrap();
    assert!(!has_left().await, "as of a moment ago");
    sleep(SECOND).await;
    assert!(has_left().await);
    assert!(stage.registry.has_left(&host("yonder"), &name("a")).await);
    sleep(SECOND).await;
    stage.goes_away().await;
    assert!(!has_left().await);
    assert_eq!(stage.store.calls("find"), 3);
}

#[tokio::test(start_paused = true)]
async fn what_concerns_this_daemon_alone_is_known_here() {
    let stage = Stage::alone();
    let told = |question| stage.registry.known(&question).map(|told| (told.answer, told.source, told.asked));
    for question in [bare("a"), on("there", "a"), Question::Daemon(host("there"))] {
        assert!(matches!(told(question), Some((Answer::Absent, Source::Here, None))));
    }
    for stage in [stage, Stage::new()] {
        let told = stage.registry.known(&Question::Daemon(host("here"))).unwrap();
        assert!(matches!(told.answer, Answer::Daemon(me) if me.port == 4369));
        assert_eq!((told.source, told.asked), (Source::Here, None));
        assert_eq!(stage.store.calls(""), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_are_remembered_within_bounds() {
    let stage = Stage::new();
    let questions: Vec<_> = (0..20_000).map(|number| bare(&format!("n{number}"))).collect();
    for question in &questions {
        stage.look_up(question).await;
    }
    let known = questions.iter().filter(|question| is_known(&stage, question)).count();
    assert!((10_000..=16_384).contains(&known), "{known}");
}

#[test]
fn a_source_is_one_word() {
    let sources = [Source::Here, Source::Registry, Source::Cache, Source::Stale];
    assert_eq!(sources.map(Source::as_str), ["here", "registry", "cache", "stale"]);
}
