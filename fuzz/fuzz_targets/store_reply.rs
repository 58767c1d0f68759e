//! What bounds the replies of a store sees their ends where the client library does.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| repmd_backend_redis::fuzzing::reply(bytes));
