//! No reply panics a client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repmd::protocol::{decode_alive2_reply, decode_names_reply, decode_port_reply};

fuzz_target!(|reply: &[u8]| {
    let _ = decode_alive2_reply(reply);
    let _ = decode_port_reply(reply);
    if let Ok(names) = decode_names_reply(reply) {
        let _ = names.nodes().count();
    }
});
