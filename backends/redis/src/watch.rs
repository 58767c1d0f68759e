//! What the scripts publish, as [`Change`]s.

use redis::{PushInfo, PushKind, Value};
use repmd_backend_api::{AliveName, Change, HostId};

/// The change that a message on the channel tells: `+HOST/NAME`, `-HOST/NAME`, `xHOST/NAME`, or `*` for more than are
/// told one by one. Versions that do not know the last one pass it over, and find what is new a second later.
pub(crate) fn change_of(push: &PushInfo) -> Option<Change> {
    let (PushKind::Message, [_channel, Value::BulkString(message)]) = (&push.kind, &push.data[..]) else {
        return None;
    };
    let (sign, rest) = message.split_first()?;
    if (sign, rest) == (&b'*', &[][..]) {
        return Some(Change::Missed);
    }
    let slash = rest.iter().position(|byte| *byte == b'/')?;
    let host = HostId::parse(std::str::from_utf8(&rest[..slash]).ok()?).ok()?;
    let name = AliveName::parse(&rest[slash + 1..]).ok()?;
    match sign {
        b'+' => Some(Change::Registered(name, host)),
        b'-' => Some(Change::Released(name, host)),
        b'x' => Some(Change::Expired(name, host)),
        _ => None,
    }
}
