//! A server that says what it is told to say, whatever it is asked.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use repmd_backend_remote::{Changes, Pulse};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_postgres::types::Type;
use tokio_postgres::{Config, Row};
use tokio_util::sync::CancellationToken;

use crate::connection::{Ears, Session};
use crate::dial::log_in;
use crate::error::Fault;

/// Who may log in without a password, and that questions are welcome.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// Bytes that may be on their way.
const WINDOW: usize = 1 << 12;

/// One column of one row.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) oid: u32,
    pub(crate) value: Option<Vec<u8>>,
}

impl Column {
    pub(crate) fn new(of_type: &Type, value: impl Into<Vec<u8>>) -> Self {
        Self { oid: of_type.oid(), value: Some(value.into()) }
    }

    pub(crate) fn texts(texts: &[&str]) -> Self {
        let texts: Vec<_> = texts.iter().map(|text| sized(text.as_bytes())).collect();
        let value = [array_of(texts.len()), texts.concat()].concat();
        Self::new(&Type::TEXT_ARRAY, value)
    }
}

/// What an array of `count` texts begins with.
pub(crate) fn array_of(count: usize) -> Vec<u8> {
    [1, 0, Type::TEXT.oid(), count as u32, 1].map(u32::to_be_bytes).concat()
}

/// A message of the server.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() + 4) as u32;
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// What is answered to a question with one row.
pub(crate) fn one_row(columns: &[Column]) -> Vec<u8> {
    rows(columns, 1)
}

/// What is answered to one with so many rows that are the same.
pub(crate) fn rows(columns: &[Column], count: usize) -> Vec<u8> {
    let parameters = message(b't', &[0, 0]);
    let begin = [message(b'1', b""), parameters, message(b'2', b""), description(columns)].concat();
    [begin, row(columns).repeat(count), end()].concat()
}

/// What is answered to a question that is to be prepared, and has one parameter.
#[cfg(test)]
pub(crate) fn described(columns: &[Column]) -> Vec<u8> {
    let parameters = [&[0, 1][..], &Type::OID.oid().to_be_bytes()].concat();
    let ready = message(b'Z', b"I");
    [message(b'1', b""), message(b't', &parameters), description(columns), ready].concat()
}

/// What is answered to one that is prepared.
#[cfg(test)]
pub(crate) fn fetched(columns: &[Column]) -> Vec<u8> {
    [message(b'2', b""), row(columns), end()].concat()
}

fn description(columns: &[Column]) -> Vec<u8> {
    // No name, no table, of any size, and in binary.
    let column =
        |column: &Column| [&[0; 7][..], &column.oid.to_be_bytes(), &[0, 0, 0, 0, 0, 0, 0, 1]].concat();
    message(b'T', &[count(columns).to_vec(), columns.iter().flat_map(column).collect()].concat())
}

fn row(columns: &[Column]) -> Vec<u8> {
    let value = |column: &Column| column.value.as_deref().map_or(u32::MAX.to_be_bytes().to_vec(), sized);
    message(b'D', &[count(columns).to_vec(), columns.iter().flat_map(value).collect()].concat())
}

fn end() -> Vec<u8> {
    [message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
}

fn count(columns: &[Column]) -> [u8; 2] {
    (columns.len() as u16).to_be_bytes()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

/// What is asked of such a server, and what is read of its answers. It closes the connection when it has no more of
/// them.
pub(crate) async fn ask<T>(
    answers: impl IntoIterator<Item = Vec<u8>>,
    read: impl Fn(&Row) -> T,
) -> Result<Vec<T>, Fault> {
    let (ours, mut theirs) = duplex(WINDOW);
    let server = async move {
        let mut question = vec![0; WINDOW];
        for answer in std::iter::once(WELCOME.to_vec()).chain(answers) {
            let asked = theirs.read(&mut question).await;
            if !asked.is_ok_and(|bytes| 0 < bytes) || theirs.write_all(&answer).await.is_err() {
                return;
            }
        }
    };
    let client = async {
        let ears = Ears::new(Changes::new());
        let mut config = Config::new();
        config.user("repmd");
        let line = log_in(&config, ours, IpAddr::V4(Ipv4Addr::LOCALHOST), &ears).await?;
        let pulse = Pulse::new(Duration::from_secs(1), CancellationToken::new());
        Session { line, pulse, ears }.run("select", &[], &read).await
    };
    tokio::join!(client, server).0
}
