//! However a stream is cut, the frame in it is found at the same place, or never.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repmd::protocol::split_frame;

fuzz_target!(|bytes: &[u8]| {
    let whole = split_frame(bytes);
    if let Ok(Some(body)) = whole {
        assert_eq!(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), body.len());
        for cut in 0..bytes.len() {
            assert_eq!(split_frame(&bytes[..cut]), Ok(None));
        }
    }
});
