//! Gives the bytes of a fuzzer to [`vmm::fuzzing::vsock_queues`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::fuzzing::vsock_queues(data));
