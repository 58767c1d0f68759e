//! How large one message of the store may be, counted as it comes in.

use std::io;

use repmd_backend_remote::bounded::Count;
use tokio_postgres::types::Type;

/// The longest message, in bytes: a row with a note is the longest that is asked for.
const MESSAGE_MAX: usize = 1 << 20;

/// The most bytes of what the client library keeps for as long as the connection lasts: each parameter that the server
/// reports under another name, and each notice before it is ready.
const KEPT_MAX: usize = 1 << 20;

/// What one of these takes beside its own bytes.
const KEPT_EACH: usize = 100;

/// What a report of a parameter, a notice, and the word that the server is ready begin with.
const PARAMETER: u8 = b'S';
const NOTICE: u8 = b'N';
const READY: u8 = b'Z';

/// What a description of rows begins with.
const DESCRIPTION: u8 = b'T';

/// A column of one, after its name: its type stands after four bytes for a table and two for a column there.
const COLUMN_BYTES: usize = 18;

/// Where in its message a stream is: a byte that says what it is, four with its length but for that byte, and so on.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    head: Vec<u8>,
    /// Bytes of this message that are still to come.
    left: usize,
    /// The description of rows that comes in.
    description: Option<Vec<u8>>,
    kept: usize,
    is_ready: bool,
}

impl Count for Messages {
    fn count(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            if let Some(description) = &mut self.description {
                description.extend(&bytes[..skipped]);
            }
            bytes = &bytes[skipped..];
            if self.left == 0
                && let Some(description) = self.description.take()
                && types_of(&description).any(|oid| Type::from_oid(oid).is_none())
            {
                // The client library would ask the store what type that is, and what type that is made of, as deep as
                // the store likes. Nothing that is asked here is answered in one.
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the store answers in a type of its own",
                ));
            }
            while self.left == 0
                && let Some((byte, rest)) = bytes.split_first()
            {
                self.head.push(*byte);
                bytes = rest;
                if let [kind, length @ ..] = &self.head[..]
                    && let Ok(length) = <[u8; 4]>::try_from(length)
                {
                    let length = u32::from_be_bytes(length) as usize;
                    self.is_ready |= *kind == READY;
                    if *kind == PARAMETER || *kind == NOTICE && !self.is_ready {
                        self.kept += KEPT_EACH + length;
                    }
                    if MESSAGE_MAX < length || KEPT_MAX < self.kept {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "the store says too much"));
                    }
                    self.left = length.saturating_sub(4);
                    self.description = (*kind == DESCRIPTION).then(Vec::new);
                    self.head.clear();
                }
            }
        }
        Ok(())
    }
}

/// The types of the columns of a description of rows.
fn types_of(description: &[u8]) -> impl Iterator<Item = u32> {
    let mut columns = description.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let name_end = columns.iter().position(|byte| *byte == 0)?;
        let (column, rest) = columns.get(name_end + 1..)?.split_first_chunk::<COLUMN_BYTES>()?;
        columns = rest;
        column[6..].first_chunk().map(|oid| u32::from_be_bytes(*oid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use crate::scripted::{self, Column, ask, one_row};

    fn message(kind: u8, length: usize) -> Vec<u8> {
        let announced = u32::try_from(length + 4).unwrap().to_be_bytes();
        [&[kind][..], &announced, &vec![b'Z'; length]].concat()
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let whole: Vec<u8> =
            [message(b'D', 0), message(b'D', 7), message(b'Z', 1), message(b'T', 300)].concat();
        for cut in 0..whole.len() {
            let mut messages = Messages::default();
            messages.count(&whole[..cut]).unwrap();
            messages.count(&whole[cut..]).unwrap();
            assert!(messages.left == 0 && messages.head.is_empty(), "{cut}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_ends_the_stream_before_it_came() {
        assert!(Messages::default().count(&message(b'D', MESSAGE_MAX - 4)).is_ok());
        for length in [MESSAGE_MAX as u32 + 1, u32::MAX] {
            let head = [&[b'D'][..], &length.to_be_bytes()].concat();
            let mut messages = Messages::default();
            messages.count(&head[..4]).unwrap();
            assert_eq!(messages.count(&head[4..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn what_is_kept_does_not_come_for_ever() {
        let refused = |messages: &mut Messages, kind, length| {
            (0..20_000).find(|_| messages.count(&message(kind, length)).is_err())
        };
        for kind in [PARAMETER, NOTICE] {
            let few = refused(&mut Messages::default(), kind, 10_000);
            let many = refused(&mut Messages::default(), kind, 1);
            assert!(
                few.is_some_and(|few| few < 110) && many.is_some_and(|many| 9_000 < many),
                "{few:?} {many:?}"
            );
        }
        let mut ready = Messages::default();
        ready.count(&message(READY, 1)).unwrap();
        assert_eq!(refused(&mut ready, NOTICE, 1), None);
        assert!(refused(&mut ready, PARAMETER, 1).is_some());
    }

    /// The client library asks what each is made of. It would go on for as long as the store does, one call within the
    /// other, until the stack is full.
    #[tokio::test(flavor = "current_thread")]
    async fn types_that_are_made_of_each_other_without_an_end_are_not_asked_for() {
        let oid = |number: u32| Column { oid: Type::OID.oid(), value: Some(number.to_be_bytes().into()) };
        let text = |text: &str| Column { oid: Type::NAME.oid(), value: Some(text.into()) };
        let columns = |base| {
            let kind = Column { oid: Type::CHAR.oid(), value: Some(b"b".into()) };
            let range = Column { value: None, ..oid(0) };
            [text("x"), kind, oid(0), range, oid(base), text("public"), oid(0)]
        };
        let question = one_row(&[Column { oid: 100_000, value: None }]);
        let described = scripted::described(&columns(0));
        let types = (100_001..110_000).map(|base| scripted::fetched(&columns(base)));
        let answer = ask([question, described].into_iter().chain(types), |_| ()).await;
        assert!(matches!(&answer, Err(Fault::Store(error)) if error.is_closed()), "{answer:?}");
        let answer = one_row(&[Column::new(&Type::INT4, [0; 4]), Column { oid: 100_000, value: None }]);
        for cut in 0..answer.len() {
            let mut messages = Messages::default();
            let counted = messages.count(&answer[..cut]).and_then(|()| messages.count(&answer[cut..]));
            assert_eq!(counted.unwrap_err().to_string(), "the store answers in a type of its own", "{cut}");
        }
    }
}
