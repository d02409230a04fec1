//! Gives the bytes of a fuzzer to [`vmm::fuzzing::host_frames`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::fuzzing::host_frames(data));
