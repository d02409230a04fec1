//! What a user's choices change of a boot: boots a stock kernel once with each, up to its first program,
//! which switches the machine off. Prints a document for each: seconds until the monitor has ended, or,
//! counted, which takes time, the exits, and the memory when it was most.

use serde_json::{Value, json};
use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};
use tests::memory::{self, Memory};
use tests::monitor::{Guest, Monitor};
use tests::tracepoints::Tracepoint;

/// A boot as everybody gets it, whose console is not flooded.
const QUIET: &str = "quiet power-off";
/// Between two looks at a monitor's memory.
const LOOK: Duration = Duration::from_millis(5);
/// The lab's transparent huge pages, and its reserved ones.
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
/// A huge page, in MiB.
const HUGE_PAGE: u32 = 2;
/// A place for unpacked kernels where there are none.
const EMPTY_CACHE: &str = "/run/empty-cache";

const EXITS: Tracepoint = Tracepoint { system: "kvm", event: "kvm_exit", field: "exit_reason" };

/// What is chosen.
#[derive(Clone, Copy)]
struct Choice {
    name: &'static str,
    /// Words for the monitor.
    words: &'static [&'static str],
    append: &'static str,
    /// Whether the kernel is an ELF file.
    is_elf: bool,
    /// Whether the host makes huge pages by itself.
    transparent: bool,
    /// Whether the monitor has never seen the kernel.
    is_first: bool,
}

const USUAL: Choice = Choice {
    name: "as it is",
    words: &[],
    append: QUIET,
    is_elf: false,
    transparent: true,
    is_first: false,
};

const CHOICES: [Choice; 12] = [
    USUAL,
    Choice { name: "the kernel's first start", is_first: true, ..USUAL },
    Choice { name: "--kernel vmlinux", is_elf: true, ..USUAL },
    Choice { name: "--kernel-entry bzimage", words: &["--kernel-entry", "bzimage"], ..USUAL },
    Choice { name: "--console none", words: &["--console", "none"], ..USUAL },
    Choice { name: "a kernel that is not quiet", append: "power-off", ..USUAL },
    Choice { name: "--sandbox off", words: &["--sandbox", "off"], ..USUAL },
    Choice { name: "cryptomgr.notests=0", append: "quiet power-off cryptomgr.notests=0", ..USUAL },
    Choice { name: "--share-kernel", words: &["--share-kernel"], ..USUAL },
    Choice { name: "--hugepages", words: &["--hugepages"], ..USUAL },
    Choice { name: "transparent huge pages off", transparent: false, ..USUAL },
    Choice { name: "the same, --hugepages", words: &["--hugepages"], transparent: false, ..USUAL },
];

fn main() {
    let counted = env::args().nth(1).is_some_and(|word| word == "counted");
    // It keeps the unpacked kernel, and the page cache gets warm.
    boot(&USUAL, false).expect("the guest boots");
    for choice in CHOICES {
        let document = boot(&choice, counted);
        println!("{}", document.unwrap_or_else(|error| panic!("{}: {error}", choice.name)));
    }
}

fn boot(choice: &Choice, counted: bool) -> io::Result<Value> {
    let usual = Guest::of_lab(choice.append);
    let packed = if choice.is_elf { usual.unpacked } else { usual.packed };
    let guest = Guest { packed, ..usual };
    let huge = choice.words.contains(&"--hugepages");
    fs::write(TRANSPARENT, if choice.transparent { "always" } else { "never" })?;
    fs::write(RESERVED, if huge { guest.memory / HUGE_PAGE } else { 0 }.to_string())?;
    let mut command = Monitor::Vmm.command(&guest);
    command.args(choice.words).stdin(Stdio::null()).stdout(Stdio::null());
    if choice.is_first {
        if Path::new(EMPTY_CACHE).exists() {
            fs::remove_dir_all(EMPTY_CACHE)?;
        }
        command.env("XDG_CACHE_HOME", EMPTY_CACHE);
    }
    if counted {
        EXITS.begin()?;
    }
    let before = Instant::now();
    let mut process = command.spawn()?;
    let mut memory = Memory::default();
    let status = loop {
        if !counted {
            break process.wait()?;
        }
        if let Some(status) = process.try_wait()? {
            break status;
        }
        // When the guest is off, its RAM goes first.
        if let Ok(now) = memory::of(process.id())
            && now.resident > memory.resident
        {
            memory = now;
        }
        thread::sleep(LOOK);
    };
    let seconds = before.elapsed().as_secs_f64();
    if !status.success() {
        return Err(io::Error::other(format!("the monitor ended with {status}")));
    }
    if !counted {
        return Ok(json!({"choice": choice.name, "seconds": seconds}));
    }
    let counts = EXITS.counts()?.into_iter();
    let exits: serde_json::Map<_, _> =
        counts.map(|(reason, count)| (reason.to_string(), count.into())).collect();
    Ok(json!({
        "choice": choice.name,
        "exits": exits,
        "private_kib": memory.private,
        "resident_kib": memory.resident,
    }))
}
