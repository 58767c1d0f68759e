//! The names of the field: alive names, hosts, and both together.

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
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

    /// Whether a resolver may be told an address for this name, which another daemon has chosen: it is no
    /// address in any form that `inet_aton` reads (`127.1`, `0x7f.1`, `2130706433`), no name by which every
    /// machine means itself, no option of a command (`-c`), and no label of it is empty.
    #[must_use]
    pub fn is_resolvable(&self) -> bool {
        const OWN: [&str; 4] = ["localhost", "localhost4", "localhost6", "localdomain"];
        let name = self.0.strip_suffix('.').unwrap_or(&self.0);
        let is_number = |label: &str| match label.strip_prefix("0x") {
            Some(digits) => digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
            None => label.bytes().all(|digit| digit.is_ascii_digit()),
        };
        let (first, last) = (name.split('.').next(), name.rsplit('.').next());
        let is_own = |label: Option<&str>| label.is_some_and(|label| OWN.contains(&label));
        !name.starts_with('-')
            && !name.contains(':')
            && !name.split('.').any(str::is_empty)
            && !name.split('.').all(is_number)
            && !is_own(first)
            && !is_own(last)
            && !["ip6-localhost", "ip6-loopback"].contains(&name)
    }
}

/// Whether an address that a daemon advertises can be one by which others reach it: neither unspecified nor
/// loopback, multicast or broadcast.
#[must_use]
pub fn is_reachable(address: IpAddr) -> bool {
    match address.to_canonical() {
        // All of 0.0.0.0/8 means this machine, or nothing.
        IpAddr::V4(v4) => {
            v4.octets()[0] != 0 && !v4.is_loopback() && !v4.is_multicast() && !v4.is_broadcast()
        }
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_loopback() && !v6.is_multicast(),
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

    #[test]
    fn an_address_in_disguise_or_a_name_of_every_machine_for_itself_is_not_resolvable() {
        for name in ["127.1", "0x7f.1", "2130706433", "0x", "10.0.0.1", "127.0.0.1.", "::1", "fe80::1", "a:b"]
        {
            assert!(!HostId::parse(name).unwrap().is_resolvable(), "{name}");
        }
        for name in ["-", "-c", ".", "..", ".a", "a..b", "localhost", "LocalHost.", "localhost.localdomain"]
            .into_iter()
            .chain(["db.localhost", "localhost6.localdomain6", "ip6-localhost", "ip6-loopback"])
        {
            assert!(!HostId::parse(name).unwrap().is_resolvable(), "{name}");
        }
        for name in ["db", "db-1.example", "db.1", "1a", "0xdb.example", "service.1", "a_b", "db.example."] {
            assert!(HostId::parse(name).unwrap().is_resolvable(), "{name}");
        }
    }

    #[test]
    fn nobody_is_reached_at_an_address_that_means_oneself_or_many() {
        for address in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.9.9.9", "224.0.0.1", "255.255.255.255"]
            .into_iter()
            .chain(["::", "::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"])
        {
            assert!(!is_reachable(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1", "169.254.1.1", "6.6.6.8", "2001:db8::1", "::ffff:10.0.0.1"] {
            assert!(is_reachable(address.parse().unwrap()), "{address}");
        }
    }
}
