//! Cases 10 to 13: the registers of a device, in the wrong order, at the wrong time, without end.

use crate::bench::{Bench, NEEDS_RESET, RUNNING};
use crate::is_flat;
use crate::subject::{RAM, SCRATCH, Subject, every, one_of_each_set_of_queues};
use tests::puppet::{Call, Driver, Op, Ring, linked, register};

/// Steps of a driver.
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const FAILED: u32 = 128;
const AGREED: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK;

/// One of each device.
fn devices() -> Vec<Subject> {
    let queues = every().into_iter();
    let first = |subject: &Subject| {
        !matches!(
            subject,
            Subject::ConsoleIn
                | Subject::Deflate
                | Subject::Statistics
                | Subject::Reports
                | Subject::VsockIn
                | Subject::NetIn
        )
    };
    queues.filter(first).collect()
}

/// Puts a chain into the queue that the device must not see, and rings.
fn must_not_be_served(bench: &Bench, when: &str) {
    let (driver, queue) = (&bench.driver, bench.queue());
    let ring = Ring::usual(queue, 0);
    let chain = linked(&bench.subject.chain(), 0);
    bench.puppet.poke(ring.descriptors, &tests::puppet::bytes_of(&chain));
    bench.puppet.poke(ring.available, &[0, 0, 1, 0, 0, 0]);
    for queue in 0..4 {
        driver.notify(queue);
    }
    bench.does_nothing(when);
    assert_eq!(bench.puppet.peek16(ring.used + 2), 0, "{:?}, {when}", bench.subject);
    bench.puppet.poke(ring.available, &[0; 4]);
}

#[test]
fn case_10_queues_of_a_size_that_cannot_be_break_the_device_when_it_starts() {
    for subject in one_of_each_set_of_queues() {
        let bench = Bench::new(subject);
        for queue in bench.queues() {
            let max = bench.driver.sizes()[queue];
            let sizes =
                [0, 3, max - 1, max + 1, 2 * max, 32_768, 32_769, 0xffff, 0x1_0000, 0x1_0000 + max];
            for size in sizes.into_iter().chain([1 << 31, u32::MAX]) {
                let spoil = |rings: &mut Vec<Ring>| rings[queue].size = size;
                bench.never_starts(spoil, &format!("queue {queue} of {size} descriptors"));
            }
            bench.comes_back("sizes that cannot be");
        }
    }
}

#[test]
fn case_10_the_smallest_queues_serve_also_after_a_size_that_cannot_be() {
    for subject in every() {
        let bench = Bench::new(subject);
        // The smallest there is, and one that was set after another that cannot be.
        for size in [1, 2] {
            bench.reset();
            let driver = &bench.driver;
            driver.agree(subject.features());
            let mut rings = driver.empty_rings();
            rings[bench.queue()].size = size;
            driver.set_all(&[
                (register::QUEUE_SELECT, bench.queue() as u32),
                (register::QUEUE_SIZE, 3),
            ]);
            driver.begin(&rings);
            assert_eq!(driver.status(), RUNNING, "{subject:?}: {size} descriptors");
        }
        bench.comes_back("small queues");
    }
}

#[test]
fn case_10_a_queue_that_is_not_ready_breaks_the_device_when_it_starts() {
    for subject in one_of_each_set_of_queues() {
        let bench = Bench::new(subject);
        for (queue, value) in
            bench.queues().flat_map(|queue| [0, 2, 3, 0x101, u32::MAX].map(|value| (queue, value)))
        {
            let driver = &bench.driver;
            bench.reset();
            driver.agree(subject.features());
            for (index, ring) in driver.empty_rings().iter().enumerate() {
                let mut writes = Driver::set_up(index as u32, ring);
                if index == queue {
                    writes.last_mut().unwrap().1 = value;
                }
                driver.set_all(&writes);
            }
            driver.set(register::STATUS, RUNNING);
            bench.is_broken(&format!("ready is {value:#x} for queue {queue}"));
        }
        bench.comes_back("queues that are not ready");
    }
}

#[test]
fn case_11_what_is_written_after_the_start_changes_nothing() {
    for subject in devices() {
        let bench = Bench::new(subject);
        let (driver, queue) = (&bench.driver, bench.queue() as u32);
        let nowhere = Ring { size: 2, descriptors: !0xfff, available: !0xfff, used: 0 };
        // Twice ready, of another size, elsewhere, and not ready.
        for ready in [1, 0] {
            driver.set_all(&Driver::set_up(queue, &nowhere));
            driver.set(register::QUEUE_READY, ready);
            assert_eq!(driver.get(register::QUEUE_READY), 1, "{subject:?}");
            bench.serves("its queue was moved");
        }
        // Other features.
        for half in [0, 1] {
            driver.set_all(&[
                (register::DRIVER_FEATURES_SELECT, half),
                (register::DRIVER_FEATURES, u32::MAX),
            ]);
        }
        for status in [RUNNING, RUNNING | NEEDS_RESET, RUNNING | 0xffff_ff00 & !FAILED] {
            driver.set(register::STATUS, status);
        }
        bench.serves("its features were changed");
        // What nobody has to write: the registers that are there to be read, and those that are not there.
        for at in (0..register::CONFIG).step_by(4) {
            let ours = [register::QUEUE_NOTIFY, register::STATUS, register::INTERRUPT_ACK];
            if !ours.contains(&at) {
                driver.set_all(&[(at, u32::MAX), (at, 0)]);
            }
        }
        bench.serves("all its registers were written");
        bench.answers();
    }
}

#[test]
fn case_11_a_queue_that_is_ready_keeps_its_shape_when_it_is_made_ready_again() {
    for subject in every() {
        let bench = Bench::new(subject);
        let driver = &bench.driver;
        bench.reset();
        driver.agree(subject.features());
        let nowhere = Ring { size: 2, descriptors: !0xfff, available: !0xfff, used: 0 };
        let twice = |(index, ring)| [Driver::set_up(index, ring), Driver::set_up(index, &nowhere)];
        let rings = driver.empty_rings();
        let writes: Vec<(u64, u32)> = (0..).zip(&rings).flat_map(twice).flatten().collect();
        driver.set_all(&writes);
        driver.set(register::STATUS, RUNNING);
        assert_eq!(driver.status(), RUNNING, "{subject:?}");
        bench.comes_back("made ready twice");
    }
}

#[test]
fn case_11_a_ring_before_the_start_or_for_no_queue_is_not_heard() {
    for subject in devices() {
        let bench = Bench::new(subject);
        let driver = &bench.driver;
        for stage in [0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, AGREED] {
            bench.reset();
            driver.agree(subject.features());
            let rings = driver.empty_rings();
            for (index, ring) in rings.iter().enumerate() {
                driver.set_all(&Driver::set_up(index as u32, ring));
            }
            if stage != AGREED {
                driver.set(register::STATUS, 0);
                driver.set(register::STATUS, stage);
            }
            must_not_be_served(&bench, &format!("with the status {stage:#x}"));
        }
        bench.comes_back("rings before the start");
        let rings: Vec<(u64, u32)> = [4, 5, 0xfffe, 0xffff, 0x1_0000, 0x1_0001, u32::MAX]
            .map(|queue| (register::QUEUE_NOTIFY, queue))
            .to_vec();
        driver.storm(&rings, 300, SCRATCH);
        bench.is_quiet("rings for no queue");
        bench.serves("rings for no queue");
    }
}

#[test]
fn case_11_a_queue_past_the_last_is_not_there() {
    for subject in devices() {
        let bench = Bench::new(subject);
        let driver = &bench.driver;
        let count = driver.sizes().len() as u32;
        bench.reset();
        driver.agree(subject.features());
        let rings = driver.empty_rings();
        for past in [count, count + 1, 0xffff, 0x1_0000, 1 << 31, u32::MAX] {
            driver.set_all(&Driver::set_up(past, &rings[0]));
            assert_eq!(driver.get(register::QUEUE_SIZE_MAX), 0, "{subject:?}: {past:#x}");
            assert_eq!(driver.get(register::QUEUE_READY), 0, "{subject:?}: {past:#x}");
        }
        driver.begin(&rings);
        bench.serves("after queues that are not there");
    }
}

/// The writes that bring the device up by the shortest way, with so many queues.
fn bring_up(driver: &Driver, features: u64, queues: usize) -> Vec<(u64, u32)> {
    let mut writes = vec![(register::STATUS, ACKNOWLEDGE | DRIVER)];
    if features != 0 {
        writes.push((register::DRIVER_FEATURES, features as u32));
    }
    writes.push((register::DRIVER_FEATURES_SELECT, 1));
    writes.push((register::DRIVER_FEATURES, 1));
    writes.push((register::STATUS, AGREED));
    let upper = [register::DESCRIPTORS, register::AVAILABLE, register::USED].map(|low| low + 4);
    for (index, ring) in (0..).zip(driver.empty_rings()).take(queues) {
        // The upper halves, and the number of the queue, are 0 after a reset.
        let set_up = Driver::set_up(index, &ring).into_iter().skip(usize::from(index == 0));
        writes.extend(set_up.filter(|(register, _)| !upper.contains(register)));
    }
    writes.push((register::STATUS, RUNNING));
    writes
}

/// Has each of `subjects` be reset so many times with a queue full of chains.
fn are_reset(subjects: &[Subject], times: u64) {
    // So few that even a host with much else to do is soon through.
    const ROUND: u64 = 100;
    for subject in subjects.iter().copied() {
        let bench = Bench::new(subject);
        let (driver, queue) = (&bench.driver, bench.queue());
        let ring = driver.ring(queue);
        // The balloon has more of them than it needs.
        let again = bring_up(driver, subject.features(), subject.queues());
        bench.lets_go();
        // A queue full of chains, and the bell, before each reset.
        driver.describe(queue, 0, &linked(&subject.chain(), 0));
        let full = (ring.size as u16).to_le_bytes();
        bench.puppet.poke(ring.available + 2, &full);
        let mut cycle = again;
        cycle.push((register::QUEUE_NOTIFY, queue as u32));
        // Without its end a cycle has the device run, and serve what needs nobody but the driver.
        driver.set(register::STATUS, 0);
        bench.puppet.wait_for("a complete reset", || driver.status() == 0);
        bench.puppet.poke(ring.used, &[0; 4]);
        driver.storm(&cycle, 1, SCRATCH);
        assert_eq!(driver.status(), RUNNING, "{subject:?}");
        if !AWAITED.contains(&subject) {
            let served = || bench.puppet.peek16(ring.used + 2) > 0;
            bench.puppet.wait_for(&format!("{subject:?}: what is in flight"), served);
        }
        cycle.push((register::STATUS, 0));
        driver.storm(&cycle, 20, SCRATCH);
        let before = bench.puppet.usage();
        for _ in 0..times.div_ceil(ROUND) {
            driver.storm(&cycle, ROUND, SCRATCH);
        }
        bench.is_quiet("so many resets");
        is_flat(&bench.puppet, &before, "so many resets");
        bench.comes_back("so many resets");
    }
}

/// Those whose chains wait for something to happen.
const AWAITED: [Subject; 4] =
    [Subject::ConsoleIn, Subject::VsockIn, Subject::NetIn, Subject::Statistics];

#[test]
fn case_12_ten_thousand_resets_in_flight_leave_nothing_behind() {
    are_reset(&[Subject::Rng], 10_000);
}

#[test]
fn case_12_thousands_of_resets_in_flight_leave_nothing_behind_of_what_one_thread_serves() {
    are_reset(&[Subject::ConsoleOut, Subject::Inflate, Subject::VsockOut], 1_500);
}

/// Buffers that the device keeps.
#[test]
fn case_12_thousands_of_resets_leave_no_buffer_behind_that_waits_for_something() {
    let waits = [Subject::Deflate, Subject::Reports];
    let waits = every().into_iter().filter(|it| waits.contains(it) || AWAITED.contains(it));
    are_reset(&waits.collect::<Vec<_>>(), 500);
}

/// The other half of them.
#[test]
fn case_12_thousands_of_resets_in_flight_leave_nothing_behind_of_what_has_its_own_thread() {
    let own = [Subject::Disk, Subject::NetOut];
    let devices: Vec<Subject> = devices().into_iter().filter(|it| own.contains(it)).collect();
    are_reset(&devices, 2_500);
}

#[test]
fn case_12_a_driver_that_failed_cannot_go_on_and_no_bit_is_ever_taken_back() {
    for subject in devices() {
        let bench = Bench::new(subject);
        let driver = &bench.driver;
        // Bits that are taken back, one by one and all but one, are still there.
        for status in [1, 2, 3, 4, 7, 8, 11, 13, 14] {
            driver.set(register::STATUS, status);
            assert_eq!(driver.status(), RUNNING, "{subject:?}: {status:#x}");
        }
        bench.serves("bits were taken back");
        for stage in [0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, AGREED] {
            bench.reset();
            driver.agree(subject.features());
            let rings = driver.empty_rings();
            for (index, ring) in rings.iter().enumerate() {
                driver.set_all(&Driver::set_up(index as u32, ring));
            }
            if stage != AGREED {
                driver.set(register::STATUS, 0);
                driver.set(register::STATUS, stage);
            }
            driver.set(register::STATUS, stage | FAILED);
            for status in [stage | FAILED | DRIVER_OK, RUNNING, RUNNING | FAILED] {
                driver.set(register::STATUS, status);
                assert_eq!(driver.status(), stage | FAILED, "{subject:?}: {status:#x}");
            }
            must_not_be_served(&bench, "failed, and ready");
        }
        bench.comes_back("failed");
    }
}

#[test]
fn case_13_features_that_were_never_offered_are_not_agreed_on() {
    for subject in devices() {
        let bench = Bench::new(subject);
        let driver = &bench.driver;
        bench.reset();
        let offered = driver.offered();
        assert_eq!(offered >> 32 & 1, 1, "{subject:?} is of version 1");
        let strange = (0..64).map(|bit| 1 << bit).filter(|bit| offered & bit == 0);
        for feature in strange.chain([!offered, !0]) {
            driver.agree(feature | offered);
            let status = driver.status();
            assert_eq!(status, ACKNOWLEDGE | DRIVER, "{subject:?}: {feature:#x}");
        }
        driver.begin(&driver.empty_rings());
        assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER, "{subject:?} goes on");
        must_not_be_served(&bench, "features that were not offered");
        // All that is offered but the one that is not optional.
        driver.reset();
        driver.set_all(&[
            (register::STATUS, ACKNOWLEDGE),
            (register::STATUS, ACKNOWLEDGE | DRIVER),
            (register::DRIVER_FEATURES_SELECT, 0),
            (register::DRIVER_FEATURES, offered as u32),
            (register::STATUS, AGREED),
        ]);
        assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER, "{subject:?}, as of version 0");
        bench.comes_back("features that were not offered");
    }
}

#[test]
fn case_13_features_are_settled_when_they_have_been_agreed_on() {
    let everything = [0, 1].map(|half| {
        [(register::DRIVER_FEATURES_SELECT, half), (register::DRIVER_FEATURES, u32::MAX)]
    });
    for subject in devices() {
        let bench = Bench::new(subject);
        let driver = &bench.driver;
        bench.reset();
        driver.agree(subject.features());
        driver.set_all(everything.as_flattened());
        driver.begin(&driver.empty_rings());
        assert_eq!(driver.status(), RUNNING, "{subject:?}");
        bench.serves("it wanted more features");
        // Were event indices among them, the driver would not want to know of the next chain.
        let (queue, ring) = (bench.queue(), driver.ring(bench.queue()));
        let wanted = ring.available + 4 + u64::from(ring.size) * 2;
        bench.puppet.poke(wanted, &driver.used(queue).wrapping_add(0x7fff).to_le_bytes());
        bench.is_quiet("it wanted more features");
        driver.set(register::INTERRUPT_ACK, 3);
        bench.serves("it wanted more features, and says when to be told");
        bench.is_quiet("it wanted more features, and says when to be told");
        assert_eq!(driver.get(register::INTERRUPT_STATUS) & 1, 1, "{subject:?} is told");
    }
    // A balloon without statistics and reports has two queues, and needs no more.
    let bench = Bench::new(Subject::Inflate);
    let driver = &bench.driver;
    bench.reset();
    driver.agree(0);
    driver.set_all(everything.as_flattened());
    driver.begin(&driver.empty_rings()[..2]);
    assert_eq!(driver.status(), RUNNING, "a balloon with two queues");
    bench.serves("with two queues");
}

#[test]
fn case_13_a_step_that_is_left_out_cannot_be_made_up_for() {
    for subject in devices() {
        let bench = Bench::new(subject);
        let driver = &bench.driver;
        for steps in [
            &[DRIVER_OK][..],
            &[ACKNOWLEDGE, ACKNOWLEDGE | DRIVER_OK],
            &[ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER | DRIVER_OK],
            &[DRIVER, DRIVER | FEATURES_OK, DRIVER | FEATURES_OK | DRIVER_OK],
            &[FEATURES_OK | DRIVER_OK],
            // Without the feature that is not optional.
            &[RUNNING],
        ] {
            bench.reset();
            let rings = driver.empty_rings();
            for step in steps {
                driver.set(register::STATUS, *step);
                for (index, ring) in rings.iter().enumerate() {
                    driver.set_all(&Driver::set_up(index as u32, ring));
                }
            }
            let status = driver.status();
            assert_eq!(status & DRIVER_OK, 0, "{subject:?}: {steps:?} gave {status:#x}");
            must_not_be_served(&bench, &format!("{steps:?}"));
        }
        bench.comes_back("steps that were left out");
    }
}

/// This machine has no PCI, so there is nothing to put onto RAM or onto another device. What a guest
/// asks in the usual place has the answer of nobody.
#[test]
fn case_15_there_is_no_pci_whatever_width_it_is_asked_with() {
    let bench = Bench::new(Subject::Rng);
    let puppet = &bench.puppet;
    let port = |op, rdx: u64, rax: u64| Call { rdx, rax, ..Call::new(op) };
    // The first function of the first devices, and whatever else: address, then data.
    for address in [0x8000_0000_u64, 0x8000_0800, 0x8000_003c, 0x80ff_ff00, 0, 0xffff_ffff] {
        let mut calls = vec![port(Op::Out32, 0xcf8, address)];
        for at in 0xcf8..0xd00 {
            for (read, write) in [(Op::In8, Op::Out8), (Op::In16, Op::Out16), (Op::In32, Op::Out32)]
            {
                calls.push(port(read, at, 0));
                // To the address register goes the address, again.
                calls.push(port(write, at, if at < 0xcfc { address } else { 0xffff_ffff }));
                calls.push(port(read, at, 0));
            }
        }
        for call in puppet.calls(&calls) {
            let width = match call.code {
                code if code == Call::new(Op::In8).code => 0xff,
                code if code == Call::new(Op::In16).code => 0xffff,
                code if code == Call::new(Op::In32).code => 0xffff_ffff,
                _ => continue,
            };
            assert_eq!(call.rax, width, "port {:#x}, {address:#x}", call.rdx);
        }
    }
    // Nor where the memory-mapped way is on other machines.
    for at in [0xb000_0000_u64, 0xe000_0000, 0xf000_0000] {
        let address = at.max(RAM);
        for (op, all) in
            [(Op::Read8, 0xff), (Op::Read16, 0xffff), (Op::Read32, 0xffff_ffff), (Op::Read64, !0)]
        {
            assert_eq!(puppet.call(Call { rdi: address, ..Call::new(op) }).rax, all, "{at:#x}");
        }
    }
    bench.serves("asked for PCI");
}
