//! What is read as whereabouts is written so that it reads the same, and no node may claim it as its own extra.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repmd::protocol::{FIELD_BYTES_MAX, decode_whereabouts, encode_whereabouts, is_reserved};

fuzz_target!(|extra: &[u8]| {
    let Some(found) = decode_whereabouts(extra) else { return };
    assert!(is_reserved(extra));
    let written = encode_whereabouts(&found.addresses, &found.host);
    let again = decode_whereabouts(&written).expect("it was read before");
    assert_eq!(again.host, found.host);
    assert!(written.len() <= FIELD_BYTES_MAX);
    // What is too long for a reply loses its last addresses: no more than it must.
    const ADDRESS_BYTES_MAX: usize = ",ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();
    assert!(found.addresses.starts_with(&again.addresses));
    assert!(again.addresses == found.addresses || FIELD_BYTES_MAX < written.len() + ADDRESS_BYTES_MAX);
});
