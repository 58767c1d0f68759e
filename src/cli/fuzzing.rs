//! What the targets in `fuzz/` reach of the commands.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::api::{Event, Events};
use super::classic;

/// A stream of events says the same however it is cut, and nothing in it panics. The first byte says where.
///
/// # Panics
/// Where it does not.
pub fn event_stream(bytes: &[u8]) {
    let Some((first, stream)) = bytes.split_first() else { return };
    let whole = Events::default().take(stream);
    let mut events = Events::default();
    let pieces: Vec<Event> =
        stream.chunks(usize::from(*first) + 1).flat_map(|piece| events.take(piece)).collect();
    assert_eq!(whole, pieces);
    for Event { id, kind, data } in whole {
        let again = format!("id: {id}\nevent: {kind}\ndata: {data}\n\n");
        assert_eq!(Events::default().take(again.as_bytes()), [Event { id, kind, data }]);
    }
}

/// The stock command line takes any words, of any bytes but NUL, and the settings that it makes of them are checked
/// without a panic.
pub fn classic_arguments(bytes: &[u8]) {
    let words: Vec<_> =
        bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    classic::read(&words);
}
