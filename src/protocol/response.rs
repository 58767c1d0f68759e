//! What the daemon answers -> bytes, and back for clients.

use std::io::Write;

use repmd_backend_api::{Creation, Node};

use super::request::{Fields, push_counted};
use super::{WIDE_CREATION_VERSION, tag};

/// The creation beside a refusal. It means nothing; the stock daemon sends it.
const REFUSED_CREATION: u8 = 99;

/// One reply of the daemon. NAMES and DUMP are lists of lines behind a port: see [`Response::Listing`].
#[derive(Clone, Copy, Debug)]
pub enum Response<'a> {
    /// The node is registered.
    Alive2Granted {
        /// The asker's highest version decides the format.
        highest_version: u16,
        /// The node's creation.
        creation: Creation,
    },
    /// It is not. A node shows every refusal as `duplicate_name`.
    Alive2Refused {
        /// The asker's highest version decides the format.
        highest_version: u16,
    },
    /// The node listens there.
    PortFound {
        /// What it registered.
        node: &'a Node,
        /// Its own port, or the one that other machines reach it by.
        port: u16,
        /// The node's own extra, or where another host's node is reached.
        extra: &'a [u8],
    },
    /// No node has that name.
    PortNotFound,
    /// NAMES or DUMP: the port that the daemon listens on, before the lines.
    Listing {
        /// It takes four bytes.
        port: u16,
    },
    /// The daemon ends.
    Killed,
    /// It does not: nodes are registered.
    KillRefused,
    /// The node is unregistered.
    Stopped,
    /// There is no such node. (The stock daemon writes `STOPPED` behind it; clients read 7 bytes.)
    StopUnknown,
}

impl Response<'_> {
    /// Appends the reply to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Alive2Granted { highest_version, creation } if WIDE_CREATION_VERSION <= highest_version => {
                out.extend([tag::ALIVE2_X_RESP, 0]);
                out.extend(creation.get().to_be_bytes());
            }
            Self::Alive2Granted { creation, .. } => {
                out.extend([tag::ALIVE2_RESP, 0]);
                out.extend(creation.as_legacy().to_be_bytes());
            }
            Self::Alive2Refused { highest_version } if WIDE_CREATION_VERSION <= highest_version => {
                out.extend([tag::ALIVE2_X_RESP, 1, 0, 0, 0, REFUSED_CREATION]);
            }
            Self::Alive2Refused { .. } => out.extend([tag::ALIVE2_RESP, 1, 0, REFUSED_CREATION]),
            Self::PortFound { node, port, extra } => {
                out.extend([tag::PORT2_RESP, 0]);
                out.extend(port.to_be_bytes());
                out.extend([node.node_type.0, node.protocol]);
                out.extend(node.highest_version.to_be_bytes());
                out.extend(node.lowest_version.to_be_bytes());
                push_counted(out, node.name.as_str().as_bytes());
                push_counted(out, extra);
            }
            Self::PortNotFound => out.extend([tag::PORT2_RESP, 1]),
            Self::Listing { port } => out.extend(u32::from(port).to_be_bytes()),
            Self::Killed => out.extend(b"OK"),
            Self::KillRefused => out.extend(b"NO"),
            Self::Stopped => out.extend(b"STOPPED"),
            Self::StopUnknown => out.extend(b"NOEXIST"),
        }
    }
}

/// Appends the line of a node in NAMES.
pub fn write_names_line(out: &mut Vec<u8>, name: &str, port: u16) {
    writeln!(out, "name {name} at port {port}").expect("a Vec takes every write");
}

/// Appends the line of a registered node in DUMP; `fd` is any number that tells connections apart.
pub fn write_active_line(out: &mut Vec<u8>, name: &str, port: u16, fd: i32) {
    write!(out, "active name     <{name}> at port {port}, fd = {fd}\n\0").expect("a Vec takes every write");
}

/// Appends the line of a name that was registered before in DUMP. The space before the newline is the
/// stock daemon's.
pub fn write_old_line(out: &mut Vec<u8>, name: &str, port: u16, fd: i32) {
    write!(out, "old/unused name <{name}>, port = {port}, fd = {fd} \n\0").expect("a Vec takes every write");
}

/// Why bytes are no reply of an EPMD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The daemon closed before the reply was whole.
    #[error("the reply ends after {bytes} bytes")]
    TooShort {
        /// What there is of it.
        bytes: usize,
    },
    /// The first byte, or a length, is no EPMD's.
    #[error("the reply is not one of an EPMD")]
    Malformed,
}

/// A look-up's answer, as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortReply {
    /// Where the node accepts distribution connections.
    pub port: u16,
    /// 77 is a normal node, 72 a hidden one.
    pub node_type: u8,
    /// 0 is TCP.
    pub protocol: u8,
    /// Highest distribution version.
    pub highest_version: u16,
    /// Lowest distribution version.
    pub lowest_version: u16,
    /// The name as it was registered.
    pub name: Vec<u8>,
    /// The node's extra, or what repmd says of a node elsewhere.
    pub extra: Vec<u8>,
}

/// Reads the answer to PORT_PLEASE2; `None`: the daemon knows no such name.
///
/// # Errors
/// [`ReplyError`] when `reply` is not all of a PORT2_RESP.
pub fn decode_port_reply(reply: &[u8]) -> Result<Option<PortReply>, ReplyError> {
    let too_short = ReplyError::TooShort { bytes: reply.len() };
    let mut fields = Fields(reply);
    match fields.array().ok_or(too_short)? {
        [tag::PORT2_RESP, 0] => {}
        [tag::PORT2_RESP, _] => return Ok(None),
        _ => return Err(ReplyError::Malformed),
    }
    let port = fields.u16().ok_or(too_short)?;
    let [node_type, protocol] = fields.array().ok_or(too_short)?;
    let highest_version = fields.u16().ok_or(too_short)?;
    let lowest_version = fields.u16().ok_or(too_short)?;
    let name = fields.counted().ok_or(too_short)?.to_vec();
    let extra = fields.counted().ok_or(too_short)?.to_vec();
    Ok(Some(PortReply { port, node_type, protocol, highest_version, lowest_version, name, extra }))
}

/// Reads the answer to ALIVE2: the creation as it stands there, or `None` for a refusal.
///
/// # Errors
/// [`ReplyError`] when `reply` is neither ALIVE2_RESP nor ALIVE2_X_RESP, or is cut.
pub fn decode_alive2_reply(reply: &[u8]) -> Result<Option<u32>, ReplyError> {
    let too_short = ReplyError::TooShort { bytes: reply.len() };
    let mut fields = Fields(reply);
    let [tag, result] = fields.array().ok_or(too_short)?;
    let creation = match tag {
        tag::ALIVE2_X_RESP => fields.array().map(u32::from_be_bytes).ok_or(too_short)?,
        tag::ALIVE2_RESP => fields.u16().map(u32::from).ok_or(too_short)?,
        _ => return Err(ReplyError::Malformed),
    };
    Ok((result == 0).then_some(creation))
}

/// The answer to NAMES or DUMP, as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamesReply<'a> {
    /// The port that the daemon says it listens on.
    pub port: u32,
    /// The lines, as they came.
    pub lines: &'a [u8],
}

impl<'a> NamesReply<'a> {
    /// Name and port of each line of a NAMES reply that is one, as `net_adm:names` reads them.
    pub fn nodes(&self) -> impl Iterator<Item = (&'a str, u16)> {
        self.lines.split(|byte| *byte == b'\n').filter_map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            let (name, port) = line.strip_prefix("name ")?.rsplit_once(" at port ")?;
            Some((name, port.parse().ok()?))
        })
    }
}

/// Reads the answer to NAMES or DUMP.
///
/// # Errors
/// [`ReplyError::TooShort`] when not even the port is there.
pub fn decode_names_reply(reply: &[u8]) -> Result<NamesReply<'_>, ReplyError> {
    let Some((port, lines)) = reply.split_first_chunk() else {
        return Err(ReplyError::TooShort { bytes: reply.len() });
    };
    Ok(NamesReply { port: u32::from_be_bytes(*port), lines })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use repmd_backend_api::{AliveName, NodeType};

    fn bytes(response: Response<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        response.encode(&mut out);
        out
    }

    fn node(name: &str, extra: &[u8]) -> Node {
        Node {
            name: AliveName::parse(name.as_bytes()).unwrap(),
            port: 1234,
            node_type: NodeType::HIDDEN,
            protocol: 1,
            highest_version: 6,
            lowest_version: 5,
            extra: extra.into(),
        }
    }

    #[test]
    fn a_grant_has_the_format_that_the_askers_highest_version_understands() {
        let creation = Creation::new(0x6b04_d765).unwrap();
        for highest_version in [0, 5, 6, u16::MAX] {
            let reply = bytes(Response::Alive2Granted { highest_version, creation });
            let wide = [118, 0, 0x6b, 0x04, 0xd7, 0x65];
            let legacy = [121, 0, 0, (0x6b04_d765u32 % 3 + 1) as u8];
            assert_eq!(reply, if highest_version < 6 { &legacy[..] } else { &wide[..] });
        }
    }

    #[test]
    fn a_refusal_has_it_too() {
        assert_eq!(bytes(Response::Alive2Refused { highest_version: 5 }), [121, 1, 0, 99]);
        assert_eq!(bytes(Response::Alive2Refused { highest_version: 6 }), [118, 1, 0, 0, 0, 99]);
    }

    #[test]
    fn a_found_port_comes_with_all_that_was_registered() {
        let node = node("foo", b"");
        let reply = bytes(Response::PortFound { node: &node, port: 9101, extra: b"xy" });
        assert_eq!(reply, b"\x77\x00\x23\x8d\x48\x01\x00\x06\x00\x05\x00\x03foo\x00\x02xy");
    }

    #[test]
    fn an_extra_that_is_too_long_for_a_reply_is_cut_and_panics_nobody() {
        let node = node("foo", &[7; 70_000]);
        let reply = bytes(Response::PortFound { node: &node, port: 1, extra: &node.extra });
        let extra = decode_port_reply(&reply).unwrap().unwrap().extra;
        assert_eq!(extra, [7; u16::MAX as usize]);
    }

    #[test]
    fn a_port_reply_cut_anywhere_is_too_short() {
        let node = node("foo", b"xy");
        let whole = bytes(Response::PortFound { node: &node, port: 1, extra: &node.extra });
        for cut in 0..whole.len() {
            assert_eq!(decode_port_reply(&whole[..cut]), Err(ReplyError::TooShort { bytes: cut }));
        }
        assert!(decode_port_reply(&whole).unwrap().is_some());
    }

    #[test]
    fn lines_that_are_no_names_lines_are_skipped() {
        let mut reply = vec![0, 0, 17, 17];
        write_names_line(&mut reply, "a b at port 7", 25672);
        reply.extend(b"junk\nname c at port 70000\n");
        let names = decode_names_reply(&reply).unwrap();
        assert_eq!(names.port, 4369);
        assert_eq!(names.nodes().collect::<Vec<_>>(), [("a b at port 7", 25672)]);
    }

    proptest! {
        #[test]
        fn what_the_daemon_encodes_a_client_decodes(
            name in "[^\0\n]{1,255}", port: u16, extra in prop::collection::vec(any::<u8>(), 0..=1020),
        ) {
            let node = node(&name, b"own");
            let reply = decode_port_reply(&bytes(Response::PortFound { node: &node, port, extra: &extra }));
            let reply = reply.unwrap().unwrap();
            prop_assert_eq!((reply.port, reply.node_type, reply.protocol), (port, 72, 1));
            prop_assert_eq!((reply.name, reply.extra), (name.into_bytes(), extra));
        }

        #[test]
        fn no_reply_panics_a_client(reply: Vec<u8>) {
            let _ = decode_port_reply(&reply);
            let _ = decode_alive2_reply(&reply);
            let _ = decode_names_reply(&reply).map(|names| names.nodes().count());
        }
    }
}
