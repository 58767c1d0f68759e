//! What the targets in `fuzz/` reach of the commands.

use super::api::{Event, Events};

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
