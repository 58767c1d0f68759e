//! Of a note of links, whoever may write to the store may have written anything.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| repmd::links::fuzzing::note(bytes));
