//! Cases 6 to 8 and 14: rings that make no sense, and drivers that lie.
//!
//! Each is played against every [subject](crate::subject).

use crate::bench::{Bench, NEEDS_RESET, RUNNING};
use crate::is_flat;
use crate::subject::{
    ASIDE, NOWHERE, RAM, READABLE, SCRATCH, Subject, TABLE, every, one_of_each_set_of_queues,
    request,
};
use std::thread;
use std::time::{Duration, Instant};
use tests::puppet::{Descriptor, Driver, Ring, bytes_of, linked, register};

/// The feature with which each side says when it wants to be told.
const EVENT_INDEX: u64 = 1 << 29;

#[test]
fn case_06_a_descriptor_past_the_table_is_not_followed() {
    for subject in every() {
        let bench = Bench::new(subject);
        let size = bench.driver.ring(bench.queue()).size as u16;
        for next in [size, size + 1, 0x7fff, 0xffff] {
            let mut chain = subject.chain();
            let last = chain.last_mut().unwrap();
            *last = last.then(next);
            bench.refuses(&chain, &format!("descriptor {next} is next"));
            bench.puppet.poke(TABLE, &bytes_of(&chain));
            let table = Descriptor::table(TABLE, chain.len() as u32);
            bench.refuses(&[table], &format!("descriptor {next} is next in a table"));
        }
        for head in [size, size + 1, 0x7fff, 0xffff] {
            let queue = bench.queue();
            // Memory behind the table looks like an honest one.
            let beyond = bench.driver.ring(queue).descriptors + u64::from(head) * 16;
            let honest = bytes_of(&linked(&subject.chain(), head));
            let offer = |driver: &Driver| {
                bench.puppet.poke(beyond, &honest);
                driver.offer(queue, head);
                driver.notify(queue);
            };
            let when = format!("the chain begins with descriptor {head}");
            if subject == Subject::Statistics {
                // It is kept until the host wants new ones.
                offer(&bench.driver);
                bench.asks_until_it_is_broken(&when);
                bench.is_broken(&when);
                bench.comes_back(&when);
            } else {
                bench.breaks(offer, &when);
            }
        }
    }
}

#[test]
fn case_07_an_available_index_that_runs_ahead_or_back_breaks_the_queue() {
    for subject in every() {
        let bench = Bench::new(subject);
        let (driver, queue) = (&bench.driver, bench.queue());
        let size = driver.ring(queue).size as u16;
        for ahead in [size + 1, 2 * size, 0x7fff, 0x8000, 0xfffe, 0xffff] {
            let jump = |driver: &Driver| {
                driver.describe(queue, 0, &subject.chain());
                driver.set_available(queue, driver.available(queue).wrapping_add(ahead));
                driver.notify(queue);
            };
            bench.breaks(jump, &format!("the index jumps by {ahead:#x}"));
        }
    }
}

#[test]
fn case_07_a_ring_that_changes_while_it_is_read_harms_nobody_but_the_guest() {
    for subject in every() {
        let bench = Bench::new(subject);
        let queue = bench.queue();
        let ring = bench.driver.ring(queue);
        let table = |descriptor: Descriptor| descriptor.to_bytes().to_vec();
        let first = subject.chain()[0];
        let changes: [(&str, u64, [Vec<u8>; 2]); 6] = [
            ("the index", ring.available + 2, [vec![1, 0], vec![0xff, 0x10]]),
            ("the head", ring.available + 4, [vec![0, 0], vec![0xff, 0xff]]),
            (
                "the address",
                ring.descriptors,
                [READABLE, RAM - 4].map(|a| a.to_le_bytes().to_vec()),
            ),
            ("the length", ring.descriptors + 8, [vec![8, 0, 0, 0], vec![0xff; 4]]),
            ("the kind", ring.descriptors, [table(first), table(Descriptor::table(TABLE, 3))]),
            ("the header", READABLE, [vec![0; 16], vec![0xff; 16]]),
        ];
        for (what, at, values) in changes {
            let play = |driver: &Driver| {
                let _flip = bench.puppet.flip(at, values);
                let until = Instant::now() + Duration::from_millis(10);
                while Instant::now() < until && driver.status() == RUNNING {
                    let before = driver.used(queue);
                    driver.offer(queue, 0);
                    driver.notify(queue);
                    while driver.used(queue) == before && Instant::now() < until {
                        thread::yield_now();
                    }
                }
            };
            bench.survives_ring(play, &format!("{what} changes"));
        }
    }
}

/// What is said of a packet must be what was looked at: length, type and operation are read once.
#[test]
fn case_07_a_vsock_header_that_changes_while_it_is_read_is_believed_as_it_was_read() {
    const PACKETS: u16 = 200;
    /// Where length, type and operation are; and what the first of these packets has of them.
    const CHANGES: u64 = READABLE + 24;
    const DATA: [u16; 4] = [16, 0, 1, 5];
    let bytes = |words: [u16; 4]| words.map(u16::to_le_bytes).as_flattened().to_vec();
    let bench = Bench::new(Subject::VsockOut);
    let (driver, puppet) = (&bench.driver, &bench.puppet);
    let before = puppet.usage();
    // A reset, which is answered by nothing, with a payload that is none; and one whose payload would be
    // longer than all memory. A packet of data of nobody's connection is answered with a reset.
    for other in [[16, 0, 1, 3], [0xffff, 0xffff, 1, 3]] {
        bench.lets_go();
        puppet.poke(READABLE, &request(77));
        driver.describe(1, 0, &[Descriptor::readable(READABLE, 44 + 16)]);
        driver.describe(0, 0, &[Descriptor::writable(ASIDE, 4096)]);
        (0..PACKETS).for_each(|_| driver.offer(0, 0));
        let answered = driver.used(0);
        let flip = puppet.flip(CHANGES, [bytes(DATA), bytes(other)]);
        for _ in 0..PACKETS {
            driver.offer(1, 0);
            driver.notify(1);
            driver.await_used(1, driver.available(1));
        }
        drop(flip);
        bench.is_quiet("a header that changes");
        let answers = driver.used(0).wrapping_sub(answered);
        // Else it was never seen to change.
        assert!((1..PACKETS).contains(&answers), "{answers} of {PACKETS}");
        is_flat(puppet, &before, "a header that changes");
        bench.comes_back("a header that changes");
    }
}

#[test]
fn case_08_rings_outside_of_ram_or_misaligned_break_the_device_when_it_starts() {
    for subject in one_of_each_set_of_queues() {
        let bench = Bench::new(subject);
        for (queue, part) in bench.queues().flat_map(|queue| (0..3).map(move |part| (queue, part)))
        {
            let over = [RAM - 8, !0 - 15];
            let bad = NOWHERE.into_iter().chain(over).map(|at| (at, false));
            // The alignment of each part is half that of the one before, and 2 is the last.
            let steps = [8, 1, 2][part];
            for (value, relative) in bad.chain([(steps, true)]) {
                let spoil = |rings: &mut Vec<Ring>| {
                    let address = part_of(&mut rings[queue], part);
                    *address = if relative { *address + value } else { value };
                };
                bench.never_starts(spoil, &format!("part {part} of {queue} is at {value:#x}"));
            }
        }
        bench.comes_back("rings that are none");
    }
}

/// The address of the descriptors, of the available, or of the used ring.
fn part_of(ring: &mut Ring, part: usize) -> &mut u64 {
    match part {
        0 => &mut ring.descriptors,
        1 => &mut ring.available,
        _ => &mut ring.used,
    }
}

#[test]
fn case_08_rings_over_the_hole_or_only_whose_last_word_is_no_ram_break_the_device() {
    const HOLE: u64 = 0xc000_0000;
    const BEHIND: u64 = 1 << 32;
    for subject in one_of_each_set_of_queues() {
        let bench = Bench::with(subject, HOLE + (64 << 20), 0);
        for (queue, part) in bench.queues().flat_map(|queue| (0..3).map(move |part| (queue, part)))
        {
            for address in [HOLE - 16, BEHIND - 16] {
                let spoil = |rings: &mut Vec<Ring>| *part_of(&mut rings[queue], part) = address;
                bench.never_starts(spoil, &format!("part {part} of {queue} is at {address:#x}"));
            }
        }
        bench.comes_back("rings over the hole");
        // With event indices each ring has a word more: of the rings of both sides, only that is behind
        // the end of RAM.
        let bench = Bench::with(subject, RAM, EVENT_INDEX);
        for queue in bench.queues() {
            let size = u64::from(bench.driver.sizes()[queue]);
            for (part, address) in [(1, RAM - (4 + 2 * size)), (2, RAM - (4 + 8 * size))] {
                let spoil = |rings: &mut Vec<Ring>| *part_of(&mut rings[queue], part) = address;
                bench.never_starts(spoil, &format!("part {part} of {queue} lacks its last word"));
            }
        }
        bench.comes_back("rings without their last word");
    }
}

#[test]
fn case_08_rings_that_lie_upon_each_other_harm_nobody_but_the_guest() {
    for subject in every() {
        let bench = Bench::new(subject);
        let driver = &bench.driver;
        let usual = Ring::usual(bench.queue(), driver.ring(bench.queue()).size);
        for at in [usual.descriptors, 0] {
            let upon = Ring { descriptors: at, available: at, used: at, ..usual };
            let rings: Vec<Ring> =
                driver.sizes().iter().map(|size| Ring { size: *size, ..upon }).collect();
            let page = bench.puppet.peek(0, 4096);
            bench.reset();
            driver.agree(subject.features());
            driver.begin(&rings);
            for queue in 0..rings.len() {
                driver.notify(queue);
            }
            bench.is_quiet("rings upon each other");
            bench.reset();
            bench.puppet.poke(0, &page);
            bench.comes_back("rings upon each other");
        }
    }
}

#[test]
fn case_14_a_driver_that_lies_about_when_it_wants_to_know_is_served_all_the_same() {
    for subject in every() {
        let bench = Bench::with(subject, RAM, EVENT_INDEX);
        let (driver, queue) = (&bench.driver, bench.queue());
        let ring = driver.ring(queue);
        let wanted = ring.available + 4 + u64::from(ring.size) * 2;
        let interrupted = || driver.get(register::INTERRUPT_STATUS) & 1 != 0;
        for lie in [0, 1, 0xffff, 0x8000, 0x7fff, 2] {
            let at = driver.used(queue).wrapping_add(lie);
            bench.puppet.poke(wanted, &at.to_le_bytes());
            bench.is_quiet("before");
            driver.set(register::INTERRUPT_ACK, 3);
            bench.serves(&format!("it wants to know {lie:#x} chains later"));
            bench.is_quiet("served");
            // The truth is told for the next one, and for no other.
            assert_eq!(interrupted(), lie == 0, "{subject:?}: {lie:#x}");
            // The device says where it wants to know: with the chain behind those that it has taken. One
            // that has nothing for the guest wants to know nothing.
            if matches!(subject, Subject::ConsoleIn | Subject::VsockIn | Subject::NetIn) {
                continue;
            }
            let asked = bench.puppet.peek16(ring.used + 4 + u64::from(ring.size) * 8);
            assert_eq!(asked, driver.available(queue), "{subject:?}: {lie:#x}");
        }
        let ones = [0xff; 2];
        let flip = bench.puppet.flip(wanted, [ones.to_vec(), vec![0; 2]]);
        for _ in 0..50 {
            bench.serves("it changes its mind all the time");
        }
        drop(flip);
        bench.answers();
        // And it rings without end, for nothing.
        driver.storm(&[(register::QUEUE_NOTIFY, queue as u32)], 1000, SCRATCH);
        bench.serves("it rang for nothing");
        assert_eq!(driver.status() & NEEDS_RESET, 0);
    }
}
