//! What a machine uses of its host: the time of its processors, and the bytes of its disks
//! and networks.

use rustix::thread::{Pid, gettid};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a machine has used since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Milliseconds that the host's processors have spent on the machine's.
    pub cpu_ms: u64,
    /// Bytes that the guest has read from its disks.
    pub disk_bytes_read: u64,
    /// Bytes that the guest has written to its disks.
    pub disk_bytes_written: u64,
    /// Bytes of the packets that the guest has received.
    pub network_bytes_received: u64,
    /// Bytes of the packets that the guest has sent.
    pub network_bytes_sent: u64,
}

/// What a machine's use of the host comes to: `IVMAccountant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Accountant {
    /// Percent of its processors' time in which they ran, in the tenth of a second before.
    pub cpu_utilization: u8,
    /// Bytes that the guest has read from its disks.
    pub disk_bytes_read: u64,
    /// Bytes that the guest has written to its disks.
    pub disk_bytes_written: u64,
    /// Bytes of the packets that the guest has received.
    pub network_bytes_received: u64,
    /// Bytes of the packets that the guest has sent.
    pub network_bytes_sent: u64,
    /// The time since it was started.
    pub up_time: Duration,
}

/// Counts it.
#[derive(Clone, Debug, Default)]
pub struct Usage(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    processors: Mutex<Processors>,
    read: AtomicU64,
    written: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

#[derive(Debug, Default)]
struct Processors {
    /// The threads of those that run.
    threads: Vec<Pid>,
    /// The time of those that have ended.
    ended: Duration,
}

impl Usage {
    /// Counts the time of this thread, which is a processor's, until the guard is dropped.
    pub(crate) fn count_this_thread(&self) -> CountedThread {
        let thread = gettid();
        self.processors().threads.push(thread);
        CountedThread { usage: self.clone(), thread }
    }

    /// A disk has been read.
    pub(crate) fn has_read(&self, bytes: usize) {
        self.0.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A disk has been written.
    pub(crate) fn has_written(&self, bytes: usize) {
        self.0.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A packet has been received.
    pub(crate) fn has_received(&self, bytes: usize) {
        self.0.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A packet has been sent.
    pub(crate) fn has_sent(&self, bytes: usize) {
        self.0.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What has been used until now.
    #[must_use]
    pub fn used(&self) -> Used {
        let processors = self.processors();
        let running: Duration = processors.threads.iter().map(|thread| cpu_time(*thread)).sum();
        let cpu = processors.ended.saturating_add(running);
        drop(processors);
        Used {
            cpu_ms: u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX),
            disk_bytes_read: self.0.read.load(Ordering::Relaxed),
            disk_bytes_written: self.0.written.load(Ordering::Relaxed),
            network_bytes_received: self.0.received.load(Ordering::Relaxed),
            network_bytes_sent: self.0.sent.load(Ordering::Relaxed),
        }
    }

    fn processors(&self) -> MutexGuard<'_, Processors> {
        self.0.processors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread whose time counts.
pub(crate) struct CountedThread {
    usage: Usage,
    thread: Pid,
}

impl Drop for CountedThread {
    fn drop(&mut self) {
        let mut processors = self.usage.processors();
        processors.threads.retain(|thread| *thread != self.thread);
        processors.ended = processors.ended.saturating_add(cpu_time(self.thread));
    }
}

/// The time that a thread of this process has run; none of one that has ended.
fn cpu_time(thread: Pid) -> Duration {
    // clock_getcpuclockid(3) has no sister for threads by id. This is how the C library makes the
    // clock of one: the id's complement, and then 4 for a thread and 2 for its time on a processor.
    let clock = !thread.as_raw_nonzero().get() << 3 | 4 | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel only writes the time to where it is told, which is ours.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Duration::ZERO;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Instant;

    #[test]
    fn the_time_of_a_thread_counts_while_it_runs_and_afterwards_and_only_its_own() {
        let usage = Usage::default();
        let (end, ended) = channel::<()>();
        let counted = usage.clone();
        let busy = thread::spawn(move || {
            let _counted = counted.count_this_thread();
            while ended.try_recv().is_err() {}
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while usage.used().cpu_ms < 50 {
            assert!(Instant::now() < deadline, "no time is counted: {:?}", usage.used());
        }
        end.send(()).unwrap();
        busy.join().unwrap();
        let after = usage.used().cpu_ms;
        assert!(after >= 50);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {}
        assert_eq!(usage.used().cpu_ms, after, "this thread is none of the machine's");
    }
}
