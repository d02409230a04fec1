//! Cases 29 and 30: what a guest can ask its processor.

use crate::{FAILED, POWERED_OFF, answers, client, ended_with, start};
use std::path::Path;
use std::time::Duration;
use tests::puppet::{Call, FREE, Op};
use vmm::control::wire::Request;

const GENERAL_PROTECTION: u64 = 13;
const INVALID_OPCODE: u64 = 6;

/// Leaves of CPUID that a guest may ask for.
fn leaves() -> impl Iterator<Item = (u64, u64)> {
    let functions = (0..0x24).chain(0x4000_0000..0x4000_0010).chain(0x8000_0000..0x8000_0028);
    let functions = functions.chain([0x4000_0100, 0x8ffe_ffff, 0xc000_0000, 0xffff_ffff]);
    functions
        .flat_map(|function| (0..8).chain([63, 0xffff_ffff]).map(move |index| (function, index)))
}

#[test]
fn case_29_cpuid_shows_no_virtualization_of_its_own_and_answers_everything() {
    let puppet = start();
    let ask = |(rax, rcx)| Call { rax, rcx, ..Call::new(Op::Cpuid) };
    let calls: Vec<Call> = leaves().map(ask).collect();
    for call in puppet.calls(&calls) {
        assert_eq!(call.exception(), None, "{call:x?}");
    }
    let leaf = |function: u64| puppet.call(ask((function, 0)));
    assert_eq!(leaf(1).rcx >> 31 & 1, 1, "there is a hypervisor");
    assert_eq!(leaf(1).rcx >> 5 & 1, 0, "VT-x");
    assert_eq!(leaf(0x8000_0001).rcx >> 2 & 1, 0, "AMD-V");
    assert_eq!(leaf(0xa).rax & 0xff, 0, "performance counters");
    answers(&puppet);
}

#[test]
fn case_29_registers_that_are_not_there_are_a_fault_of_the_guest() {
    let puppet = start();
    let ranges = [0..0x300, 0x400..0x420, 0x480..0x4a0, 0x600..0x640, 0xd00..0xdb0];
    let ranges = ranges.into_iter().flatten().chain(0x4b56_4d00..0x4b56_4d10);
    let all: Vec<u64> = ranges
        .chain(0xc000_0080..0xc000_0110)
        .chain(0xc001_0000..0xc001_0150)
        .chain([0x4000_0000, 0x4000_0001, 0xc001_1029, 0x7fff_ffff, 0xffff_ffff])
        .collect();
    let calls: Vec<Call> =
        all.iter().map(|rcx| Call { rcx: *rcx, ..Call::new(Op::Rdmsr) }).collect();
    for call in puppet.calls(&calls) {
        assert!(matches!(call.exception(), None | Some(GENERAL_PROTECTION)), "{call:x?}");
    }
    let nobody = puppet.call(Call { rcx: 0x7fff_ffff, ..Call::new(Op::Rdmsr) });
    // A host can be told to let its guests have all of them.
    let ignored = std::fs::read_to_string("/sys/module/kvm/parameters/ignore_msrs");
    if ignored.is_ok_and(|text| text.starts_with('Y')) {
        eprintln!(
            "NOT TESTED: this host ignores guests that ask for registers which are not there"
        );
    } else {
        assert_eq!(nobody.exception(), Some(GENERAL_PROTECTION));
    }
    answers(&puppet);
}

/// Registers through which KVM writes to the guest's memory: clocks, stolen time, page faults, ends of
/// interrupts.
#[test]
fn case_29_registers_that_name_memory_which_is_not_there_harm_nobody() {
    let paravirtual = (0x4b56_4d00..0x4b56_4d09).chain([0x11, 0x12]);
    for rcx in paravirtual {
        let puppet = start();
        for address in
            [0xd000_0000, 0xc000_0000, 32 << 20, (32 << 20) - 8, 1 << 40, !0xfff, !0, 0x1000, 0]
        {
            for flags in [0, 1, 3, 0x3f] {
                let value: u64 = address | flags;
                let (rax, rdx) = (value & 0xffff_ffff, value >> 32);
                let wrote = puppet.call(Call { rcx, rax, rdx, ..Call::new(Op::Wrmsr) });
                let fault = wrote.exception();
                assert!(matches!(fault, None | Some(GENERAL_PROTECTION)), "{wrote:x?}");
            }
        }
        answers(&puppet);
        assert!(puppet.lives(), "{rcx:#x}");
    }
}

#[test]
fn case_29_garbage_in_registers_is_taken_or_a_fault() {
    let puppet = start();
    // Not those with which the processor would stop to be this one: EFER, the local APIC, the x2APIC.
    let strange = (0x0..0x1b).chain(0x1c..0x10f).chain(0x174..0x180).chain(0x186..0x1a0);
    let strange = strange.chain(0x200..0x210).chain(0x250..0x2ff).chain(0x400..0x420);
    let strange = strange.chain(0x480..0x4a0).chain([0x7fff_ffff]).chain(0xc001_0000..0xc001_0150);
    let mut calls = Vec::new();
    for rcx in strange {
        for (rax, rdx) in [(0xffff_ffff, 0xffff_ffff), (0xaaaa_aaaa, 0x5555_5555)] {
            calls.push(Call { rcx, rax, rdx, ..Call::new(Op::Wrmsr) });
        }
    }
    for call in puppet.calls(&calls) {
        assert!(matches!(call.exception(), None | Some(GENERAL_PROTECTION)), "{call:x?}");
    }
    answers(&puppet);
}

/// A KVM that interprets its guests may never get past a hypercall: that is the guest's own trouble.
#[test]
fn case_30_hypercalls_are_answered_or_stop_only_who_makes_them() {
    let puppet = start();
    let vendor = puppet.call(Call::new(Op::Cpuid));
    let intel = vendor.rbx == 0x756e_6547;
    let own = if intel { Op::Vmcall } else { Op::Vmmcall };
    let native = ["kvm_intel", "kvm_amd"].map(|name| Path::new("/sys/module").join(name).exists());
    let native = native.contains(&true);
    for rax in [0, 1, 5, 9, 10, 11, 12, 100, 0xffff_ffff, u64::MAX] {
        let garbage = Call { rax, rbx: !0, rcx: !0, rdx: !0, rsi: !0, ..Call::new(own) };
        puppet.send(&[garbage]);
        if native {
            puppet.await_answer();
        } else if !puppet.answers_within(Duration::from_secs(5)) {
            eprintln!("NOT TESTED: this KVM never gets past hypercall {rax:#x}");
            break;
        }
    }
    answers(&puppet);
    assert!(puppet.lives());
    client(&puppet).work(Request::TurnOff).unwrap();
    ended_with(&puppet, POWERED_OFF, "turned off");
}

#[test]
fn case_30_instructions_of_a_hypervisor_are_not_there() {
    // vmxoff; vmrun; invept rax, [rdi]; vmload: each with a return behind it.
    for code in [
        &[0x0f, 0x01, 0xc4, 0xc3][..],
        &[0x0f, 0x01, 0xd8, 0xc3],
        &[0x66, 0x0f, 0x38, 0x80, 0x07, 0xc3],
        &[0x0f, 0x01, 0xda, 0xc3],
    ] {
        // The one before may have ended its machine.
        let puppet = start();
        puppet.poke(FREE, code);
        puppet.send(&[Call { code: FREE, rdi: FREE, ..Call::default() }]);
        puppet.wait_until("an answer, or the end", || puppet.has_answered());
        if !puppet.lives() {
            ended_with(&puppet, FAILED, "cannot go on");
            continue;
        }
        let done = puppet.calls_done(1)[0];
        let fault = done.exception();
        assert!(matches!(fault, Some(INVALID_OPCODE | GENERAL_PROTECTION)), "{code:x?}: {done:x?}");
        answers(&puppet);
    }
}
