//! Gives the bytes of a fuzzer to [`vmm::fuzzing::qcow2`].

#![no_main]

libfuzzer_sys::fuzz_target!(
    // The library that reads images panics over some of them, which is caught: without the hook that
    // ends the process at once, only a panic that is not caught does.
    init: drop(std::panic::take_hook()),
    |data: &[u8]| vmm::fuzzing::qcow2(data)
);
