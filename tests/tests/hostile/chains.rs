//! Cases 1 to 5 and 9: chains that make no sense, in a ring that does.
//!
//! Each is played against every [subject](crate::subject).

use crate::bench::{Bench, PATTERN, RUNNING};
use crate::subject::{DISK_SIZE, NOWHERE, RAM, READABLE, Subject, TABLE, WRITABLE, every};
use std::time::Duration;
use tests::puppet::{Descriptor, INDIRECT, NEXT, WRITE, bytes_of, linked};

/// What the queue's device has to do with: its direction.
fn body(subject: Subject) -> Descriptor {
    match subject.writable() {
        0 => Descriptor::readable(READABLE, 8),
        _ => Descriptor::writable(WRITABLE, 8),
    }
}

/// Says that `descriptors` are a table of their own, and gives the descriptor of that.
fn table_of(bench: &Bench, descriptors: &[Descriptor]) -> Descriptor {
    bench.puppet.poke(TABLE, &bytes_of(descriptors));
    table_at(descriptors.len() as u32)
}

/// The table at the usual place.
fn table_at(count: u32) -> Descriptor {
    Descriptor::table(TABLE, count)
}

#[test]
fn case_01_a_chain_that_links_to_itself_is_refused() {
    for subject in every() {
        let bench = Bench::new(subject);
        let chain = subject.chain();
        let body = body(subject);
        let with_tail = |tail: &[Descriptor]| linked(&[&chain[..], tail].concat(), 0);
        let back_to = |mut chain: Vec<Descriptor>, to: u16| {
            let last = chain.last_mut().unwrap();
            *last = last.then(to);
            chain
        };
        let last = chain.len() as u16 - 1;
        bench.refuses(&back_to(chain.clone(), last), "the last one links to itself");
        bench.refuses(&back_to(chain.clone(), 0), "the last one links to the first");
        bench.refuses(&back_to(with_tail(&[body, body]), last + 1), "two of them link in a circle");
        let all = vec![body; bench.driver.ring(bench.queue()).size as usize];
        bench.refuses(&back_to(linked(&all, 0), 0), "the whole table is a circle");
        for (circle, when) in [(last, "to itself"), (0, "to the first")] {
            let table = table_of(&bench, &back_to(chain.clone(), circle));
            bench.refuses(&[table], &format!("in a table of its own, {when}"));
        }
    }
}

#[test]
fn case_02_a_chain_longer_than_the_queue_is_refused_and_costs_little() {
    for subject in every() {
        let bench = Bench::new(subject);
        let (driver, queue) = (&bench.driver, bench.queue());
        let size = driver.ring(queue).size as usize;
        for count in [size + 1, 2 * size, 32_768, 65_535] {
            let mut links = vec![Descriptor { length: 1, ..body(subject) }; count];
            links[0] = subject.chain()[0];
            let table = table_of(&bench, &linked(&links, 0));
            bench.refuses(&[table], &format!("{count} descriptors in a table"));
        }
        if subject == Subject::Statistics {
            continue;
        }
        // A queue full of the last one.
        driver.describe(queue, 0, &[table_at(65_535)]);
        let before = bench.puppet.usage();
        let rest = size - usize::from(driver.available(queue)) % size;
        for _ in 0..rest {
            driver.offer(queue, 0);
        }
        bench.offer(0);
        bench.await_all();
        let time = bench.puppet.usage().time.saturating_sub(before.time);
        assert!(time < Duration::from_secs(2), "{subject:?}: {rest} of them took {time:?}");
        bench.serves("after a queue full of them");
        bench.answers();
    }
}

#[test]
fn case_03_tables_in_tables_and_tables_of_no_size_are_refused() {
    for subject in every() {
        let bench = Bench::new(subject);
        let honest = table_of(&bench, &subject.chain());
        let count = subject.chain().len() as u32;
        // What a table is in a table.
        let inner = TABLE + 0x1_0000;
        bench.puppet.poke(inner, &bytes_of(&subject.chain()));
        bench.puppet.poke(TABLE, &Descriptor::table(inner, count).to_bytes());
        bench.refuses(&[table_at(1)], "a table in a table");
        bench.puppet.poke(TABLE, &Descriptor::table(TABLE, 1).to_bytes());
        bench.refuses(&[table_at(1)], "a table in itself");
        bench.puppet.poke(TABLE, &bytes_of(&subject.chain()));
        let of_length = |length: u32| Descriptor { length, ..honest };
        for length in [0, 1, 15, 17, 16 * count + 8, 16 * 65_536, 0xffff_fff0, u32::MAX] {
            bench.refuses(&[of_length(length)], &format!("a table of {length} bytes"));
        }
        for address in NOWHERE {
            let table = Descriptor { address, ..honest };
            bench.refuses(&[table], &format!("a table at {address:#x}"));
        }
        let cut = Descriptor { address: RAM - 8, ..honest };
        bench.refuses(&[cut], "a table over the end of RAM");
        // A chain whose beginning is in the queue's table, and that goes on in another table in
        // which there is nothing.
        let empty = Descriptor { address: TABLE, length: 0, flags: INDIRECT, next: 0 };
        bench.refuses(&linked(&[subject.chain()[0], empty], 0), "an empty table at the end");
    }
}

#[test]
fn case_03_a_table_whose_descriptor_says_more_than_it_may_is_still_bounded() {
    for subject in every() {
        let bench = Bench::new(subject);
        let (driver, queue) = (&bench.driver, bench.queue());
        // The flags of writing (section 2.7.5.3.2 has devices ignore it) and of a next one.
        for flags in [INDIRECT | WRITE, INDIRECT | NEXT, INDIRECT | NEXT | WRITE, 0xffff] {
            let table = table_of(&bench, &subject.chain());
            let when = format!("{subject:?}: a table with flags {flags:#x}");
            bench.lets_go();
            // Where the next one is, there is nothing.
            driver.describe(queue, 0, &[Descriptor { flags, ..table }, Descriptor::default()]);
            bench.offer(0);
            let (head, length) = bench.await_all();
            // It was refused as it came, or served once and as a whole.
            let whole = if subject == Subject::ConsoleIn {
                (1..=subject.writable()).contains(&length)
            } else {
                length == subject.written()
            };
            assert!(head == 0 && (length == 0 || whole), "{when}: {head}, {length} bytes");
            bench.is_quiet(&when);
            assert_eq!(driver.used(queue), driver.available(queue), "{when}");
            assert_eq!(driver.status(), RUNNING, "{when}");
            bench.comes_back(&when);
        }
    }
}

#[test]
fn case_04_lengths_of_nothing_and_of_everything_are_refused() {
    for subject in every() {
        let bench = Bench::new(subject);
        let chain = subject.chain();
        for index in 0..chain.len() {
            for length in [0, u32::MAX, RAM as u32, 1 << 31] {
                // No report of what is free, and no page's number, is a report of nothing.
                let mut chain = chain.clone();
                chain[index].length = length;
                let when = format!("descriptor {index} has {length} bytes");
                bench.refuses(&chain, &when);
            }
        }
    }
}

#[test]
fn case_04_four_gigabytes_in_one_chain_are_refused() {
    const LARGE: u64 = 256 << 20;
    for subject in every() {
        let bench = Bench::with(subject, LARGE, 0);
        let piece = Descriptor { address: 0, length: LARGE as u32, ..body(subject) };
        let chain = [subject.chain(), vec![piece; 16]].concat();
        bench.refuses(&linked(&chain, 0), "4 GiB in one chain");
        let table = table_of(&bench, &linked(&chain, 0));
        bench.refuses(&[table], "4 GiB in a table");
    }
}

#[test]
fn case_05_addresses_outside_of_ram_are_refused_before_anything_is_done() {
    for subject in every() {
        let bench = Bench::new(subject);
        let chain = subject.chain();
        for index in 0..chain.len() {
            let length = u64::from(chain[index].length);
            let straddling = [RAM - 1, RAM - length + 1, !0 - length + 2, !0];
            for address in NOWHERE.into_iter().chain(straddling) {
                let mut chain = chain.clone();
                chain[index].address = address;
                bench.refuses(&chain, &format!("descriptor {index} is at {address:#x}"));
            }
        }
        // What is good comes first, and must not have been done when the bad one is found. But pieces of
        // free memory have nothing to do with each other.
        for address in NOWHERE.into_iter().filter(|_| subject != Subject::Reports) {
            let bad = Descriptor { address, ..body(subject) };
            let chain = linked(&[&chain[..], &[bad]].concat(), 0);
            bench.refuses(&chain, &format!("behind a chain that is whole, {address:#x}"));
        }
    }
}

#[test]
fn case_05_a_buffer_over_the_hole_between_two_parts_of_ram_is_refused() {
    const HOLE: u64 = 0xc000_0000;
    const BEHIND: u64 = 1 << 32;
    for subject in every() {
        let bench = Bench::with(subject, HOLE + (64 << 20), 0);
        let chain = subject.chain();
        for index in 0..chain.len() {
            let length = u64::from(chain[index].length);
            for address in [HOLE - 1, HOLE - length + 1, BEHIND - 1, BEHIND - length + 1] {
                let mut chain = chain.clone();
                chain[index].address = address;
                bench.refuses(&chain, &format!("descriptor {index} is at {address:#x}"));
            }
            let mut chain = chain.clone();
            (chain[index].address, chain[index].length) =
                (HOLE - 4096, (BEHIND - HOLE) as u32 + 8192);
            bench.refuses(&chain, &format!("descriptor {index} reaches over the hole"));
        }
    }
}

#[test]
fn case_05_a_buffer_on_top_of_the_ring_harms_nobody_but_the_guest() {
    for subject in every() {
        let bench = Bench::new(subject);
        let ring = bench.driver.ring(bench.queue());
        let chain = subject.chain();
        for at in [ring.descriptors, ring.available, ring.used, ring.used + 2] {
            for index in 0..chain.len() {
                let mut chain = chain.clone();
                chain[index].address = at;
                bench.survives(&chain, &format!("descriptor {index} is at the ring, {at:#x}"));
            }
        }
    }
}

/// What a chain is about is as good as an address: pages and sectors.
#[test]
fn case_05_pages_that_are_no_ram_and_sectors_that_are_not_on_the_disk_are_left_alone() {
    for subject in [Subject::Inflate, Subject::Deflate] {
        let bench = Bench::new(subject);
        let nowhere = NOWHERE.map(|address| (address >> 12) as u32);
        let numbers = [&nowhere[..], &[u32::MAX, 1 << 31, (RAM >> 12) as u32 - 1, 0x2000]].concat();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bench.lets_go();
        bench.puppet.poke(READABLE, &bytes);
        let chain = [Descriptor::readable(READABLE, bytes.len() as u32)];
        assert_eq!(bench.driver.submit(bench.queue(), &chain), 0, "{subject:?}");
        bench.serves("pages that are none");
    }
    let bench = Bench::new(Subject::Disk);
    let (read, write, flush, nothing) = (0_u32, 1_u32, 4_u32, 0xffff_u32);
    let behind = (DISK_SIZE / 512) as u64;
    for sector in [behind, behind - 1, u64::MAX, 1 << 55, u64::MAX / 512 + 1] {
        for kind in [read, write, flush, nothing] {
            let header = [u64::from(kind).to_le_bytes(), sector.to_le_bytes()].concat();
            bench.puppet.poke(READABLE, &header);
            // Two sectors, so that the one before the last is too far, too.
            let data = Descriptor { length: 1024, ..body(Subject::Disk) };
            let data = if kind == write { Descriptor { flags: 0, ..data } } else { data };
            let status = Descriptor::writable(WRITABLE + 1024, 1);
            let chain = [Descriptor::readable(READABLE, 16), data, status];
            bench.driver.submit(0, &linked(&chain, 0));
            let said = bench.puppet.peek(WRITABLE + 1024, 1)[0];
            let expected = if kind == nothing { 2 } else { u8::from(kind != flush) };
            assert_eq!(said, expected, "{kind} at {sector:#x}");
            bench.puppet.poke(WRITABLE + 1024, &[PATTERN]);
            bench.does_nothing("sectors that are not there");
            bench.serves("sectors that are not there");
        }
    }
}

#[test]
fn case_09_what_lies_the_wrong_way_round_is_refused() {
    for subject in every() {
        let bench = Bench::new(subject);
        let chain = subject.chain();
        for index in 0..chain.len() {
            let mut chain = chain.clone();
            chain[index].flags ^= WRITE;
            bench.refuses(&chain, &format!("descriptor {index} lies the wrong way round"));
        }
        // What the device writes is behind what it reads (section 2.7.4.2).
        let (read, write) =
            (Descriptor::readable(READABLE, 16), Descriptor::writable(WRITABLE, 4096));
        for (chain, when) in [
            (&[write, read][..], "what is written comes before what is read"),
            (&[read, write, read], "what is written comes between"),
            (&[write, write, read], "what is read comes last"),
        ] {
            let chain = linked(chain, 0);
            bench.refuses(&chain, when);
            let table = table_of(&bench, &chain);
            bench.refuses(&[table], &format!("in a table {when}"));
        }
    }
}
