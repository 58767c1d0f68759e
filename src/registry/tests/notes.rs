use super::*;

#[tokio::test(start_paused = true)]
async fn notes_of_all_are_known_for_a_second_and_then_asked_for_again() {
    let stage = Stage::new();
    let other = stage.other(daemon("there")).await;
    other.handle.leave_note(b"theirs").await.unwrap();
    let texts = async || {
        let notes = stage.registry.notes().await;
        notes.iter().map(|note| String::from_utf8_lossy(&note.text).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(texts().await, ["theirs"]);
    other.handle.leave_note(b"others").await.unwrap();
    sleep(SECOND - MILLISECOND).await;
    assert_eq!(texts().await, ["theirs"]);
    sleep(MILLISECOND).await;
    assert_eq!(texts().await, ["others"]);
    stage.is_reached().await;
    stage.registry.leave_note(b"ours").await.unwrap();
    assert_eq!(stage.memory.attach(Arc::new(daemon("x"))).notes().await.unwrap().items.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_slow_or_away_is_not_asked_for_notes_and_gets_none() {
    let stage = Stage::new();
    let other = stage.other(daemon("there")).await;
    other.handle.leave_note(b"theirs").await.unwrap();
    assert_eq!(stage.registry.notes().await.len(), 1);
    stage.store.is("", Fault::Late(DEADLINE - MILLISECOND));
    stage.is_reached().await;
    let refused = |result: Result<(), BackendError>| match result.unwrap_err() {
        BackendError::Unavailable { waited: Duration::ZERO, source } => source.to_string(),
        error => panic!("{error:?}"),
    };
    sleep(2 * SECOND).await;
    assert_eq!(refused(stage.registry.leave_note(b"ours").await), "it is slow");
    assert_eq!(stage.registry.notes().await.len(), 1);
    stage.store.heals();
    stage.is_reached().await;
    stage.goes_away().await;
    assert_eq!(refused(stage.registry.leave_note(b"ours").await), "no answer from the registry: gone");
    assert_eq!(stage.registry.notes().await.len(), 1);
    assert_eq!((stage.store.calls("notes"), stage.store.calls("leave_note")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_note_that_cannot_be_left_says_nothing_of_the_stores_health() {
    let stage = Stage::new();
    stage.store.is("leave_note", Fault::Away);
    stage.store.is("notes", Fault::Away);
    stage.registry.leave_note(b"ours").await.unwrap_err();
    assert_eq!(stage.registry.notes().await.len(), 0);
    assert_eq!(stage.registry.away(), None);
}

#[tokio::test(start_paused = true)]
async fn notes_that_cannot_be_read_are_counted_and_a_registry_of_one_process_is_not_asked() {
    let stage = Stage::new();
    stage.other(daemon("there")).await.handle.leave_note(b"theirs").await.unwrap();
    stage.store.is_foreign.store(true, Ordering::Relaxed);
    assert_eq!((stage.registry.notes().await.len(), stage.registry.unreadable_entries()), (0, 1));
    let alone = Stage::alone();
    alone.registry.leave_note(b"ours").await.unwrap();
    assert_eq!((alone.registry.notes().await.len(), alone.store.calls("notes")), (0, 0));
}
