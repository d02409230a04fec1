//! Gives the bytes of a fuzzer to [`vmm::fuzzing::definition`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::fuzzing::definition(data));
