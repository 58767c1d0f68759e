//! What a store holds is read or refused, and panics nobody.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| repmd_backend_redis::fuzzing::stored_record(value));
