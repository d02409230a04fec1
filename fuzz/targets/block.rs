//! Gives the bytes of a fuzzer to [`vmm::fuzzing::block`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::fuzzing::block(data));
