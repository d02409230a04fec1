//! How often and how long: what benchmarks of the lab do with the work that they measure.

use crate::tracepoints::Tracepoint;
use std::fs;
use std::io;
use std::time::Instant;

/// Bytes of a MiB.
pub const MIB: f64 = 1_048_576.0;

const CALLS: Tracepoint =
    Tracepoint { system: "raw_syscalls", event: "sys_enter", field: "common_pid" };
const EXITS: Tracepoint = Tracepoint { system: "kvm", event: "kvm_exit", field: "exit_reason" };

/// The median of the seconds that `work` takes, so many `times` after some that do not count.
///
/// # Errors
/// The work's.
pub fn median(
    times: usize,
    warm_up: usize,
    mut work: impl FnMut() -> io::Result<()>,
) -> io::Result<f64> {
    let mut seconds = Vec::new();
    for round in 0..warm_up + times {
        let before = Instant::now();
        work()?;
        if round >= warm_up {
            seconds.push(before.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[times / 2])
}

/// The system calls of `process` and the exits of all guests while `work` is done.
///
/// # Errors
/// The work's, or the kernel does not count.
pub fn counted(process: u32, work: impl FnOnce() -> io::Result<()>) -> io::Result<(f64, f64)> {
    let threads = fs::read_dir(format!("/proc/{process}/task"))?.flatten();
    let threads: Vec<u64> =
        threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok()).collect();
    CALLS.begin()?;
    EXITS.begin()?;
    let done = work();
    let counted = [CALLS, EXITS].map(|tracepoint| tracepoint.counts());
    CALLS.end()?;
    EXITS.end()?;
    done?;
    let [calls, exits] = counted;
    let (calls, exits) = (calls?, exits?);
    let calls = threads.iter().filter_map(|thread| calls.get(thread)).sum::<u64>();
    Ok((calls as f64, exits.values().sum::<u64>() as f64))
}
