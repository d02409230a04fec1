//! Gives the bytes of a fuzzer to [`vmm::fuzzing::vsock`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::fuzzing::vsock(data));
