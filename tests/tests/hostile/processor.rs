//! Cases 29 and 30: what a guest can ask its processor.

use crate::{FAILED, POWERED_OFF, TRIPLE_FAULT, answers, client, ended_with, start};
use std::path::Path;
use std::time::{Duration, Instant};
use tests::puppet::{Call, FREE, NAME, Op, Puppet};
use vmm::control::client::Client;
use vmm::control::wire::Request;
use vmm::runtime::Runtime;

const GENERAL_PROTECTION: u64 = 13;
const INVALID_OPCODE: u64 = 6;
const NMI: u64 = 2;
/// What KVM answers to a hypercall that it does not know.
const NO_SUCH_CALL: i64 = -1000;

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
        tests::not_tested("this host ignores guests that ask for registers which are not there");
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

/// Has the guest do `calls`, each of which may be a fault of its own, leave its processor waiting for
/// what nobody sends, or end its machine as it is documented; whatever it is, the monitor answers.
fn play(calls: &[Call]) {
    let puppet = start();
    puppet.send(calls);
    let deadline = Instant::now() + Duration::from_secs(1);
    puppet.wait_until("an answer, silence, or the end", || {
        puppet.has_answered() || Instant::now() > deadline
    });
    if puppet.lives() && puppet.has_answered() {
        for done in puppet.calls_done(calls.len()) {
            let fault = done.exception();
            assert!(matches!(fault, None | Some(GENERAL_PROTECTION | NMI)), "{done:x?}");
        }
    }
    // It may come to its end by itself at any time; else the host ends it.
    let turned_off = Client::connect(&Runtime::at(puppet.runtime()), NAME)
        .and_then(|mut client| client.work(Request::TurnOff));
    let end = puppet.end();
    let words = match end.status.code() {
        Some(POWERED_OFF) if turned_off.is_ok() => "turned off",
        Some(TRIPLE_FAULT) => "triple fault",
        Some(FAILED) => "cannot go on",
        _ => panic!("{end:?}"),
    };
    assert!(end.stderr.contains(words), "{end:?}");
}

fn wrmsr(rcx: u64, value: u64) -> Call {
    Call { rcx, rax: value & 0xffff_ffff, rdx: value >> 32, ..Call::new(Op::Wrmsr) }
}

/// Registers with which the processor stops to be the one that the monitor has made: each in a machine of
/// its own, beside one that nothing is done to.
#[test]
fn case_29_a_local_apic_that_is_moved_turned_off_or_made_another_harms_nobody_else() {
    const BASE: u64 = 0x1b;
    const HERE: u64 = 0xfee0_0000;
    // It is on, it is an x2APIC, it is that of the first processor.
    const ON: u64 = 1 << 11;
    const X2: u64 = 1 << 10;
    const FIRST: u64 = 1 << 8;
    let other = start();
    let look = |address| Call { rdi: address, ..Call::new(Op::Read32) };
    // Onto a device, RAM, the I/O APIC, nothing; and further than there are addresses.
    for to in [0xd000_0000, 0x10_0000, 0xfec0_0000, 0xc800_0000, 1 << 40, !0xfff] {
        play(&[wrmsr(BASE, to | ON | FIRST), look(0xd000_0000), look(0xfec0_0000), look(HERE)]);
    }
    let off = wrmsr(BASE, HERE | FIRST);
    let (on, x2) = (wrmsr(BASE, HERE | ON | FIRST), wrmsr(BASE, HERE | ON | X2 | FIRST));
    play(&[off, look(HERE), on, look(HERE)]);
    play(&[x2, look(HERE), on, off, x2, on]);
    play(&[wrmsr(BASE, HERE | X2 | FIRST), wrmsr(BASE, 0), wrmsr(BASE, !0)]);
    // All registers of an x2APIC, which are there or not.
    let all = || 0x800..0x840_u64;
    let read = all().map(|rcx| Call { rcx, ..Call::new(Op::Rdmsr) });
    play(&[x2].into_iter().chain(read.clone()).collect::<Vec<_>>());
    play(&read.collect::<Vec<_>>());
    for value in [0, 0x20, 0x1_00ff, !0] {
        // Not the one that sends: that comes next.
        let write = all().filter(|rcx| *rcx != 0x830).map(|rcx| wrmsr(rcx, value));
        play(&[x2].into_iter().chain(write).collect::<Vec<_>>());
    }
    // To itself, to all, and to a processor that is not there, in all modes.
    for mode in 0..8 {
        for to in [1 << 18, 2 << 18, 7 << 32] {
            play(&[x2, wrmsr(0x830, to | mode << 8 | 1 << 14 | 0x20)]);
        }
    }
    answers(&other);
    assert_eq!(other.read32(0xd000_0000), 0x7472_6976);
}

#[test]
fn case_29_every_bit_of_efer_is_taken_or_refused_and_harms_nobody_else() {
    const EFER: u64 = 0xc000_0080;
    /// Long mode, in force; the monitor's own choice.
    const USUAL: u64 = 1 << 8 | 1 << 10;
    let other = start();
    for value in [0, !0, USUAL].into_iter().chain((0..64).map(|bit| USUAL ^ 1 << bit)) {
        play(&[wrmsr(EFER, value), Call { rcx: EFER, ..Call::new(Op::Rdmsr) }]);
    }
    answers(&other);
}

/// A KVM that interprets its guests may never get past a hypercall: that is the guest's own trouble.
#[test]
fn case_30_hypercalls_are_answered_or_stop_only_who_makes_them() {
    let mut puppet = start();
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
            let done = puppet.calls_done(1)[0];
            assert_eq!(done.exception(), None, "{done:x?}");
            if matches!(rax, 0 | 100 | 0xffff_ffff | u64::MAX) {
                assert_eq!(done.rax as i64, NO_SUCH_CALL, "{rax:#x}");
            }
        } else if !puppet.answers_within(Duration::from_secs(1)) {
            tests::not_tested(&format!("this KVM never gets past hypercall {rax:#x}"));
            is_still_ours(&puppet);
            // For the next one.
            puppet = start();
        }
    }
    is_still_ours(&puppet);
}

/// The monitor answers, and ends the machine when it is told to.
fn is_still_ours(puppet: &Puppet) {
    answers(puppet);
    assert!(puppet.lives());
    client(puppet).work(Request::TurnOff).unwrap();
    ended_with(puppet, POWERED_OFF, "turned off");
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
