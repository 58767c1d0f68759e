//! [`RegistryBackend::leave_note`](repmd_backend_api::RegistryBackend::leave_note) and
//! [`RegistryBackend::notes`](repmd_backend_api::RegistryBackend::notes): what daemons tell all others.

use repmd_backend_api::{NOTE_BYTES_MAX, Scope};

use crate::Fixture;
use crate::daemon::Daemon;

/// Neither text nor free of what ends text.
const NOTE: &[u8] = b"\0\xff\n\"} {1}\r\n";

pub async fn a_note_is_read_by_all_as_it_was_left(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    assert_eq!(other.notes().await, []);
    daemon.renew(&[]).await;
    other.renew(&[]).await;
    assert_eq!(other.notes().await, []);
    daemon.leave_note(NOTE).await;
    other.leave_note(b"2").await;
    let mut both = vec![(daemon.instance.id, NOTE.to_vec()), (other.instance.id, b"2".to_vec())];
    both.sort();
    assert_eq!((daemon.notes().await, other.notes().await), (both.clone(), both));
}

pub async fn the_last_note_of_a_daemon_stands(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    daemon.renew(&[]).await;
    for note in [&b"a longer one"[..], b"1", b"1"] {
        daemon.leave_note(note).await;
        assert_eq!(daemon.notes().await, [(daemon.instance.id, note.to_vec())]);
    }
}

pub async fn a_note_makes_nobody_count_as_alive(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    daemon.leave_note(NOTE).await;
    assert_eq!((daemon.daemons(&Scope::Cluster).await, daemon.notes().await), (vec![], vec![]));
}

pub async fn a_retired_daemon_has_no_note(fixture: impl Fixture) {
    let (daemon, other) = (Daemon::of(&fixture, "db-1").await, Daemon::of(&fixture, "db-2").await);
    daemon.renew(&[]).await;
    daemon.leave_note(NOTE).await;
    daemon.retire().await;
    assert_eq!(other.notes().await, []);
    let next_run = daemon.next_run(&fixture).await;
    next_run.renew(&[]).await;
    assert_eq!(other.notes().await, []);
}

pub async fn a_note_may_be_long(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    daemon.renew(&[]).await;
    let longest = vec![7; NOTE_BYTES_MAX];
    daemon.leave_note(&longest).await;
    assert_eq!(daemon.notes().await, [(daemon.instance.id, longest)]);
}
