//! Whether what a process has of its host stays level while it does the same thing again and again.
//!
//! Descriptors and threads are counted, and there are as many as before each time. Memory is not that
//! exact: an allocator keeps some of what it is given back, now more and now less. So the line is taken
//! that fits all samples best, and judged is what it rises from the first to the last. The more often the
//! thing is done, the less of it may stay behind each time: of a thousand, half a KiB, which is an
//! eighth of a page.

use crate::puppet::Usage;
use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

/// What an allocator may keep, in KiB.
///
/// That of glibc gives a heap's end back when it is 128 KiB long, and a process has several heaps, which
/// its threads take turns in.
pub const KEPT: u64 = 512;
/// For so long nothing begins or ends where what has ended is not there any more.
const REST: Duration = Duration::from_secs(1);
/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(10);

/// Whether all that soaks is to be played, and not only a part.
#[must_use]
pub fn whole() -> bool {
    std::env::var_os("VMM_SOAK").is_some()
}

/// Says what was measured, past the harness, which keeps to itself what a test that passes prints.
pub fn say(figures: &str) {
    // Whoever does not listen need not. The harness may be in the middle of a line.
    let _ = writeln!(std::io::stderr(), "\n{figures}");
}

/// What a process has, from time to time.
pub struct Level {
    pid: u32,
    /// What it does again and again.
    things: &'static str,
    begun: Instant,
    before: Usage,
    /// After how many of them, and how much memory there was, in KiB.
    samples: Vec<(u64, u64)>,
}

impl Level {
    /// Begins with what the process `pid` has as soon as it rests. The thing should have been done some
    /// times before: a heap grows until it is as large as it has to be.
    ///
    /// # Panics
    /// There is no such process, or it does not rest.
    #[must_use]
    pub fn of(pid: u32, things: &'static str) -> Self {
        let deadline = Instant::now() + LIMIT;
        let (mut before, mut since) = (Usage::exactly(pid), Instant::now());
        while since.elapsed() < REST {
            assert!(
                Instant::now() < deadline,
                "threads or descriptors come and go: {:?}",
                held(pid)
            );
            thread::sleep(Duration::from_millis(10));
            let now = Usage::exactly(pid);
            if !now.holds_as_much_as(&before) {
                since = Instant::now();
            }
            before = now;
        }
        let begun = Instant::now();
        Self { pid, things, begun, before, samples: vec![(0, before.memory)] }
    }

    /// Looks at what the process has after it has done so many of the things.
    ///
    /// # Panics
    /// It has other descriptors or threads than at the beginning, and that does not change: what has
    /// ended may be there for a moment longer.
    pub fn sample(&mut self, done: u64) {
        let deadline = Instant::now() + LIMIT;
        let mut now = Usage::exactly(self.pid);
        while !now.holds_as_much_as(&self.before) {
            assert!(
                Instant::now() < deadline,
                "after {done} {}: {:?} became {now:?}: {:?}",
                self.things,
                self.before,
                held(self.pid)
            );
            thread::sleep(Duration::from_millis(2));
            now = Usage::exactly(self.pid);
        }
        self.samples.push((done, now.memory));
    }

    /// What memory has risen by from the first look to the last, in KiB, but for its ups and downs.
    fn rise(&self) -> f64 {
        let (first, last) = (self.samples[0], self.samples[self.samples.len() - 1]);
        slope(&self.samples) * (last.0 - first.0) as f64
    }

    /// That nothing has grown; [says](say) what there was.
    ///
    /// # Panics
    /// Memory grew by more than an allocator keeps.
    pub fn is_flat(&self) {
        let last = self.samples.len() - 1;
        let memory = [0, 1, 2, 3, 4].map(|quarter| self.samples[last * quarter / 4].1);
        let Usage { descriptors, threads, .. } = self.before;
        let said = format!(
            "{} {} in {:.1?}: {descriptors} descriptors and {threads} threads at each of {} looks; \
             memory in KiB at the beginning, three times on the way, and at the end: {memory:?}; it \
             rose by {:.1} bytes each, and {:.0} KiB in all, of which {KEPT} may be an allocator's",
            self.samples[last].0,
            self.things,
            self.begun.elapsed(),
            self.samples.len(),
            slope(&self.samples) * 1024.0,
            self.rise(),
        );
        say(&said);
        assert!(self.rise() < KEPT as f64, "{said}: {:?}", self.samples);
    }
}

/// By how much the line rises with each step that fits the samples best, by least squares.
fn slope(samples: &[(u64, u64)]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: fn(&(u64, u64)) -> u64| samples.iter().map(of).sum::<u64>() as f64 / count;
    let (middle, height) = (mean(|it| it.0), mean(|it| it.1));
    let (mut along, mut across) = (0.0, 0.0);
    for &(at, value) in samples {
        let away = at as f64 - middle;
        along += away * (value as f64 - height);
        across += away * away;
    }
    along / across
}

/// The descriptors and threads of a process, by name.
fn held(pid: u32) -> Vec<String> {
    let entries = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).into_iter().flatten();
    let descriptors = entries("fd").flatten().filter_map(|it| fs::read_link(it.path()).ok());
    let threads = entries("task").flatten();
    let threads = threads.filter_map(|it| fs::read_to_string(it.path().join("comm")).ok());
    let descriptors = descriptors.map(|to| to.to_string_lossy().into_owned());
    descriptors.chain(threads.map(|name| name.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is a rise of memory, of which there is so much while a thing is done a thousand times.
    fn rise(memory: impl Fn(u64) -> u64) -> f64 {
        let samples = (0..=1000).step_by(20).map(|done| (done, memory(done))).collect();
        let (begun, before) = (Instant::now(), Usage::default());
        Level { pid: 0, things: "things", begun, before, samples }.rise()
    }

    /// What an allocator does: up and down, and up and down.
    fn noise(done: u64) -> u64 {
        20_000 + done * 7919 % 300
    }

    #[test]
    fn what_goes_up_and_down_is_flat() {
        assert!(rise(noise).abs() < 100.0);
    }

    #[test]
    fn a_heap_that_is_used_late_for_the_first_time_is_no_leak() {
        assert!(rise(|done| noise(done) + if done < 500 { 0 } else { 132 }) < KEPT as f64);
    }

    #[test]
    fn a_quarter_of_a_page_each_time_is_a_leak() {
        assert!(rise(|done| noise(done) + done) > KEPT as f64);
    }

    #[test]
    fn the_line_is_the_one_that_fits_best() {
        assert!((slope(&[(0, 10), (10, 30), (20, 50)]) - 2.0).abs() < 1e-9);
        assert!((slope(&[(0, 1), (1, 0), (2, 2)]) - 0.5).abs() < 1e-9);
    }
}
