//! A question by DNS is any packet.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| repmd::dns::fuzzing::question(packet));
