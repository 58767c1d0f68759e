//! No body panics the decoder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repmd::protocol::decode_request;

fuzz_target!(|body: &[u8]| {
    let _ = decode_request(body);
});
