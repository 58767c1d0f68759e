//! The start of the distribution handshake, up to where the cookie would be needed: it tells who a node is,
//! and whether it takes connections at all.
//!
//! Version 6 of the handshake, as OTP 23 and later speak it:
//! <https://www.erlang.org/doc/apps/erts/erl_dist_protocol.html#distribution-handshake>

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::printable::in_words;

/// The name that a node is asked by. Each name stays in the node's table of atoms, so it is always the same;
/// no node has it.
const PROBE: &str = "repmd-doctor@localhost";

/// What a node of any release from OTP 23 on demands of others: a node that lacks one is turned away
/// before it is told more. Not among them: PUBLISHED, so that the probe counts as a hidden node.
const FLAGS: u64 = 0x4 // EXTENDED_REFERENCES
    | 0x10 // FUN_TAGS
    | 0x80 // NEW_FUN_TAGS
    | 0x100 // EXTENDED_PIDS_PORTS
    | 0x200 // EXPORT_PTR_TAG
    | 0x400 // BIT_BINARIES
    | 0x800 // NEW_FLOATS
    | 0x1_0000 // UTF8_ATOMS
    | 0x2_0000 // MAP_TAG
    | 0x4_0000 // BIG_CREATION
    | 0x100_0000 // HANDSHAKE_23
    | 0x200_0000 // UNLINK_ID
    | 0x4_0000_0000; // V4_NC

/// That a node is known to all others (`dist.hrl`).
const PUBLISHED: u64 = 0x1;

/// How long a node may take for a step; it allows its peers 7 s itself.
pub(crate) const STEP_TIME: Duration = Duration::from_secs(7);

/// What the other side showed itself to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// A node.
    Node {
        /// Its full name.
        name: String,
        /// Whether it is an ordinary node, which others make known to each other; a hidden one is not.
        is_published: bool,
    },
    /// A node that does not want this connection, by the word that it said.
    Unwilling(String),
    /// Something that speaks TLS.
    Tls,
    /// It hung up, or fell silent.
    Nothing(String),
    /// It said something else.
    Other(Vec<u8>),
}

/// Starts the handshake on a new connection, and hangs up. Waits so long for each step.
pub(crate) fn meet(mut stream: TcpStream, step_time: Duration) -> Met {
    match start(&mut stream, step_time) {
        Ok(met) => met,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Met::Nothing("it says nothing".to_owned()),
        Err(error) => Met::Nothing(format!("it hangs up ({})", in_words(&error))),
    }
}

fn start(stream: &mut TcpStream, step_time: Duration) -> io::Result<Met> {
    stream.set_read_timeout(Some(step_time))?;
    stream.set_write_timeout(Some(step_time))?;
    stream.write_all(&send_name())?;
    let status = match read_message(stream)? {
        Ok(status) => status,
        Err(alien) => return Ok(alien),
    };
    let Some(status) = status.strip_prefix(b"s") else { return Ok(Met::Other(status)) };
    match &*String::from_utf8_lossy(status) {
        "ok" | "ok_simultaneous" => {}
        unwilling => return Ok(Met::Unwilling(unwilling.to_owned())),
    }
    Ok(match read_message(stream)? {
        Ok(challenge) => challenger(&challenge).unwrap_or(Met::Other(challenge)),
        Err(alien) => alien,
    })
}

/// `Length:2 'N' Flags:8 Creation:4 NameLength:2 Name`
fn send_name() -> Vec<u8> {
    let mut body = vec![b'N'];
    body.extend(FLAGS.to_be_bytes());
    body.extend(1u32.to_be_bytes());
    let length = |bytes: usize| u16::try_from(bytes).expect("the probe's name is short").to_be_bytes();
    body.extend(length(PROBE.len()));
    body.extend(PROBE.as_bytes());
    [&length(body.len())[..], &body].concat()
}

/// One message, or what is there instead.
fn read_message(stream: &mut TcpStream) -> io::Result<Result<Vec<u8>, Met>> {
    /// An alert or a handshake record of TLS; as lengths they would be far beyond any message.
    const TLS: [[u8; 2]; 2] = [[0x15, 0x03], [0x16, 0x03]];
    /// No message of the handshake is longer.
    const LENGTH_MAX: usize = 2048;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    if TLS.contains(&length) {
        return Ok(Err(Met::Tls));
    }
    let bytes = usize::from(u16::from_be_bytes(length));
    if LENGTH_MAX < bytes {
        return Ok(Err(Met::Other(length.to_vec())));
    }
    let mut message = vec![0; bytes];
    stream.read_exact(&mut message)?;
    Ok(Ok(message))
}

/// Who sent a challenge: `'N' Flags:8 Challenge:4 Creation:4 NameLength:2 Name`, or the older
/// `'n' Version:2 Flags:4 Challenge:4 Name`.
fn challenger(challenge: &[u8]) -> Option<Met> {
    let (flags, name) = match challenge.first()? {
        b'N' => {
            let (length, rest) = challenge.get(17..)?.split_first_chunk::<2>()?;
            let flags = u64::from_be_bytes(*challenge.get(1..)?.first_chunk()?);
            (flags, rest.get(..usize::from(u16::from_be_bytes(*length)))?)
        }
        b'n' => {
            let flags = u32::from_be_bytes(*challenge.get(3..)?.first_chunk()?);
            (flags.into(), challenge.get(11..)?)
        }
        _ => return None,
    };
    let name = std::str::from_utf8(name).ok()?;
    let node = || Met::Node { name: name.to_owned(), is_published: flags & PUBLISHED != 0 };
    name.contains('@').then(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_challenge_is_found_in_both_formats_and_whether_the_node_is_hidden() {
        for is_published in [false, true] {
            let flags = [FLAGS as u32 | u32::from(is_published)].map(u32::to_be_bytes).concat();
            let new = [b"N\0\0\0\0".as_slice(), &flags, &[1; 4], &[2; 4], &[0, 3], b"a@b"].concat();
            let old = [b"n".as_slice(), &[0, 5], &flags, &[1; 4], b"a@b"].concat();
            for challenge in [&new, &old] {
                assert_eq!(challenger(challenge), Some(Met::Node { name: "a@b".to_owned(), is_published }));
            }
            for cut in 0..new.len() {
                assert_eq!(challenger(&new[..cut]), None, "cut after {cut} bytes");
            }
        }
    }

    #[test]
    fn the_probe_is_the_same_name_each_time_and_its_lengths_fit() {
        let sent = send_name();
        assert_eq!(usize::from(u16::from_be_bytes([sent[0], sent[1]])), sent.len() - 2);
        assert!(sent.ends_with(b"\x00\x16repmd-doctor@localhost"));
    }
}
