//! Gives the bytes of a fuzzer to [`vmm::fuzzing::kernel`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::fuzzing::kernel(data));
