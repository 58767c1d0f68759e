//! What the scripts publish, as [`Change`]s.

use futures_util::stream::{self, BoxStream};
use redis::{PushInfo, PushKind, Value};
use repmd_backend_api::{AliveName, Change, HostId};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Changes that a slow watcher may be behind before it is told that it missed some.
pub(crate) const CHANGES_MAX: usize = 1024;

/// The change that a message on the channel tells: `+HOST/NAME` or `-HOST/NAME`.
pub(crate) fn change_of(push: &PushInfo) -> Option<Change> {
    let (PushKind::Message, [_channel, Value::BulkString(message)]) = (&push.kind, &push.data[..]) else {
        return None;
    };
    let (sign, rest) = message.split_first()?;
    let slash = rest.iter().position(|byte| *byte == b'/')?;
    let host = HostId::parse(std::str::from_utf8(&rest[..slash]).ok()?).ok()?;
    let name = AliveName::parse(&rest[slash + 1..]).ok()?;
    match sign {
        b'+' => Some(Change::Registered(name, host)),
        b'-' => Some(Change::Released(name, host)),
        _ => None,
    }
}

/// What comes from now on.
pub(crate) fn stream_of(changes: Receiver<Change>) -> BoxStream<'static, Change> {
    Box::pin(stream::unfold(changes, |mut changes| async {
        match changes.recv().await {
            Ok(change) => Some((change, changes)),
            Err(RecvError::Lagged(_)) => Some((Change::Missed, changes)),
            Err(RecvError::Closed) => None,
        }
    }))
}
