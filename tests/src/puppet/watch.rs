//! What a process has of the host: memory, threads, descriptors, time.

use std::fs;
use std::time::Duration;

/// What a process has at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Anonymous memory that is there, in KiB; a guest's RAM is part of it.
    pub memory: u64,
    /// Threads.
    pub threads: usize,
    /// Descriptors.
    pub descriptors: usize,
    /// Time on a processor of those of the monitor's own threads that are there: less than before,
    /// where one has ended.
    pub time: Duration,
    /// How often they have begun to run.
    pub runs: u64,
    /// Whether all of them sleep.
    pub asleep: bool,
    /// Time of the threads that are the guest's processors.
    pub processors: Duration,
}

impl Usage {
    /// Whether the monitor has done nothing since `before`. Times would not tell of a moment: the
    /// kernel adds them up from tick to tick.
    #[must_use]
    pub fn idle_since(&self, before: &Self) -> bool {
        before.asleep && self.asleep && self.runs == before.runs
    }

    /// Whether there are as many threads and descriptors.
    #[must_use]
    pub fn holds_as_much_as(&self, other: &Self) -> bool {
        (self.threads, self.descriptors) == (other.threads, other.descriptors)
    }

    /// That of the process `pid`, with its memory counted page by page: the sum that the kernel keeps
    /// may be some dozens of pages behind.
    ///
    /// # Panics
    /// There is no such process.
    #[must_use]
    pub fn exactly(pid: u32) -> Self {
        let pages = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let memory = kibibytes(&pages.expect("the process is there"), "Anonymous:");
        Self { memory, ..Self::of(pid) }
    }

    /// That of the process `pid`.
    ///
    /// # Panics
    /// There is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let base = format!("/proc/{pid}");
        let status = fs::read_to_string(format!("{base}/status")).expect("the process is there");
        let count = |name: &str| fs::read_dir(format!("{base}/{name}")).map_or(0, Iterator::count);
        let mut usage = Self {
            memory: kibibytes(&status, "RssAnon:"),
            threads: count("task"),
            descriptors: count("fd"),
            asleep: true,
            ..Self::default()
        };
        for task in fs::read_dir(format!("{base}/task")).into_iter().flatten().flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            // Nanoseconds on a processor, those of waiting for one, and how often it was given one.
            let times = read("schedstat");
            let mut times = times.trim().split(' ').map(|time| time.parse().unwrap_or(0));
            let [on, _, runs] = std::array::from_fn(|_| times.next().unwrap_or(0));
            let on = Duration::from_nanos(on);
            if read("comm").starts_with("vcpu") {
                usage.processors += on;
            } else {
                usage.time += on;
                usage.runs += runs;
                // The state stands behind the name, which is in brackets.
                usage.asleep &=
                    read("stat").rsplit(") ").next().is_some_and(|it| it.starts_with('S'));
            }
        }
        usage
    }
}

/// The figure behind `name`.
fn kibibytes(text: &str, name: &str) -> u64 {
    let figure = text.lines().find_map(|line| line.strip_prefix(name));
    let figure = figure.and_then(|text| text.trim().split(' ').next()?.parse().ok());
    figure.expect("the kernel tells of anonymous memory")
}
