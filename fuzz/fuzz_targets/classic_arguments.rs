//! The stock command line takes any words.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| repmd::cli::fuzzing::classic_arguments(bytes));
