//! The wire format of EPMD without IO: bytes in, values out, and back.
//!
//! A request is `Length:2, Body:Length`, and its body starts with a one-byte [`tag`]. A reply has no
//! length: it is over when the daemon closes. All integers are big-endian. Both directions are here,
//! for the daemon and for its clients. Nothing in this module knows a socket, a clock or a task.

mod frame;
mod request;
mod response;
mod whereabouts;

pub use frame::split_frame;
pub use request::{Request, decode_request, encode_request};
pub use response::{
    NamesReply, PortReply, ReplyError, Response, decode_alive2_reply, decode_names_reply, decode_port_reply,
    write_active_line, write_names_line, write_old_line,
};

pub use whereabouts::{ADMIN_NAME, Whereabouts, decode_whereabouts, encode_whereabouts, is_reserved};

use repmd_backend_api::NameError;

/// The first byte of a request's body, or of a reply.
pub mod tag {
    /// Register: `ALIVE2_REQ`.
    pub const ALIVE2: u8 = b'x';
    /// Look up: `PORT_PLEASE2_REQ`.
    pub const PORT_PLEASE2: u8 = b'z';
    /// List the nodes of this host: `NAMES_REQ`.
    pub const NAMES: u8 = b'n';
    /// List them with the names of before: `DUMP_REQ`.
    pub const DUMP: u8 = b'd';
    /// End the daemon: `KILL_REQ`.
    pub const KILL: u8 = b'k';
    /// Unregister a node: `STOP_REQ`.
    pub const STOP: u8 = b's';
    /// `ALIVE2_RESP`, with a creation of two bytes, to nodes below version 6.
    pub const ALIVE2_RESP: u8 = 121;
    /// `ALIVE2_X_RESP`, with a creation of four bytes, to nodes of version 6 and above.
    pub const ALIVE2_X_RESP: u8 = 118;
    /// `PORT2_RESP`.
    pub const PORT2_RESP: u8 = 119;
}

/// The port that EPMD has with the IANA.
pub const DEFAULT_PORT: u16 = 4369;

/// The longest body of a request, in bytes. An ALIVE2 with the largest name and extra has 2,053; the
/// stock daemon takes this much.
pub const REQUEST_BYTES_MAX: usize = 3057;

/// Most bytes of a name or of an extra in ALIVE2.
pub const FIELD_BYTES_MAX: usize = 1020;

/// From this highest version on, a node understands creations of four bytes.
pub const WIDE_CREATION_VERSION: u16 = 6;

/// Why bytes are no request, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A length prefix of 0 or above [`REQUEST_BYTES_MAX`]. Close.
    #[error("invalid packet size ({0})")]
    FrameLength(usize),
    /// More bytes than the one request that a connection may carry. Close.
    #[error("got {got} bytes in packet, expected {expected}")]
    Surplus {
        /// Bytes that the length prefix promised, itself included.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// No request starts like this. Close.
    #[error("got unknown request tag {0}")]
    UnknownTag(u8),
    /// The body ends before the request's fixed fields do. Close.
    #[error("packet too small for request {request} ({bytes})")]
    TooShort {
        /// Name of the request.
        request: &'static str,
        /// Length of its body.
        bytes: usize,
    },
    /// A length field points past the end of the body. Close.
    #[error("{field} size error in ALIVE2_REQ")]
    FieldLength {
        /// Which field.
        field: &'static str,
    },
    /// A name that cannot be asked for, or a NUL in one that was to be registered. Close.
    #[error("{request}: {error}")]
    Name {
        /// Name of the request.
        request: &'static str,
        /// What is wrong with the name.
        error: NameError,
    },
    /// A well-formed ALIVE2 that cannot be granted. Answer with a refusal in the format of
    /// `highest_version`, as the stock daemon does, then close.
    #[error("{reason}")]
    Refused {
        /// The highest distribution version of the asker.
        highest_version: u16,
        /// What is wrong.
        reason: Refusal,
    },
}

/// Why a well-formed ALIVE2 is refused without looking at the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The extra is above [`FIELD_BYTES_MAX`].
    #[error("extra data is too long ({bytes})")]
    ExtraTooLong {
        /// Its length.
        bytes: usize,
    },
}
