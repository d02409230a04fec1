//! Gives the bytes of a fuzzer to [`vmm::fuzzing::net`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::fuzzing::net(data));
