//! What an etcd answers, or whoever is in its place, is read or refused, and panics nobody.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| repmd_backend_etcd::fuzzing::reply(bytes));
