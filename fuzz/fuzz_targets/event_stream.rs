//! Events are the same events however their stream is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| repmd::cli::fuzzing::event_stream(bytes));
