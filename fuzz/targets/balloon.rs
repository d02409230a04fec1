//! Gives the bytes of a fuzzer to [`vmm::fuzzing::balloon`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::fuzzing::balloon(data));
