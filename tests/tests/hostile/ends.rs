//! Cases 26 to 28: what ends a machine, and what does not.

use crate::ports::{I8042, PORTS, POWER, PVPANIC, SERIAL, ends, port};
use crate::{
    FAILED, PANICKED, POWERED_OFF, TRIPLE_FAULT, VMM, answers, client, ended_with, is_flat, start,
};
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use tests::puppet::{Call, Descriptor, Driver, FREE, Op, Puppet, Setting};
use vmm::control::wire::Request;
use vmm::state::VmState;

#[test]
fn case_26_a_triple_fault_ends_the_machine_and_says_so() {
    let puppet = start();
    puppet.send(&[Call::new(Op::TripleFault)]);
    ended_with(&puppet, TRIPLE_FAULT, "triple fault");
}

#[test]
fn case_26_a_halt_that_nothing_ends_costs_nothing_and_the_host_can_end_it() {
    let puppet = start();
    puppet.send(&[Call::new(Op::Hlt)]);
    puppet.wait_for("the processor's rest", || {
        let before = puppet.usage().processors;
        thread::sleep(Duration::from_millis(20));
        puppet.usage().processors.saturating_sub(before) < Duration::from_millis(2)
    });
    assert!(!puppet.has_answered());
    answers(&puppet);
    let mut client = client(&puppet);
    client.act(Request::Pause).unwrap();
    client.act(Request::Resume).unwrap();
    client.work(Request::TurnOff).unwrap();
    ended_with(&puppet, POWERED_OFF, "turned off");
}

#[test]
fn case_26_a_storm_of_power_offs_ends_the_machine_once() {
    let puppet = start();
    let off = Call { rdx: POWER, rax: 0x34, rcx: 100_000, ..Call::new(Op::OutStorm) };
    puppet.send(&[off]);
    ended_with(&puppet, POWERED_OFF, "powered off");
    assert_eq!(puppet.stderr().matches("puppet:").count(), 1, "{}", puppet.stderr());
}

#[test]
fn case_26_a_storm_of_resets_resets_the_machine_and_nobody_else() {
    let puppet = start();
    let mut other = client(&puppet);
    answers(&puppet);
    for (at, value) in [(I8042 + 4, 0xfe), (POWER + 2, 1), (I8042 + 4, 0xfe)] {
        let before = puppet.usage();
        puppet.mark();
        let reset = Call { rdx: at, rax: value, rcx: 100_000, ..Call::new(Op::OutStorm) };
        puppet.send(&[reset]);
        puppet.attach();
        assert_eq!(puppet.read32(0xd000_0000), 0x7472_6976, "the next boot is there");
        is_flat(&puppet, &before, "a storm of resets");
        puppet.wait_for("the next boot", || other.machine().unwrap().state == VmState::Running);
    }
}

#[test]
fn case_26_code_where_there_is_no_memory_is_an_error_of_its_own() {
    // Not at the first device, whose registers are memory to read.
    for address in [0xd000_1000, 0xc800_0000, 0xfec0_0000] {
        let puppet = start();
        puppet.send(&[Call { code: address, ..Call::default() }]);
        puppet.wait_until("an answer, or the end", || puppet.has_answered());
        let end = puppet.end();
        // Each has its own words.
        let words = match end.status.code() {
            Some(TRIPLE_FAULT) => "triple fault",
            Some(FAILED) => "at rip 0x",
            _ => panic!("{end:?}"),
        };
        assert!(end.stderr.contains(words), "{end:?}");
        assert!(!end.stderr.contains("panicked at"), "{end:?}");
    }
}

/// The guest is not at fault for an instruction that the processor knows and KVM does not.
#[test]
fn case_26_what_kvm_cannot_do_for_a_guest_is_no_triple_fault() {
    let puppet = start();
    // fld tbyte ptr [rdi]; ret: ten bytes, for which there is no exit.
    puppet.poke(FREE, &[0xdb, 0x2f, 0xc3]);
    puppet.send(&[Call { code: FREE, rdi: 0xd000_1000, ..Call::default() }]);
    ended_with(&puppet, FAILED, "KVM cannot emulate the guest's instruction at rip 0x");
}

#[test]
fn case_27_a_flood_on_the_console_that_nobody_reads_stops_neither_guest_nor_host() {
    let setting = Setting { unread: true, ..Setting::new(VMM) };
    let puppet = Rc::new(Puppet::start(&setting.with(&["--console-device", "virtio"])));
    let driver = Driver::of(&puppet, 3);
    driver.bring_up(0);
    let serial = Call { rdx: SERIAL, rax: b'x'.into(), rcx: 10_000, ..Call::new(Op::OutStorm) };
    // A megabyte fills the pipe, and the monitor's own buffer.
    let flood = || {
        for _ in 0..16 {
            driver.submit(1, &[Descriptor::readable(FREE, 64 << 10)]);
        }
        puppet.call_for_effect(serial);
    };
    flood();
    answers(&puppet);
    let before = puppet.usage();
    for _ in 0..4 {
        flood();
    }
    is_flat(&puppet, &before, "a flood on the console");
    answers(&puppet);
    // Who does not read keeps nobody from ending it.
    client(&puppet).work(Request::TurnOff).unwrap();
    ended_with(&puppet, POWERED_OFF, "turned off");
}

#[test]
fn case_28_garbage_at_the_keyboard_the_clock_and_the_power_registers_changes_nothing() {
    let puppet = start();
    for (base, count) in PORTS {
        let mut calls = Vec::new();
        for at in base..base + count {
            for value in 0..=u8::MAX {
                if !ends(at, value) {
                    calls.push(port(Op::Out8, at, value.into()));
                    calls.push(port(Op::In8, at, 0));
                }
            }
            // What is an order as a byte is none in company.
            for order in [0xfe_fe_u64, 0x34_34, 0x01_01, 0xffff] {
                if at != PVPANIC {
                    calls.push(port(Op::Out16, at, order));
                    calls.push(port(Op::Out32, at, order << 16 | order));
                }
            }
        }
        for call in puppet.calls(&calls) {
            assert_eq!(call.exception(), None, "{call:x?}");
        }
        answers(&puppet);
    }
    assert!(puppet.lives());
}

#[test]
fn case_28_what_is_an_order_is_obeyed() {
    for (at, value, code, words) in [
        (POWER, 0x34, POWERED_OFF, "powered off"),
        (POWER, 0xf7, POWERED_OFF, "powered off"),
        (PVPANIC, 1, PANICKED, "panicked"),
        (PVPANIC, 0xff, PANICKED, "panicked"),
    ] {
        let puppet = start();
        puppet.send(&[port(Op::Out8, at, value)]);
        ended_with(&puppet, code, words);
    }
}
