//! What the target in `fuzz/` reaches: whatever a server, or somebody in its place, answers, and what is made of it.

use std::time::Duration;

use repmd_backend_api::{Found, Instance, Seen};
use repmd_backend_remote::body::{ADDRESSES_MAX, ALIASES_MAX, NAME_CHARS_MAX};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::record::{Digest, creation_of};
use crate::scripted::{Column, ask, one_row};
use crate::watch::{changes_of, told};
use crate::{
    collected, inspect, read_daemon, read_found, read_granted, read_note, read_registered, read_taken,
};

/// How long the leases of this registry last.
const TTL: Duration = Duration::from_secs(15);

/// What a column may be said to have.
const TYPES: [Type; 8] = [
    Type::BOOL,
    Type::BYTEA,
    Type::INT4,
    Type::INT8,
    Type::TEXT,
    Type::TEXT_ARRAY,
    Type::INT8_ARRAY,
    Type::RECORD,
];

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("it needs no thread");
}

/// Whatever is answered is read or refused, and what is read is no more than daemons write.
///
/// The first byte says what is asked. Below 128, an answer as it should be is changed by each four bytes and what
/// follows them: a column, what becomes of it, a length, and so many bytes. From there on, the rest is the answer.
///
/// # Panics
/// Where it is more.
pub fn reply(bytes: &[u8]) {
    let Some((asked, rest)) = bytes.split_first() else { return };
    let (asked, is_changed) = (asked % 128, *asked < 128);
    let with = |columns: Vec<Column>| {
        if is_changed { changed(columns, rest) } else { vec![rest.to_vec()] }
    };
    match asked % 9 {
        0 => read(with([registration(), instance()].concat()), |row| {
            if let Ok(found) = read_found(row, TTL) {
                assert_found(&found);
            }
            let _: Seen<_> = collected(vec![read_found(row, TTL)]);
        }),
        1 => read(with(registration()), |row| collected(vec![read_registered(row)])),
        2 => read(with(instance()), |row| {
            if let Ok(instance) = read_daemon(row) {
                assert_instance(&instance);
            }
        }),
        3 => read(with(note()), |row| collected(vec![read_note(row)])),
        4 => read(with(granted()), |row| {
            let (creation, holder) = read_granted(row);
            let _ = creation.map(creation_of);
            assert!(holder.is_none_or(|holder| holder.chars().count() <= NAME_CHARS_MAX));
        }),
        5 => read(with(taken()), |row| {
            assert!(read_taken(row).is_none_or(|(_, holder)| holder.chars().count() <= NAME_CHARS_MAX));
        }),
        6 => read(with(digest()), Digest::read),
        7 => read(with(more()), inspect::told_by),
        _ => {
            for change in changes_of(&String::from_utf8_lossy(rest)) {
                use repmd_backend_api::Change::{Expired, Missed, Registered, Released};
                let (sign, name, host) = match change {
                    Registered(name, host) => ('+', name, host),
                    Released(name, host) => ('-', name, host),
                    Expired(name, host) => ('x', name, host),
                    Missed => panic!("nobody tells that"),
                };
                assert_eq!(changes_of(&told(sign, &host, &name)).count(), 1);
            }
        }
    }
}

fn read<T>(answers: Vec<Vec<u8>>, read: impl Fn(&Row) -> T) {
    let _ = RUNTIME.with(|runtime| runtime.block_on(ask(answers, read)));
}

/// An answer of one row of these columns after some changes, and what is answered to what is asked because of it.
fn changed(mut columns: Vec<Column>, mut changes: &[u8]) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    while let [column, change, high, low, rest @ ..] = changes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at(rest.len().min(length));
        changes = rest;
        let at = usize::from(*column) % columns.len().max(1);
        match (change % 6, columns.get_mut(at)) {
            (0, Some(column)) => column.value = Some(value.to_vec()),
            (1, Some(column)) => column.value = None,
            (2, Some(column)) => column.oid = TYPES[value.len() % TYPES.len()].oid(),
            // One that has to be asked for.
            (3, Some(column)) => column.oid = u32::MAX,
            (4, Some(_)) => columns.truncate(at),
            _ => answers.push(value.to_vec()),
        }
    }
    answers.insert(0, one_row(&columns));
    answers
}

fn number(number: i64) -> Column {
    Column::new(&Type::INT8, number.to_be_bytes())
}

fn small(number: i32) -> Column {
    Column::new(&Type::INT4, number.to_be_bytes())
}

fn id() -> Column {
    Column::new(&Type::BYTEA, [7; 16])
}

/// A registration, as the functions answer with it.
fn registration() -> Vec<Column> {
    let (host, name) = (Column::new(&Type::TEXT, "db-1"), Column::new(&Type::BYTEA, "rabbit"));
    let numbers = [25672, 9100, 77, 0, 6, 5].map(small);
    let (extra, registered_at) = (Column::new(&Type::BYTEA, [0, 255]), number(1_800_000_000_123_456_789));
    [&[host, name, id(), number(9)][..], &numbers, &[extra, registered_at, number(15_000)]].concat()
}

/// A daemon.
fn instance() -> Vec<Column> {
    let (name, host) = (Column::new(&Type::BYTEA, "a b"), Column::new(&Type::TEXT, "db-1"));
    let (aliases, addresses) = (Column::texts(&["db-1.example"]), Column::texts(&["10.0.0.1", "fe80::1"]));
    vec![id(), name, host, aliases, addresses, small(4369)]
}

fn note() -> Vec<Column> {
    vec![id(), Column::new(&Type::BYTEA, "note")]
}

/// What is answered to a claim: never both.
fn granted() -> Vec<Column> {
    [vec![Column::new(&Type::TEXT, "granted")], taken()].concat()
}

fn taken() -> Vec<Column> {
    vec![number(7), Column::new(&Type::BYTEA, "holder")]
}

fn digest() -> Vec<Column> {
    [1, 2, 3].map(number).into()
}

/// How a server is.
fn more() -> Vec<Column> {
    let text = |text| Column::new(&Type::TEXT, text);
    let settings = [text("17.2"), Column::new(&Type::BOOL, [1]), text("on")];
    [&settings[..], &[100, 7, 1, 2, 3].map(number)].concat()
}

fn assert_found(found: &Found) {
    assert!(found.left.is_some_and(|left| left <= TTL));
    assert!(found.registration.node.extra.len() <= repmd_backend_api::EXTRA_BYTES_MAX);
    assert_instance(&found.registration.instance);
}

fn assert_instance(instance: &Instance) {
    let Instance { name, aliases, addresses, .. } = instance;
    assert!(name.chars().count() <= NAME_CHARS_MAX);
    assert!(aliases.len() <= ALIASES_MAX && addresses.len() <= ADDRESSES_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise the changes would be of something that is refused as it is.
    #[test]
    fn what_is_changed_can_be_read_before() {
        let one = |columns: Vec<Column>, is_read: fn(&Row) -> bool| {
            let answers = ask(changed(columns, &[]), is_read);
            assert_eq!(RUNTIME.with(|runtime| runtime.block_on(answers)).unwrap(), [true]);
        };
        one([registration(), instance()].concat(), |row| read_found(row, TTL).is_ok());
        one(registration(), |row| read_registered(row).is_ok());
        one(instance(), |row| read_daemon(row).is_ok());
        one(note(), |row| read_note(row).is_ok());
        one(granted(), |row| read_granted(row) == (Some(7), Some("holder".to_owned())));
        one(taken(), |row| read_taken(row) == Some((7, "holder".to_owned())));
        one(digest(), |row| Digest::read(row).is_some());
        one(more(), |row| inspect::told_by(row).is_some_and(|report| report.findings.is_empty()));
        for kind in 0..=255 {
            reply(&[kind]);
            reply(&[kind, 3, 0, 0, 2, 0, 0, 1, 3]);
        }
    }
}
