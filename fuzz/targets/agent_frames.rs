//! Gives the bytes of a fuzzer to [`vmm::fuzzing::agent_frames`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::fuzzing::agent_frames(data));
