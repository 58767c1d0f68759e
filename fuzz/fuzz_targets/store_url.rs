//! A store's URL is understood or refused, and its password shows in neither case.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| repmd_backend_redis::fuzzing::store_url(text));
