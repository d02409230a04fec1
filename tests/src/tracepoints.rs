//! Counts of what happens in the kernel, by its tracepoints: histograms, kept by the kernel itself.
//! Counting takes time: where something is counted, nothing is timed.

use rustix::mount::{MountFlags, mount};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

const TRACING: &str = "/sys/kernel/tracing";

/// A tracepoint, and the field whose values are told apart.
#[derive(Clone, Copy, Debug)]
pub struct Tracepoint {
    /// Its system, as `kvm`.
    pub system: &'static str,
    /// Its name, as `kvm_exit`.
    pub event: &'static str,
    /// The field, as `exit_reason`.
    pub field: &'static str,
}

impl Tracepoint {
    /// Lets it count from zero.
    ///
    /// # Errors
    /// The kernel has no such tracepoint or does not count, or this is not root.
    pub fn begin(&self) -> io::Result<()> {
        if !Path::new(TRACING).join("events").exists() {
            mount("tracefs", TRACING, "tracefs", MountFlags::empty(), None)?;
        }
        // None from before is as good.
        let _ = self.end();
        fs::write(self.file("trigger"), self.histogram())
    }

    /// Counts no longer.
    ///
    /// # Errors
    /// It did not count.
    pub fn end(&self) -> io::Result<()> {
        fs::write(self.file("trigger"), format!("!{}", self.histogram()))
    }

    /// What it has counted, by the value of its field.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn counts(&self) -> io::Result<BTreeMap<u64, u64>> {
        let text = fs::read_to_string(self.file("hist"))?;
        // What there was no room for.
        let mut totals = text.lines().map(str::trim);
        if !totals.any(|line| line == "Dropped: 0") {
            return Err(io::Error::other(format!("{self:?} did not count everything:\n{text}")));
        }
        let mut counts = BTreeMap::new();
        // { exit_reason:       1024 } hitcount:         17
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let mut words = line.split([' ', ':', '{', '}']).filter(|word| !word.is_empty());
            if let (Some(_), Some(Ok(value)), Some("hitcount"), Some(Ok(count))) = (
                words.next(),
                words.next().map(str::parse),
                words.next(),
                words.next().map(str::parse),
            ) {
                counts.insert(value, count);
            }
        }
        Ok(counts)
    }

    fn histogram(&self) -> String {
        format!("hist:keys={}", self.field)
    }

    fn file(&self, name: &str) -> String {
        format!("{TRACING}/events/{}/{}/{name}", self.system, self.event)
    }
}
