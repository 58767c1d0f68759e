//! How large one message of the store may be, counted as it comes in.

use std::io;

use repmd_backend_remote::bounded::Count;

/// The longest message, in bytes: a row with a note is the longest that is asked for.
const MESSAGE_MAX: usize = 1 << 20;

/// How often the server may report a parameter. The client library keeps each that has another name.
const PARAMETERS_MAX: u32 = 10_000;

/// What a report of a parameter begins with.
const PARAMETER: u8 = b'S';

/// Where in its message a stream is: a byte that says what it is, four with its length but for that byte, and so on.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    head: Vec<u8>,
    /// Bytes of this message that are still to come.
    left: usize,
    parameters: u32,
}

impl Count for Messages {
    fn count(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            while self.left == 0
                && let Some((byte, rest)) = bytes.split_first()
            {
                self.head.push(*byte);
                bytes = rest;
                if let [kind, length @ ..] = &self.head[..]
                    && let Ok(length) = <[u8; 4]>::try_from(length)
                {
                    self.parameters += u32::from(*kind == PARAMETER);
                    let length = u32::from_be_bytes(length) as usize;
                    if MESSAGE_MAX < length || PARAMETERS_MAX < self.parameters {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "the store says too much"));
                    }
                    self.left = length.saturating_sub(4);
                    self.head.clear();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn parameters_are_not_reported_for_ever() {
        let mut messages = Messages::default();
        let refused = (0..=PARAMETERS_MAX).find(|_| messages.count(&message(PARAMETER, 5)).is_err());
        assert_eq!(refused, Some(PARAMETERS_MAX));
    }
}
