//! What decodes encodes to a request that decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repmd::protocol::{decode_request, encode_request, split_frame};

fuzz_target!(|body: &[u8]| {
    let Ok(request) = decode_request(body) else { return };
    let bytes = encode_request(&request);
    let again = split_frame(&bytes).expect("the frame is valid").expect("the frame is whole");
    // An empty name to stop cannot be sent again: its tag alone is too short a request.
    if again != b"s" {
        assert_eq!(decode_request(again), Ok(request));
    }
});
