//! What the process of a monitor has of the host's memory: its guest's RAM, and the rest.

use std::fs;
use std::io;

/// Mappings of so many KiB or more are a guest's RAM.
const RAM_KIB: u64 = 64 << 10;
/// So are those that are left out of core files, as this monitor's are; RAM can be in several pieces.
const NO_DUMP: &str = "dd";
/// The pages of a mapping of hugetlbfs are kept for it, touched or not, and counted nowhere else.
const HUGE_PAGES: &str = "ht";

/// The memory of a process, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What it has for itself apart from its guest's RAM: what it has written, its program's data among
    /// it. The pages of its program are the page cache's, and any number of machines have the same.
    pub private: u64,
    /// All that it has mapped and that is in memory or kept for it, RAM among it.
    pub resident: u64,
    /// The same, but of what it shares with other processes only its part.
    pub proportional: u64,
    /// What of its guest's RAM are pages of a file, that any number of machines have.
    pub shared: u64,
}

/// The memory of `process`.
///
/// # Errors
/// There is no such process, or it is another user's.
pub fn of(process: u32) -> io::Result<Memory> {
    Ok(read(&fs::read_to_string(format!("/proc/{process}/smaps"))?))
}

/// Reads `/proc/PID/smaps`, in which a mapping's flags come last.
fn read(text: &str) -> Memory {
    let (mut all, mut mapping) = (Memory::default(), Mapping::default());
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let mut words = value.split_whitespace();
        if name == "VmFlags" {
            all.add(&mapping, &words.collect::<Vec<_>>());
            mapping = Mapping::default();
        } else if let Some(kib) = words.next().and_then(|word| word.parse().ok()) {
            mapping.take(name, kib);
        }
    }
    all
}

/// One mapping, in KiB.
#[derive(Default)]
struct Mapping {
    size: u64,
    anonymous: u64,
    resident: u64,
    proportional: u64,
}

impl Mapping {
    fn take(&mut self, name: &str, kib: u64) {
        match name {
            "Size" => self.size = kib,
            "Anonymous" => self.anonymous = kib,
            "Rss" => self.resident = kib,
            "Pss" => self.proportional = kib,
            _ => {}
        }
    }
}

impl Memory {
    fn add(&mut self, mapping: &Mapping, flags: &[&str]) {
        let kept = if flags.contains(&HUGE_PAGES) { mapping.size } else { 0 };
        self.resident += mapping.resident + kept;
        self.proportional += mapping.proportional + kept;
        if flags.contains(&NO_DUMP) {
            self.shared += mapping.resident.saturating_sub(mapping.anonymous);
        } else if mapping.size < RAM_KIB {
            self.private += mapping.anonymous;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(head: &str, fields: &[(&str, u64)], flags: &str) -> String {
        let fields: String =
            fields.iter().map(|(name, kib)| format!("{name}:  {kib} kB\n")).collect();
        format!("{head}\n{fields}VmFlags: {flags} \n")
    }

    #[test]
    fn guest_ram_is_told_by_its_size_or_that_it_is_left_out_of_core_files() {
        let program = [("Size", 900), ("Rss", 800), ("Pss", 80), ("Anonymous", 0)];
        let data = [("Size", 40), ("Rss", 30), ("Pss", 30), ("Anonymous", 30)];
        let ram = [("Size", 1 << 18), ("Rss", 5000), ("Pss", 5000), ("Anonymous", 5000)];
        let piece = [("Size", 2048), ("Rss", 70), ("Pss", 40), ("Anonymous", 10)];
        let text = [
            mapping("55d0-55d1 r-xp 00:00 0 /bin/a: b", &program, "rd ex mr"),
            mapping("55d1-55d2 rw-p 00:00 0", &data, "rd wr mr"),
            mapping("7f00-7f01 rw-p 00:00 0", &ram, "rd wr mr nr"),
            mapping("7f01-7f02 rw-p 00:00 0 /cache/kernel", &piece, "rd wr mr dd"),
        ];
        let found = read(&text.concat());
        let expected = Memory { private: 30, resident: 5900, proportional: 5150, shared: 60 };
        assert_eq!(found, expected);
    }

    #[test]
    fn pages_of_hugetlbfs_count_whether_they_are_touched_or_not() {
        let fields = [("Size", 1 << 18), ("Rss", 0), ("Pss", 0), ("Private_Hugetlb", 2048)];
        let found = read(&mapping("7f00-7f01 rw-p 00:00 0 /anon_hugepage", &fields, "rd ht dd"));
        assert_eq!((found.private, found.resident, found.proportional), (0, 1 << 18, 1 << 18));
    }

    #[test]
    fn this_process_has_memory() {
        let memory = of(std::process::id()).expect("it may look at itself");
        assert!(memory.private > 0 && memory.proportional <= memory.resident, "{memory:?}");
    }
}
