//! Gives the bytes of a fuzzer to [`vmm::fuzzing::hybrid`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::fuzzing::hybrid(data));
