//! Drivers that give memory back, tell of it, and lie about it.

use super::*;
use crate::io::IoThread;
use crate::io::by_hand::ByHand;
use crate::memory::PAGE_SIZE;
use crate::virtio::balloon::pages::NUMBERS_MAX;
use crate::virtio::balloon::service::PAGES;
use crate::virtio::mmio::register;
use crate::virtio::queue::TURN;
use crate::virtio::test_driver::{
    Descriptor, Driver, LIMIT, Manner, NEXT, WRITE, readable, writable,
};
use crate::virtio::test_turns::{hold, turns};
use protocol::HResult;
use std::thread;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const REPORTS: usize = 3;

const MEMORY: u64 = 128 << 20;
/// Memory that the test driver leaves alone.
const FREE: u64 = 1 << 20;
const FREE_END: u64 = 16 << 20;

fn start_as(manner: Manner) -> (Driver, BalloonControl, IoThread) {
    let io = IoThread::spawn("io").unwrap();
    let control = BalloonControl::new(MEMORY).unwrap();
    let device = Balloon::new(control.clone(), io.handle());
    let driver = Driver::start_as(Box::new(device), manner);
    (driver, control, io)
}

fn start() -> (Driver, BalloonControl, IoThread) {
    start_as(Manner::default())
}

/// A driver whose device is served by hand.
fn by_hand() -> (Driver, BalloonControl, ByHand<Service>) {
    let io = IoThread::spawn("io").unwrap();
    let control = BalloonControl::new(MEMORY).unwrap();
    let (driver, held) = hold(&Balloon::new(control.clone(), io.handle()));
    let service = Service::new(held.take(), control.clone()).unwrap();
    (driver, control, ByHand::start(service))
}

/// Puts something into the pages from `first` on.
fn use_pages(driver: &Driver, first: u64, count: u64) {
    for page in first..first + count {
        driver.ram.write_slice(&[0xaa; 4096], GuestAddress(page * PAGE_SIZE)).unwrap();
    }
}

/// Whether the page has been given back; half a page never is.
fn is_gone(driver: &Driver, page: u64) -> bool {
    let mut bytes = [0; 4096];
    driver.ram.read_slice(&mut bytes, GuestAddress(page * PAGE_SIZE)).unwrap();
    assert!(bytes == [0; 4096] || bytes == [0xaa; 4096], "page {page:#x} is gone in part");
    bytes[0] == 0
}

fn numbers(pages: &[u32]) -> Vec<u8> {
    pages.iter().flat_map(|page| page.to_le_bytes()).collect()
}

/// Makes a chain of `pieces` of guest memory available to be written.
fn report(driver: &mut Driver, queue: usize, pieces: &[(u64, u32)]) -> u16 {
    let indices: Vec<u16> = pieces.iter().map(|_| driver.reserve(queue)).collect();
    for (position, (address, length)) in pieces.iter().enumerate() {
        let next = indices.get(position + 1).copied();
        let flags = WRITE | if next.is_some() { NEXT } else { 0 };
        let (address, length, next) = (*address, *length, next.unwrap_or(0));
        let descriptor = Descriptor { address, length, flags, next };
        driver.set_descriptor(queue, indices[position], descriptor);
    }
    driver.make_available(queue, indices[0]);
    driver.kick(queue);
    indices[0]
}

#[test]
fn pages_in_the_balloon_go_back_to_the_host_and_no_others() {
    let (mut driver, control, _io) = start();
    use_pages(&driver, 0x200, 0x20);
    let pages = [0x205, 0x203, 0x204, 0x210, 0x205, 0x21f];
    let bytes = numbers(&pages);
    // However they are scattered.
    let (one, two) = bytes.split_at(7);
    driver.add(INFLATE, &[one, b"", two], &[]);
    driver.kick(INFLATE);
    driver.wait(INFLATE);
    for page in 0x200..0x220 {
        assert_eq!(is_gone(&driver, page.into()), pages.contains(&page), "{page:#x}");
    }
    assert_eq!(control.info().given_back, 5 * PAGE_SIZE);
    driver.add(DEFLATE, &[&bytes], &[]);
    driver.kick(DEFLATE);
    driver.wait(DEFLATE);
    use_pages(&driver, 0x203, 3);
    assert!(!is_gone(&driver, 0x204), "what was taken out is memory again");
}

#[test]
fn numbers_of_what_is_no_memory_are_left_out() {
    let (mut driver, control, _io) = start();
    use_pages(&driver, 0x300, 4);
    let end = (MEMORY / PAGE_SIZE) as u32;
    let mut bytes = numbers(&[u32::MAX, end, end + 1, 0xd_0000, 1 << 31, 0x301]);
    bytes.extend([0x02, 0x03, 0]);
    driver.add(INFLATE, &[&bytes], &[4096]);
    driver.add(INFLATE, &[], &[64]);
    driver.add(INFLATE, &[b""], &[]);
    let nowhere = driver.reserve(INFLATE);
    let descriptor = Descriptor { address: MEMORY - 4, length: u32::MAX, flags: 0, next: 0 };
    driver.set_descriptor(INFLATE, nowhere, descriptor);
    driver.make_available(INFLATE, nowhere);
    driver.kick(INFLATE);
    for _ in 0..4 {
        assert_eq!(driver.wait(INFLATE).1.len(), 0);
    }
    let gone: Vec<bool> = (0x300..0x304).map(|page| is_gone(&driver, page)).collect();
    assert_eq!(gone, [false, true, false, false]);
    assert_eq!(control.info().given_back, PAGE_SIZE);
    assert_eq!(driver.status() & 64, 0);
}

#[test]
fn only_so_many_numbers_are_taken_from_a_chain() {
    let (mut driver, control, _io) = start();
    let first = (FREE / PAGE_SIZE) as u32;
    let few: Vec<u32> = (first..first + 10).collect();
    let mut many = few.repeat(NUMBERS_MAX / 10 + 1);
    many.truncate(NUMBERS_MAX);
    many.push(first + 10);
    use_pages(&driver, first.into(), 11);
    driver.add(INFLATE, &[&numbers(&many)], &[]);
    driver.kick(INFLATE);
    driver.wait(INFLATE);
    assert_eq!(control.info().given_back, 10 * PAGE_SIZE);
    assert!(!is_gone(&driver, u64::from(first) + 10));
}

#[test]
fn reported_memory_goes_back_whole_pages_only() {
    let (mut driver, control, _io) = start();
    use_pages(&driver, 0x400, 0x20);
    let at = |page: u64| page * PAGE_SIZE;
    let pieces = [
        (at(0x402), 0x2000),
        (at(0x406) + 1, 0x2fff),
        (at(0x40b), 0xfff),
        (at(0x40d), 0x1fff),
        (at(0x410) + 8, 16),
    ];
    report(&mut driver, REPORTS, &pieces);
    driver.wait_whole(REPORTS);
    let gone: Vec<u64> = (0x400..0x420).filter(|page| is_gone(&driver, *page)).collect();
    assert_eq!(gone, [0x402, 0x403, 0x407, 0x408, 0x40d]);
    assert_eq!(control.info().given_back, 5 * PAGE_SIZE);
}

#[test]
fn reports_of_what_is_no_memory_or_that_wrap_touch_nothing() {
    let (mut driver, control, _io) = start();
    use_pages(&driver, MEMORY / PAGE_SIZE - 2, 2);
    let pieces = [
        (MEMORY - 0x2000, 0x3000),
        (MEMORY - 0x1000, u32::MAX),
        (MEMORY, 0x1000),
        (u64::MAX, 0x1000),
        (u64::MAX - 0xfff, 0x2000),
        (1 << 63, u32::MAX),
        (FREE, 0),
    ];
    for piece in pieces {
        let head = report(&mut driver, REPORTS, &[piece]);
        assert_eq!(driver.wait_whole(REPORTS).0, head, "{piece:?}");
    }
    // What the device may only read is no report.
    driver.add(REPORTS, &[&[0xaa; 8192]], &[]);
    driver.kick(REPORTS);
    driver.wait(REPORTS);
    assert_eq!(control.info().given_back, 0);
    assert!(!is_gone(&driver, MEMORY / PAGE_SIZE - 2));
    assert_eq!(driver.status() & 64, 0);
}

#[test]
fn one_turn_gives_so_much_memory_back_and_leaves_the_rest_for_the_next() {
    let (mut driver, control, mut service) = by_hand();
    let pages = (FREE_END - FREE) / PAGE_SIZE;
    use_pages(&driver, FREE / PAGE_SIZE, pages);
    let given_back = |_: &Driver| control.info().given_back / PAGE_SIZE;
    // Pieces that the guest names more than once, in one chain and in many.
    let piece = writable(FREE, (FREE_END - FREE) as u32);
    driver.add_raw(REPORTS, &[piece; 20]);
    driver.repeat(REPORTS, piece, 20);
    let reports = (REPORTS, service::REPORTS);
    let turns_taken = turns(&driver, &mut service, reports, given_back);
    assert_eq!(turns_taken.iter().sum::<u64>(), 40 * pages);
    let (last, full) = turns_taken.split_last().unwrap();
    assert!(full.iter().all(|turn| *turn == PAGES) && *last <= PAGES, "{turns_taken:?}");
    assert_eq!(driver.given_back(REPORTS), 21);
    assert!((FREE / PAGE_SIZE..FREE_END / PAGE_SIZE).all(|page| is_gone(&driver, page)));
}

#[test]
fn one_turn_takes_so_many_chains_and_leaves_the_rest_for_the_next() {
    let (turn, half) = (TURN as u64, TURN as u64 / 2);
    // A chain of pages is begun in one step of a turn and given back in another.
    for (queue, expected) in [
        ((INFLATE, service::INFLATE), [half, half, half, half, 0].as_slice()),
        ((DEFLATE, service::DEFLATE), &[turn, turn, 0]),
        ((REPORTS, service::REPORTS), &[half, half, half, half, 0]),
    ] {
        let (mut driver, _control, mut service) = by_hand();
        driver.repeat(queue.0, readable(FREE, 0), 2 * TURN);
        let given_back = |driver: &Driver| driver.given_back(queue.0).into();
        assert_eq!(turns(&driver, &mut service, queue, given_back), expected, "{queue:?}");
    }
}

#[test]
fn a_reset_ends_what_is_under_way_and_the_balloon_is_empty() {
    let (mut driver, control, _io) = start();
    let piece = (FREE, (FREE_END - FREE) as u32);
    for _ in 0..20 {
        driver.write(register::CONFIG + 4, 7);
        assert_eq!(control.info().actual, 7 * PAGE_SIZE);
        report(&mut driver, REPORTS, &[piece; 30]);
        driver.write(register::STATUS, 0);
        let info = control.info();
        assert_eq!((info.driver, info.actual), (false, 0));
        use_pages(&driver, FREE / PAGE_SIZE, 4);
        driver.restart();
        assert!(control.info().driver);
        assert!(
            !is_gone(&driver, FREE / PAGE_SIZE),
            "nothing of the time before the reset goes on"
        );
    }
}

#[test]
fn a_driver_that_gives_its_own_rings_away_is_told_to_reset() {
    let (mut driver, control, _io) = start();
    // Where the test driver has the rings of its first queue.
    let rings: Vec<u32> = (0x10..0x20).collect();
    driver.add(INFLATE, &[&numbers(&rings)], &[]);
    driver.add(INFLATE, &[&numbers(&rings)], &[]);
    driver.kick(INFLATE);
    let deadline = Instant::now() + LIMIT;
    while driver.status() & 64 == 0 {
        assert!(driver.wait_interrupt(deadline), "the driver was not told");
    }
    while control.info().driver {
        assert!(Instant::now() < deadline, "it is served no more");
        thread::yield_now();
    }
    driver.restart();
    driver.add(INFLATE, &[&numbers(&[0x200])], &[]);
    driver.kick(INFLATE);
    driver.wait(INFLATE);
}

#[test]
fn a_new_target_interrupts_the_driver_which_finds_it_and_says_what_it_has() {
    let (mut driver, control, _io) = start();
    assert_eq!(driver.read(register::CONFIG), 0);
    control.set_target(64 << 20).unwrap();
    assert!(driver.wait_interrupt(Instant::now() + LIMIT));
    assert_eq!(driver.read(register::CONFIG), 0x4000);
    driver.write(register::CONFIG, 1);
    driver.write(register::CONFIG + 8, 1);
    driver.write_bytes(register::CONFIG + 4, &[1]);
    driver.write_bytes(register::CONFIG + 4, &[1; 8]);
    assert_eq!((driver.read(register::CONFIG), control.info().actual), (0x4000, 0));
    driver.write(register::CONFIG + 4, u32::MAX);
    assert_eq!(control.info().actual, u64::from(u32::MAX) * PAGE_SIZE, "it is the guest's word");
    assert_eq!(control.info().target, 64 << 20);
    driver.restart();
    assert_eq!(driver.read(register::CONFIG), 0x4000, "the target outlives the boot");
}

#[test]
fn the_driver_is_told_of_a_target_unless_it_is_the_one_that_it_has_read_last() {
    let (mut driver, control, mut service) = by_hand();
    let device = Balloon::new(control.clone(), IoThread::spawn("io").unwrap().handle());
    let read = |offset, length| {
        let mut data = vec![0; length];
        device.read_config(offset, &mut data);
        data[0]
    };
    // The device looks at what the host wants; whether it then interrupts the driver.
    let mut tells = |pages: u64| {
        control.set_target(pages * PAGE_SIZE).unwrap();
        assert_eq!(service.ready(), [service::BELL]);
        service.turn(service::BELL);
        driver.wait_interrupt(Instant::now())
    };
    assert!(!tells(0), "what is there to begin with is nothing new");
    assert!(tells(1));
    // It has not read it: told again, and of what it knows not either.
    assert!(tells(1) && tells(2));
    assert_eq!(read(0, 4), 2);
    assert!(!tells(2));
    // It reads by itself, before the device has looked.
    control.set_target(3 * PAGE_SIZE).unwrap();
    assert_eq!(read(0, 8), 3);
    assert!(!tells(3));
    // What it reads in between counts, not what it was told of.
    control.set_target(4 * PAGE_SIZE).unwrap();
    assert_eq!(read(0, 4), 4);
    assert!(tells(3));
    // Neither the other field, nor a part of this one, is the target.
    for (offset, length) in [(4, 4), (0, 1), (0, 2), (1, 4), (2, 2)] {
        read(offset, length);
        assert!(tells(3), "{offset} {length}");
    }
    assert_eq!(read(0, 4), 3);
    assert!(!tells(3));
    // The next driver has read nothing.
    control.driver_left();
    assert!(tells(3));
}

#[test]
fn free_pages_are_reported_only_where_the_host_gets_them() {
    let io = IoThread::spawn("io").unwrap();
    let device = || Balloon::new(BalloonControl::new(MEMORY).unwrap(), io.handle());
    assert_eq!(device().features() & REPORTING, REPORTING);
    assert_eq!(device().reporting(false).features(), STATS | DEFLATE_ON_OOM);
}

#[test]
fn a_target_set_between_a_drivers_first_look_and_its_start_is_told() {
    let io = IoThread::spawn("io").unwrap();
    let control = BalloonControl::new(MEMORY).unwrap();
    let device = Balloon::new(control.clone(), io.handle());
    let mut data = [0; 4];
    device.read_config(0, &mut data);
    control.set_target(PAGE_SIZE).unwrap();
    let mut driver = Driver::start(Box::new(device));
    assert!(driver.wait_interrupt(Instant::now() + LIMIT), "the driver knows of no target");
    assert_eq!(driver.read(register::CONFIG), 1);
}

#[test]
fn what_the_driver_reads_before_and_after_a_change_are_two_generations() {
    let (mut driver, control, _io) = start();
    let read = |driver: &mut Driver| {
        let before = driver.read(register::CONFIG_GENERATION);
        let pages = driver.read(register::CONFIG);
        assert_eq!(driver.read(register::CONFIG_GENERATION), before, "nothing has changed");
        (before, pages)
    };
    let mut generations = vec![read(&mut driver).0];
    // There and back: a version is not that of what was the same before.
    for pages in [1, 2, 1, 0, 1] {
        control.set_target(pages * PAGE_SIZE).unwrap();
        let (generation, read) = read(&mut driver);
        assert_eq!(u64::from(read), pages);
        assert!(!generations.contains(&generation), "{generation} again");
        generations.push(generation);
    }
    // What the driver itself writes is there to be read, too.
    driver.write(register::CONFIG + 4, 1);
    let (generation, _) = read(&mut driver);
    assert!(!generations.contains(&generation));
    // At a reset the balloon is empty; a driver that looks across it sees a change.
    driver.restart();
    assert_eq!(driver.read(register::CONFIG + 4), 0);
    assert_ne!(read(&mut driver).0, generation);
}

#[test]
fn no_target_is_set_that_leaves_the_guest_too_little() {
    let control = BalloonControl::new(MEMORY).unwrap();
    for bytes in [MEMORY, MEMORY - (16 << 20) + PAGE_SIZE, 4095, u64::MAX, u64::MAX - 4095] {
        let error = control.set_target(bytes).unwrap_err();
        assert_eq!(error.code, HResult::E_INVALIDARG, "{bytes}");
    }
    assert_eq!(control.info().target, 0);
    control.set_target(MEMORY - (16 << 20)).unwrap();
    assert_eq!(BalloonControl::new(0).unwrap().set_target(4096).unwrap_err().code.0, 0x8007_0057);
}

/// A buffer of statistics.
fn stats(pairs: &[(u16, u64)]) -> Vec<u8> {
    let pair = |(tag, value): &(u16, u64)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
    pairs.iter().flat_map(pair).collect()
}

/// Waits until the guest has told of its memory.
fn wait_for_stats(control: &BalloonControl) {
    let deadline = Instant::now() + LIMIT;
    while control.info().stats.is_none() {
        assert!(Instant::now() < deadline, "nothing was heard");
        thread::yield_now();
    }
}

#[test]
fn statistics_are_asked_for_anew_when_the_host_wants_them() {
    let (mut driver, control, _io) = start();
    driver.add(STATISTICS, &[&stats(&[(4, 1), (5, 100)])], &[]);
    driver.kick(STATISTICS);
    // Else these may be the ones that come after the question.
    wait_for_stats(&control);
    thread::scope(|scope| {
        for round in 2..50 {
            let asked = scope.spawn(|| control.fresh_info(LIMIT));
            driver.wait(STATISTICS);
            driver.add(STATISTICS, &[&stats(&[(4, round), (6, 50), (99, 9)])], &[]);
            driver.kick(STATISTICS);
            let info = asked.join().unwrap();
            let expected =
                MemoryStats { free: Some(round), available: Some(50), ..MemoryStats::default() };
            assert_eq!(info.stats, Some(expected));
            assert!(info.stats_age_ms.is_some());
        }
    });
}

#[test]
fn a_guest_that_does_not_answer_keeps_nobody_waiting_for_longer_than_allowed() {
    let (mut driver, control, _io) = start();
    assert_eq!(control.fresh_info(Duration::from_millis(50)).stats, None);
    driver.add(STATISTICS, &[&stats(&[(0, 1)])], &[]);
    driver.kick(STATISTICS);
    wait_for_stats(&control);
    let info = control.fresh_info(Duration::from_millis(50));
    assert_eq!(info.stats.unwrap().swapped_in, Some(1), "what it said before has to do");
    driver.wait(STATISTICS);
    drop(driver);
    let begun = Instant::now();
    assert_eq!(control.fresh_info(LIMIT).stats, None);
    assert!(begun.elapsed() < LIMIT, "nobody waits for a driver that is not there");
}

#[test]
fn of_many_buffers_of_statistics_one_is_taken_at_a_time_whatever_is_in_them() {
    let (mut driver, control, _io) = start();
    let long = stats(&[(7, 5); 100]);
    let odd = &stats(&[(1, 2), (2, 3)])[..19];
    for buffer in [&long[..], odd, b"", &[0xff; 10]] {
        driver.add(STATISTICS, &[buffer], &[]);
    }
    driver.add(STATISTICS, &[], &[4096]);
    driver.kick(STATISTICS);
    let mut found = Vec::new();
    for _ in 0..5 {
        wait_for_stats(&control);
        found.push(control.fresh_info(Duration::from_millis(100)).stats.unwrap());
    }
    for _ in 0..5 {
        assert_eq!(driver.wait(STATISTICS).1.len(), 0);
    }
    assert!(driver.take(STATISTICS).is_none());
    assert_eq!(found[0].swapped_out, Some(2));
    assert_eq!(found[0].major_faults, None);
    assert!(found[1..].iter().all(|stats| *stats == MemoryStats::default()), "{found:?}");
}

#[test]
fn a_driver_that_sets_up_only_the_queues_of_its_features_is_served_on_each() {
    // What is refused, how many queues are left, and which are for statistics and reports.
    for (refused, queues, statistics, reports) in [
        (0, 4, Some(STATISTICS), Some(REPORTS)),
        (STATS, 3, None, Some(2)),
        (REPORTING, 3, Some(2), None),
        (STATS | REPORTING, 2, None, None),
    ] {
        let manner = Manner { refused, queues, ..Manner::default() };
        let (mut driver, control, _io) = start_as(manner);
        use_pages(&driver, 0x200, 2);
        for queue in [INFLATE, DEFLATE] {
            driver.add(queue, &[&numbers(&[0x200])], &[]);
            driver.kick(queue);
            driver.wait(queue);
        }
        assert!(is_gone(&driver, 0x200) && !is_gone(&driver, 0x201), "{queues}");
        if let Some(queue) = reports {
            // As many pieces as Linux reports at once.
            use_pages(&driver, 0x500, 33);
            let pieces: Vec<(u64, u32)> =
                (0x500..0x520).map(|page| (page * PAGE_SIZE, PAGE_SIZE as u32)).collect();
            let head = report(&mut driver, queue, &pieces);
            assert_eq!(driver.wait_whole(queue).0, head);
            assert!((0x500..0x520).all(|page| is_gone(&driver, page)), "{queues}");
            assert!(!is_gone(&driver, 0x520), "{queues}");
        }
        let given_back = if reports.is_some() { 33 } else { 1 };
        assert_eq!(control.info().given_back, given_back * PAGE_SIZE, "{queues}");
        if let Some(queue) = statistics {
            driver.add(queue, &[&stats(&[(4, 77)])], &[]);
            driver.kick(queue);
            wait_for_stats(&control);
            assert_eq!(control.info().stats.unwrap().free, Some(77));
        } else {
            let begun = Instant::now();
            assert_eq!(control.fresh_info(LIMIT).stats, None);
            assert!(begun.elapsed() < LIMIT, "nobody waits for what was not agreed on");
        }
    }
}
