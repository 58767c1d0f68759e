//! The names of the field: alive names, hosts, and both together.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Most characters of an alive name. Characters, not bytes: up to 1,020 bytes on the wire.
pub const ALIVE_NAME_CHARS_MAX: usize = 255;

/// Most characters of a host name, as in DNS.
pub const HOST_CHARS_MAX: usize = 253;

/// What EPMD registers: the part of `alive@host` before the `@`.
///
/// Always 1 to 255 characters of UTF-8 without NUL and without newline. It may hold an `@`, dots and
/// spaces, as the stock daemon allows. Compared byte by byte: no case folding, no normal forms.
/// Cheap to clone; clones share one text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AliveName(Arc<str>);

impl AliveName {
    /// Checks the bytes of a name that is to be registered.
    ///
    /// # Errors
    /// The first rule of [`AliveName`] that `bytes` break, as a [`NameError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NameError> {
        let text = Self::check(bytes)?;
        // NAMES has no escaping: a newline would forge the line of another node.
        if text.contains('\n') {
            return Err(NameError::ContainsNewline);
        }
        Ok(Self(text.into()))
    }

    /// The stock daemon's rules for a name that is only asked for: those of [`AliveName::parse`] without
    /// the newline, and without an allocation.
    ///
    /// # Errors
    /// As [`AliveName::parse`].
    pub fn check(bytes: &[u8]) -> Result<&str, NameError> {
        let text = std::str::from_utf8(bytes).map_err(|_| NameError::NotUtf8)?;
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        // Counting characters is for names that could be too long; others pass by their bytes.
        if ALIVE_NAME_CHARS_MAX < text.len() {
            let chars = text.chars().count();
            if ALIVE_NAME_CHARS_MAX < chars {
                return Err(NameError::TooLong { chars });
            }
        }
        if text.contains('\0') {
            return Err(NameError::ContainsNul);
        }
        Ok(text)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for AliveName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AliveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AliveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Which machine a registration belongs to: the identity of a daemon's network namespace.
///
/// The wire never says it; the daemon's settings do. 1 to 253 ASCII letters, digits, `-`, `_`, `.` and
/// `:` (an IPv6 address is a host part too). Kept in lower case, because hosts are compared without case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(Arc<str>);

impl HostId {
    /// Checks and lower-cases a host name.
    ///
    /// # Errors
    /// [`NameError`] when it is empty, too long, or holds a character that no host name has.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if HOST_CHARS_MAX < text.len() {
            return Err(NameError::TooLong { chars: text.chars().count() });
        }
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_.:".contains(*c))) {
            Some(character) => Err(NameError::NotInAHostName { character }),
            None => Ok(Self(text.to_ascii_lowercase().into())),
        }
    }

    /// The host in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// `alive@host`, for people: logs, errors and lists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeName {
    /// Before the `@`.
    pub alive: AliveName,
    /// After it.
    pub host: HostId,
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.alive, self.host)
    }
}

/// Why some bytes are no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No character at all.
    #[error("the name is empty")]
    Empty,
    /// More characters than a name may have.
    #[error("the name has {chars} characters, more than allowed")]
    TooLong {
        /// How many it has.
        chars: usize,
    },
    /// Overlong forms, surrogates, code points above U+10FFFF, or a sequence cut short.
    #[error("the name is not UTF-8")]
    NotUtf8,
    /// A NUL, which ends names in some requests.
    #[error("the name contains a NUL")]
    ContainsNul,
    /// A newline, which ends lines in NAMES.
    #[error("the name contains a newline")]
    ContainsNewline,
    /// A character outside letters, digits, `-`, `_`, `.` and `:`.
    #[error("a host name cannot contain {character:?}")]
    NotInAHostName {
        /// The first such character.
        character: char,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_255_characters_of_four_bytes_each_is_a_name() {
        assert_eq!(AliveName::parse("😈".repeat(255).as_bytes()).unwrap().as_str().len(), 1020);
    }

    #[test]
    fn a_name_of_256_characters_is_too_long_whatever_their_bytes() {
        for character in ["a", "é", "😈"] {
            let name = character.repeat(256);
            assert_eq!(AliveName::parse(name.as_bytes()), Err(NameError::TooLong { chars: 256 }));
        }
    }

    #[test]
    fn an_empty_name_a_nul_and_a_newline_are_refused_and_a_space_is_not() {
        assert_eq!(AliveName::parse(b""), Err(NameError::Empty));
        assert_eq!(AliveName::parse(b"a\0"), Err(NameError::ContainsNul));
        assert_eq!(AliveName::parse(b"a\nname b at port 1"), Err(NameError::ContainsNewline));
        assert_eq!(AliveName::parse(b"a b@c.d\t").unwrap().as_str(), "a b@c.d\t");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused() {
        for bytes in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
            assert_eq!(AliveName::parse(bytes), Err(NameError::NotUtf8), "{bytes:x?}");
        }
    }

    #[test]
    fn hosts_are_equal_without_case() {
        assert_eq!(HostId::parse("DB-1.Example").unwrap(), HostId::parse("db-1.example").unwrap());
    }

    #[test]
    fn a_host_with_an_at_a_slash_or_a_brace_is_refused() {
        for character in ['@', '/', '{', '}', ' ', 'é'] {
            let refused = HostId::parse(&format!("db{character}1"));
            assert_eq!(refused, Err(NameError::NotInAHostName { character }));
        }
    }
}
