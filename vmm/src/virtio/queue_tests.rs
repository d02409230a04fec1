//! Which chains given back the driver hears of.

use super::*;
use crate::irq::IrqLine;
use crate::memory;
use crate::virtio::INTERRUPT_QUEUE;

const SIZE: u16 = 16;
const DESCRIPTORS: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;

/// A queue, and the driver's side of its rings.
struct Bench {
    queue: DeviceQueue,
    interrupt: Interrupt,
    ram: GuestRam,
}

impl Bench {
    /// A queue of which `used` chains have been given back, modulo 65,536.
    fn new(event_idx: bool, used: u16) -> Self {
        let ram = memory::map(1 << 20).unwrap();
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_size(SIZE);
        queue.set_desc_table_address(Some(DESCRIPTORS as u32), None);
        queue.set_avail_ring_address(Some(AVAIL as u32), None);
        queue.set_used_ring_address(Some(USED as u32), None);
        queue.set_event_idx(event_idx);
        queue.set_next_used(used);
        queue.set_ready(true);
        assert!(queue.is_valid(&ram));
        let interrupt = Interrupt::new(IrqLine::new().unwrap());
        let doorbell = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let queue = DeviceQueue::new(queue, ram.clone(), doorbell, interrupt.clone());
        Self { queue, interrupt, ram }
    }

    /// The driver writes the available ring's flags, and which chain it wants to hear of.
    fn driver_wants(&self, flags: u16, used_event: u16) {
        self.ram.write_obj(flags.to_le(), GuestAddress(AVAIL)).unwrap();
        let at = AVAIL + 4 + u64::from(SIZE) * 2;
        self.ram.write_obj(used_event.to_le(), GuestAddress(at)).unwrap();
    }

    /// Gives so many chains back, one batch after the other, and then says whether the driver was
    /// interrupted.
    fn interrupts_after(&mut self, batches: &[usize]) -> bool {
        for count in batches {
            self.queue.add_used_together(&vec![(3, 0); *count]).unwrap();
        }
        self.queue.notify();
        self.interrupt.status.swap(0, Ordering::AcqRel) == INTERRUPT_QUEUE
    }

    fn used_index(&self) -> u16 {
        u16::from_le(self.ram.read_obj(GuestAddress(USED + 2)).unwrap())
    }
}

#[test]
fn a_driver_with_event_indices_hears_of_the_chain_that_it_named_and_of_no_other() {
    // Chains given back before, batches, and the chains that are in these.
    let table: &[(u16, &[usize], &[u16])] = &[
        (10, &[1], &[10]),
        (0, &[1], &[0]),
        (10, &[5], &[10, 11, 12, 13, 14]),
        (10, &[2, 1, 2], &[10, 11, 12, 13, 14]),
        (10, &[0, 1], &[10]),
        (10, &[], &[]),
        (10, &[0], &[]),
        (65_534, &[1], &[65_534]),
        (65_535, &[1], &[65_535]),
        (65_533, &[5], &[65_533, 65_534, 65_535, 0, 1]),
        (65_533, &[1, 2, 2], &[65_533, 65_534, 65_535, 0, 1]),
        (65_520, &[16], &[65_520, 65_521, 65_527, 65_534, 65_535]),
        (32_767, &[2], &[32_767, 32_768]),
    ];
    for (used, batches, within) in table {
        let count = batches.iter().sum::<usize>() as u16;
        let last = used.wrapping_add(count);
        // Those of the batches, those just outside of them, and those far away.
        let outside = [used.wrapping_sub(1), last, last.wrapping_add(1), last.wrapping_add(32_768)];
        let events = within.iter().map(|event| (*event, true));
        for (event, expected) in events.chain(outside.map(|event| (event, false))) {
            // The flag is of no meaning then, whatever it says.
            for flags in [0, 1] {
                let mut bench = Bench::new(true, *used);
                bench.driver_wants(flags, event);
                let what = format!("{used} and {batches:?}, event {event}, flags {flags}");
                assert_eq!(bench.interrupts_after(batches), expected, "{what}");
                assert_eq!(bench.used_index(), if count == 0 { 0 } else { last }, "{what}");
                // What it has been told of, or did not want to hear of, is not said later.
                assert!(!bench.interrupts_after(&[]), "{what}");
            }
        }
    }
}

#[test]
fn a_driver_without_event_indices_hears_of_every_batch_unless_its_flag_says_no() {
    for (flags, expected) in [(0, true), (1, false), (3, false), (0xffff, false), (0xfffe, true)] {
        for (used, batches) in [(0_u16, &[1][..]), (10, &[1, 3]), (65_535, &[2]), (65_534, &[1])] {
            // Not among those given back, and among them: it is not looked at.
            for event in [used, used.wrapping_add(100)] {
                let mut bench = Bench::new(false, used);
                bench.driver_wants(flags, event);
                let what = format!("{used} and {batches:?}, event {event}, flags {flags:#x}");
                assert_eq!(bench.interrupts_after(batches), expected, "{what}");
                assert!(!bench.interrupts_after(&[]), "nothing is there to be heard of; {what}");
                bench.driver_wants(0, event);
                assert!(bench.interrupts_after(&[1]), "{what}");
            }
        }
    }
}

#[test]
fn a_chain_that_is_none_of_the_queues_is_not_given_back_whoever_goes_with_it() {
    for heads in [&[SIZE][..], &[SIZE, 3], &[0xffff, 3, 4], &[3, SIZE, 4], &[3, SIZE]] {
        let mut bench = Bench::new(false, 0);
        let chains: Vec<(u16, u32)> = heads.iter().map(|head| (*head, 0)).collect();
        assert_eq!(bench.queue.add_used_together(&chains), Err(Broken), "{heads:?}");
        assert_eq!(bench.interrupt.needs_reset.load(Ordering::Acquire), 1, "{heads:?}");
        assert_eq!(bench.used_index(), 0, "{heads:?}: the driver sees none of them");
    }
}

#[test]
fn rings_that_have_gone_end_in_a_reset_and_no_interrupt_of_the_queue() {
    let mut bench = Bench::new(true, 0);
    bench.queue.given = Wrapping(1);
    // Where there is no memory.
    bench.queue.queue.set_avail_ring_address(Some(0xffff_f000), None);
    bench.queue.notify();
    assert_eq!(bench.interrupt.needs_reset.load(Ordering::Acquire), 1);
    assert_eq!(bench.interrupt.status.load(Ordering::Acquire) & INTERRUPT_QUEUE, 0);
    assert_eq!(bench.queue.await_buffers(), Err(Broken));
}
