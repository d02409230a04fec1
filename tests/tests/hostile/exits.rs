//! Case 25: every port, every address, every width, and strings of accesses.

use crate::bench::Bench;
use crate::ports::{I8042, PORTS, POWER, PVPANIC, RTC, SERIAL, ends, port};
use crate::subject::{Subject, every};
use crate::{FAILED, answers, ended_with, is_flat, start, start_with};
use tests::puppet::{Call, Driver, FREE, Op, Puppet, register};

const READS: [(Op, u64); 4] = [(Op::Read8, 1), (Op::Read16, 2), (Op::Read32, 4), (Op::Read64, 8)];
const WRITES: [Op; 4] = [Op::Write8, Op::Write16, Op::Write32, Op::Write64];
const INS: [(Op, u64); 3] = [(Op::In8, 1), (Op::In16, 2), (Op::In32, 4)];
const OUTS: [(Op, u64); 3] = [(Op::Out8, 1), (Op::Out16, 2), (Op::Out32, 4)];
const REP_INS: [(Op, u64); 3] = [(Op::Ins8, 1), (Op::Ins16, 2), (Op::Ins32, 4)];
const REP_OUTS: [(Op, u64); 3] = [(Op::Outs8, 1), (Op::Outs16, 2), (Op::Outs32, 4)];

/// A call that reads or writes `rax` at an address.
fn at(op: Op, rdi: u64, rax: u64) -> Call {
    Call { rdi, rax, ..Call::new(op) }
}

/// All bits of so many bytes.
fn ones(bytes: u64) -> u64 {
    u64::MAX >> (64 - 8 * bytes)
}

/// Whether a write of `bytes` at `first` ends the machine on none of the ports that it covers. Only a
/// byte on its own counts.
fn harmless(first: u64, bytes: &[u8]) -> bool {
    bytes.len() > 1 && first != PVPANIC || bytes.iter().all(|byte| !ends(first, *byte))
}

#[test]
fn case_25_every_width_at_every_place_of_every_device_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let disk = format!("path={}", image.display());
    let puppet = start_with(&["--disk", &disk, "--console-device", "virtio"]);
    answers(&puppet);
    let before = puppet.usage();
    // vsock, rng, balloon, console, disk, and where a sixth would be.
    for device in 0..6_u64 {
        every_width(&puppet, 0xd000_0000 + device * 0x1000, device < 5);
    }
    answers(&puppet);
    is_flat(&puppet, &before, "all registers");
    for kind in [2, 3, 4, 5, 19] {
        Driver::of(&puppet, kind).bring_up(0);
    }
}

/// Reads and writes all widths at all places of the registers at `base`, where there is a device or not.
fn every_width(puppet: &Puppet, base: u64, there: bool) {
    let places = (0..0x140).chain([0x7fc, 0xff8, 0xff9, 0xffc, 0xffd, 0xffe, 0xfff]);
    let mut calls = Vec::new();
    for place in places {
        calls.extend(READS.map(|(op, _)| at(op, base + place, 0)));
        for value in [0, u64::MAX, 0x0101_0101_0101_0101] {
            calls.extend(WRITES.map(|op| at(op, base + place, value)));
        }
    }
    for call in puppet.calls(&calls) {
        assert_eq!(call.exception(), None, "{call:x?}");
    }
    // The registers are still those of a device that has been reset, or of nobody.
    puppet.write32(base + register::STATUS, 0);
    let magic = if there { 0x7472_6976 } else { u32::MAX };
    assert_eq!(puppet.read32(base), magic, "{base:#x}");
}

#[test]
fn case_25_every_width_at_every_place_of_a_network_is_answered() {
    for subject in every().into_iter().filter(|subject| *subject == Subject::NetOut) {
        let bench = Bench::new(subject);
        let before = bench.puppet.usage();
        every_width(&bench.puppet, bench.driver.base, true);
        answers(&bench.puppet);
        is_flat(&bench.puppet, &before, "all registers");
        bench.comes_back("all registers");
    }
}

/// Instructions whose accesses KVM cuts into others, or gives up on: then the machine ends with that.
#[test]
fn case_25_strings_and_sixteen_bytes_at_registers_in_memory_end_in_one_of_two_ways() {
    const RAM: u64 = FREE + 0x1000;
    // Each with a return behind it; the last two need what the processor has to be told first: that the
    // guest saves the registers of SSE (bit 9 of cr4).
    let repeated = [
        &[0xf3, 0xa4, 0xc3][..],   // rep movsb
        &[0xf3, 0xa5, 0xc3],       // rep movsd
        &[0xf3, 0x48, 0xa5, 0xc3], // rep movsq
        &[0xf3, 0xaa, 0xc3],       // rep stosb
        &[0xf3, 0xab, 0xc3],       // rep stosd
        &[0xf3, 0xac, 0xc3],       // rep lodsb
        &[0xf3, 0xa6, 0xc3],       // rep cmpsb
    ];
    let allow = [0x0f, 0x20, 0xe0, 0x0d, 0, 2, 0, 0, 0x0f, 0x22, 0xe0];
    let wide = [
        [&allow[..], &[0x0f, 0x11, 0x07, 0xc3]].concat(), // movups [rdi], xmm0
        [&allow[..], &[0x0f, 0x10, 0x06, 0xc3]].concat(), // movups xmm0, [rsi]
    ];
    let mut puppet = start();
    let mut play = |code: &[u8], call: Call| {
        puppet.poke(FREE, code);
        puppet.poke(RAM, &[0; 0x4000]);
        puppet.send(&[Call { code: FREE, ..call }]);
        puppet.wait_until("an answer, or the end", || puppet.has_answered());
        if puppet.lives() {
            let fault = puppet.calls_done(1)[0].exception();
            assert_eq!(fault, None, "{code:x?}: {call:x?}");
            answers(&puppet);
        } else {
            ended_with(&puppet, FAILED, "cannot go on");
            puppet = start();
        }
    };
    let base = 0xd000_0000_u64;
    let places = [0, 0x50, 0x70, 0x100, 0xffc].map(|place| base + place);
    for place in places.into_iter().chain([0xfec0_0000, 0xfec0_0010]) {
        for (rsi, rdi) in [(RAM, place), (place, RAM), (place, place)] {
            // The last goes over the end of the registers.
            for rcx in [1, 3, 1025] {
                let call = Call { rsi, rdi, rcx, ..Call::default() };
                repeated.iter().for_each(|code| play(code, call));
            }
            wide.iter().for_each(|code| play(code, Call { rsi, rdi, ..Call::default() }));
        }
    }
    for (device, kind) in [2_u64, 1, 0].into_iter().zip([5, 4, 19]) {
        puppet.write32(base + device * 0x1000 + register::STATUS, 0);
        assert_eq!(puppet.read32(base + device * 0x1000), 0x7472_6976, "device {device}");
        Driver::of(&puppet, kind).bring_up(0);
    }
}

/// Ones and zeroes to all ports, but for the orders that end the machine.
#[test]
fn case_25_every_port_takes_what_is_written_to_it_with_every_width() {
    let puppet = start();
    for (op, width) in OUTS {
        for value in [0, u32::MAX] {
            let bytes = &value.to_le_bytes()[..width as usize];
            let places = (0..=0xffff).filter(|first| harmless(*first, bytes));
            let calls: Vec<Call> = places.map(|first| port(op, first, u64::from(value))).collect();
            for call in puppet.calls(&calls) {
                assert_eq!(call.exception(), None, "{call:x?}");
            }
            answers(&puppet);
        }
    }
}

#[test]
fn case_25_every_port_is_answered_with_every_width_and_nobodys_with_all_ones() {
    let puppet = start();
    // An access that only begins or ends at a device is nobody's.
    let ours = |first: u64, width: u64| {
        PORTS.iter().any(|(base, count)| first >= *base && first + width <= base + count)
    };
    // All ports with a byte, and the neighbourhood of what there is with all widths.
    let all: Vec<Call> = (0..=0xffff).map(|at| port(Op::In8, at, 0)).collect();
    for call in puppet.calls(&all) {
        assert!(ours(call.rdx, 1) || call.rax == 0xff, "{call:x?}");
    }
    let near = PORTS.iter().flat_map(|(base, count)| base - 4..base + count + 4);
    for first in near.chain([0, 0xcf8, 0xcfc, 0xfffc, 0xffff]) {
        for (op, width) in INS {
            let read = puppet.call(port(op, first, 0));
            assert_eq!(read.exception(), None, "{read:x?}");
            assert!(ours(first, width) || read.rax == ones(width), "{read:x?}");
        }
        let values = [0_u32, 0x5a5a_5a5a, 0xfefe_fefe, 0xffff_ffff, 0x3434_3434, 0x0101_0101];
        let writes = OUTS.iter().flat_map(|(op, width)| {
            let harmless =
                move |value: &&u32| harmless(first, &value.to_le_bytes()[..*width as usize]);
            values.iter().filter(harmless).map(|value| port(*op, first, u64::from(*value)))
        });
        for call in puppet.calls(&writes.collect::<Vec<Call>>()) {
            assert_eq!(call.exception(), None, "{call:x?}");
        }
    }
    answers(&puppet);
}

#[test]
fn case_25_strings_of_accesses_are_so_many_accesses_whatever_lies_at_their_other_end() {
    let puppet = start();
    for first in
        [I8042, RTC + 1, SERIAL, SERIAL + 5, PVPANIC, POWER, POWER + 3, 0xcf8, 0x1234, 0xffff]
    {
        for (op, width) in REP_INS {
            for count in [0, 1, 2, 63, 1025, 5000] {
                let call = Call { rdx: first, rcx: count, rdi: FREE + 1, ..Call::new(op) };
                let done = puppet.call(call);
                assert_eq!(done.exception(), None, "{done:x?}");
                assert_eq!((done.rcx, done.rdi), (0, FREE + 1 + count * width), "{done:x?}");
                if first == 0x1234 {
                    let read = puppet.peek(FREE + 1, (count * width) as usize);
                    assert!(read.iter().all(|byte| *byte == 0xff));
                }
            }
        }
        // Zeroes end nothing anywhere.
        puppet.poke(FREE, &vec![0; 32 << 10]);
        for (op, width) in REP_OUTS {
            for count in [0, 1, 2, 300] {
                let done =
                    puppet.call(Call { rdx: first, rcx: count, rsi: FREE + 1, ..Call::new(op) });
                assert_eq!(done.exception(), None, "{done:x?}");
                assert_eq!((done.rcx, done.rsi), (0, FREE + 1 + count * width), "{done:x?}");
            }
        }
    }
    answers(&puppet);
    assert!(puppet.stderr().is_empty(), "{}", puppet.stderr());
}

/// KVM may give up on such an instruction, and then the machine ends with that; or it does it.
#[test]
fn case_25_strings_between_ports_and_what_is_no_ram_end_in_one_of_two_ways() {
    for (op, address) in [
        (Op::Ins8, 0xd000_0000_u64),
        (Op::Ins32, 0xd000_0070),
        (Op::Ins32, 0xc800_0000),
        (Op::Outs8, 0xd000_0000),
        (Op::Outs32, 0xd000_0000),
        (Op::Outs32, 0xc800_0000),
        (Op::Outs8, 0xfec0_0000),
    ] {
        let puppet = start();
        let call = Call { rdx: 0x1234, rcx: 8, rdi: address, rsi: address, ..Call::new(op) };
        puppet.send(&[call]);
        puppet.wait_until("an answer, or the end", || puppet.has_answered());
        if puppet.lives() {
            answers(&puppet);
        } else {
            ended_with(&puppet, FAILED, "cannot go on");
        }
    }
}

#[test]
fn case_25_addresses_that_nobody_has_read_as_all_ones_and_take_what_is_written() {
    let puppet = start();
    // Behind RAM, before and behind the devices, around the I/O APIC.
    for address in [
        32 << 20,
        0xbfff_fff8,
        0xc000_0000,
        0xcfff_fff8,
        0xd000_e000,
        0xd100_0000,
        0xfebf_fff8,
        0xfec0_1000,
        0xfed0_0000,
        0xffff_fff8,
    ] {
        for (op, width) in READS {
            let read = puppet.call(at(op, address, 0));
            assert_eq!((read.rax, read.exception()), (ones(width), None), "{read:x?}");
        }
        for op in WRITES {
            puppet.call_for_effect(at(op, address, 0x5a5a_5a5a_5a5a_5a5a));
        }
        assert_eq!(puppet.read32(address), u32::MAX, "{address:#x}");
    }
    // The I/O APIC takes all widths and values.
    for place in (0..0x50).chain([0x3fc, 0xffc, 0xfff]) {
        for (op, _) in READS {
            let _ = puppet.call(at(op, 0xfec0_0000 + place, 0));
        }
        for op in WRITES {
            for value in [0, 1, 0x10, 0x3f, u64::MAX] {
                puppet.call_for_effect(at(op, 0xfec0_0000 + place, value));
            }
        }
    }
    answers(&puppet);
}
