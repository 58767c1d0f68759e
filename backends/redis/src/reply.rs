//! How large one reply may be, counted as it comes in.

use std::io;

use repmd_backend_remote::bounded::Count;

/// What one reply may take, in bytes: a list of a million names.
const REPLY_MAX: u64 = 64 << 20;

/// What each value within a reply takes in memory beside its bytes, at least.
const VALUE: u64 = 64;

/// The longest line, in bytes. Lines are numbers and what the store says when it refuses.
const LINE_MAX: u64 = 64 << 10;

/// What a value starts with.
const KINDS: &[u8] = b"+-:_,#($=!*~>%|";

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReplyError {
    #[error("a reply of the store is larger than {} MiB", REPLY_MAX >> 20)]
    TooLarge,
    #[error("what answers does not speak the store's protocol")]
    NotAReply,
}

/// The reply that is coming in, as far as it has come. RESP3 has its values one after the other: each starts
/// with a byte for its kind and a line, and those that hold others say how many follow.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    /// Values that are still to come; 0 between replies.
    expected: u64,
    /// What they take up to here, and what has been announced.
    size: u64,
    part: Part,
}

#[derive(Clone, Copy, Debug, Default)]
enum Part {
    #[default]
    Kind,
    Line {
        kind: u8,
        length: u64,
        /// The start of the line: enough for any number.
        start: [u8; 20],
        ends: bool,
    },
    /// The bytes of a text that are still to come, its line's end included.
    Text(u64),
}

impl Count for Reply {
    fn count(&mut self, bytes: &[u8]) -> io::Result<()> {
        // That below, by its own errors.
        Self::count(self, bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl Reply {
    /// Counts what has come in.
    pub(crate) fn count(&mut self, mut bytes: &[u8]) -> Result<(), ReplyError> {
        while let Some((byte, rest)) = bytes.split_first() {
            match &mut self.part {
                Part::Text(left) => {
                    let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.value_ends();
                    }
                    continue;
                }
                Part::Kind => {
                    if !KINDS.contains(byte) {
                        return Err(ReplyError::NotAReply);
                    }
                    if self.expected == 0 {
                        (self.expected, self.size) = (1, 0);
                    }
                    self.part = Part::Line { kind: *byte, length: 0, start: [0; 20], ends: false };
                }
                Part::Line { kind, length, start, ends } => {
                    if *ends && *byte == b'\n' {
                        // Without the carriage return; what does not fit is no number.
                        let digits = start.get(..*length as usize - 1);
                        let text = digits.and_then(|digits| std::str::from_utf8(digits).ok());
                        let (kind, number) = (*kind, text.and_then(|text| text.parse().ok()));
                        self.line_ends(kind, number)?;
                    } else {
                        if let Some(place) = start.get_mut(*length as usize) {
                            *place = *byte;
                        }
                        *ends = *byte == b'\r';
                        *length += 1;
                        if LINE_MAX < *length {
                            return Err(ReplyError::TooLarge);
                        }
                        self.take(1)?;
                    }
                }
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Whether nothing of a reply is still to come.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn is_over(&self) -> bool {
        self.expected == 0 && matches!(self.part, Part::Kind)
    }

    /// A line is over that starts with `kind` and, if it is one, a number.
    fn line_ends(&mut self, kind: u8, number: Option<i64>) -> Result<(), ReplyError> {
        self.take(VALUE)?;
        if b"+-:_,#(".contains(&kind) || matches!((kind, number), (b'$' | b'*', Some(-1))) {
            self.value_ends();
            return Ok(());
        }
        let announced = number.and_then(|number| u64::try_from(number).ok());
        let announced = announced.ok_or(ReplyError::NotAReply)?;
        match kind {
            b'!' if LINE_MAX < announced => return Err(ReplyError::TooLarge),
            b'$' | b'=' | b'!' => {
                self.take(announced)?;
                self.part = Part::Text(announced + 2);
            }
            _ => {
                // The values of a map are pairs, and so are those of what is said of the value after them.
                let values = announced.saturating_mul(if matches!(kind, b'%' | b'|') { 2 } else { 1 });
                self.take(values.saturating_mul(VALUE))?;
                self.expected += values + u64::from(kind == b'|');
                self.value_ends();
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: u64) -> Result<(), ReplyError> {
        self.size = self.size.saturating_add(bytes);
        if REPLY_MAX < self.size { Err(ReplyError::TooLarge) } else { Ok(()) }
    }

    fn value_ends(&mut self) {
        self.expected -= 1;
        self.part = Part::Kind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts it whole, and byte by byte.
    fn count(bytes: &[u8]) -> Result<Reply, ReplyError> {
        let (mut whole, mut slow) = (Reply::default(), Reply::default());
        let counted = whole.count(bytes);
        assert_eq!(bytes.iter().try_for_each(|byte| slow.count(&[*byte])), counted);
        assert_eq!((whole.expected, whole.size), (slow.expected, slow.size));
        counted.map(|()| whole)
    }

    #[test]
    fn each_reply_is_counted_from_its_start_to_its_end() {
        for reply in [
            "+OK\r\n",
            "-ERR no\r\n",
            ":1\r\n",
            "$3\r\na\r\n\r\n",
            "$0\r\n\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
            "%2\r\n+a\r\n:1\r\n+b\r\n*0\r\n",
            "|1\r\n+a\r\n+b\r\n*1\r\n:1\r\n",
            "~1\r\n_\r\n",
            ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n",
            "=7\r\ntxt:abc\r\n",
            "!5\r\nERR x\r\n",
            ",1.5\r\n",
            "#t\r\n",
            "(123\r\n",
            "+a\rb\r\n",
        ] {
            assert!(count(reply.as_bytes()).unwrap().is_over(), "{reply:?}");
            // Cut anywhere, it is not over; and what follows is a reply of its own.
            for cut in 1..reply.len() {
                assert!(!count(&reply.as_bytes()[..cut]).unwrap().is_over(), "{reply:?} cut at {cut}");
            }
            let once = count(reply.as_bytes()).unwrap().size;
            assert_eq!(count(reply.repeat(3).as_bytes()).unwrap().size, once, "{reply:?}");
        }
    }

    #[test]
    fn a_reply_is_refused_as_soon_as_it_announces_too_much() {
        for reply in [
            "$67108865\r\n",
            "$9000000000\r\n",
            "$9223372036854775807\r\n",
            "!65537\r\n",
            "*2000000000\r\n",
            "*4611686018427387904\r\n",
            "%2000000\r\n",
            "%9223372036854775807\r\n",
            "|9223372036854775807\r\n",
            "~1099511627776\r\n",
            ">2147483647\r\n",
            ">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$8000000000\r\n",
            &format!("*2\r\n$40000000\r\n{}\r\n$40000000\r\n", "x".repeat(40_000_000)),
            &"*2\r\n:1\r\n".repeat(1_000_000),
            &format!("+{}", "x".repeat(65_537)),
            &format!("-{}", "x".repeat(65_537)),
            &"*10000\r\n".repeat(200),
        ] {
            let mut counted = Reply::default();
            assert_eq!(counted.count(reply.as_bytes()), Err(ReplyError::TooLarge), "{reply:.40}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in
            ["HTTP/1.1 400 Bad Request\r\n", "$-5\r\n", "*-7\r\n", "$x\r\n", "*\r\n", "%-1\r\n", "\r\n", "\0"]
        {
            assert_eq!(count(bytes.as_bytes()).unwrap_err(), ReplyError::NotAReply, "{bytes:?}");
        }
        let long = format!("${}1\r\n", "0".repeat(30));
        assert_eq!(count(long.as_bytes()).unwrap_err(), ReplyError::NotAReply);
    }
}
