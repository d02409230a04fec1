//! Running a program of the guest's for a bounded time, and keeping a bounded part of what it says.
//!
//! Each has a process group of its own, so that one that is ended takes along what it has started:
//! programs here are often scripts, and a signal to a shell alone leaves the work of the moment going
//! on.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of output that are kept.
const MAX_OUTPUT: u64 = 16 * 1024;
/// How often a program that has closed its output is looked after.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a program that is ended may take to clean up behind itself. Tests run on machines that are
/// busy with much else.
const CLEANING_UP: Duration = Duration::from_secs(if cfg!(test) { 10 } else { 1 });

/// The guest's programs.
#[derive(Clone, Debug)]
pub struct Programs {
    folders: Vec<PathBuf>,
}

impl Default for Programs {
    /// Where every distribution has its administrator's programs.
    fn default() -> Self {
        Self::of(["/usr/sbin", "/usr/bin", "/sbin", "/bin"])
    }
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whether it says that it did what it was to do.
    pub success: bool,
    /// The beginning of what it said, on standard output and standard error.
    pub output: String,
}

impl Programs {
    /// The programs in `folders`; the first that has one of a name is used.
    pub fn of(folders: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self { folders: folders.into_iter().map(Into::into).collect() }
    }

    /// Where the program `name` is.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        self.folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    /// Runs the program `name`, and ends it if it takes longer than `limit`.
    ///
    /// # Errors
    /// There is no such program, it cannot be started, or it was ended.
    pub fn run(&self, name: &str, arguments: &[&str], limit: Duration) -> io::Result<Ended> {
        self.run_within(name, arguments, &Bounds { until: Instant::now() + limit, caller: None })
    }

    /// The same for a caller who may leave: the program is ended when there is something to be read
    /// from `caller`, or its other end is gone.
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    pub fn run_for(
        &self,
        caller: BorrowedFd<'_>,
        name: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> io::Result<Ended> {
        let bounds = Bounds { until: Instant::now() + limit, caller: Some(caller) };
        self.run_within(name, arguments, &bounds)
    }

    fn run_within(&self, name: &str, arguments: &[&str], bounds: &Bounds) -> io::Result<Ended> {
        let path = self.find(name).ok_or_else(|| {
            io::Error::new(ErrorKind::NotFound, format!("the guest has no {name}"))
        })?;
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut child = self.spawn(&path, arguments, theirs)?;
        let output = listen(&mut ours, bounds);
        // A program that writes more gets SIGPIPE.
        drop(ours);
        loop {
            // It fails only where the program has been waited for: then its number is not its own
            // any more.
            if let Some(status) = child.try_wait()? {
                return Ok(Ended { success: status.success(), output });
            }
            if let Err(error) = bounds.wait(None, PAUSE) {
                end(&mut child);
                return Err(error);
            }
        }
    }

    fn spawn(&self, path: &Path, arguments: &[&str], output: UnixStream) -> io::Result<Child> {
        let output = OwnedFd::from(output);
        let path_variable = std::env::join_paths(&self.folders).unwrap_or_default();
        Command::new(path)
            .args(arguments)
            .env_clear()
            .env("PATH", path_variable)
            .env("LC_ALL", "C")
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(Stdio::from(output.try_clone()?))
            .stdout(Stdio::from(output))
            .spawn()
    }
}

/// How long a program may go on.
struct Bounds<'a> {
    until: Instant,
    /// Whoever it is run for.
    caller: Option<BorrowedFd<'a>>,
}

impl Bounds<'_> {
    /// Waits until `output` has something, but not longer than `longest`.
    ///
    /// # Errors
    /// The time is over, or the caller has left.
    fn wait(&self, output: Option<BorrowedFd<'_>>, longest: Duration) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now()).min(longest);
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, "it took too long"));
        }
        let watched = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds: Vec<PollFd<'_>> = self.caller.into_iter().chain(output).map(watched).collect();
        // No limit here is longer than minutes.
        let timeout =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if self.caller.is_some() && fds.first().is_some_and(|caller| !caller.revents().is_empty()) {
            return Err(io::Error::new(ErrorKind::ConnectionAborted, "nobody waits for it"));
        }
        Ok(())
    }
}

/// What is said within `bounds`, at most so much as is kept.
fn listen(stream: &mut UnixStream, bounds: &Bounds) -> String {
    let mut output = Vec::new();
    let mut chunk = [0; 1024];
    while (output.len() as u64) < MAX_OUTPUT
        && bounds.wait(Some(stream.as_fd()), Duration::MAX).is_ok()
    {
        match stream.read(&mut chunk) {
            Ok(count @ 1..) => output.extend_from_slice(&chunk[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Ok(0) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&output).into_owned()
}

/// Ends a program that has not been waited for, and all of its group: first so that they can clean
/// up, then in any case.
fn end(child: &mut Child) {
    let group = Pid::from_child(child);
    // As long as it is not waited for, the number is its own, and so is that of the group; neither
    // signal fails then.
    let _ = kill_process_group(group, Signal::TERM);
    let until = Instant::now() + CLEANING_UP;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(group), look), Ok(None)) && Instant::now() < until {
        thread::sleep(PAUSE);
    }
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(30);

    fn sh(script: &str, limit: Duration) -> io::Result<Ended> {
        Programs::default().run("sh", &["-c", script], limit)
    }

    #[test]
    fn what_a_program_says_and_how_it_ends_is_told() {
        let ended = sh("echo one; echo two >&2", LONG).unwrap();
        assert_eq!(ended, Ended { success: true, output: "one\ntwo\n".into() });
        assert!(!sh("exit 3", LONG).unwrap().success);
        assert_eq!(sh("cat; echo $HOME", LONG).unwrap().output, "\n", "nothing is handed down");
        let missing = Programs::default().run("no-such-program", &[], LONG).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed_whatever_it_leaves_running() {
        let began = Instant::now();
        for script in ["sleep 60", "exec >&- 2>&-; sleep 60", "sleep 60 & exit"] {
            let ended = sh(script, Duration::from_millis(200));
            assert!(ended.is_err() || script.ends_with("exit"), "{script}: {ended:?}");
        }
        assert!(began.elapsed() < LONG);
    }

    /// Whether the process is there, and no zombie.
    fn lives(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z')))
    }

    #[test]
    fn a_program_whose_caller_leaves_cleans_up_and_ends_with_what_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let script = format!(
            "cd {}; touch draft; trap 'rm draft; exit 1' TERM; \
             sh -c 'trap \"\" TERM; echo $$ > deaf.$$; mv deaf.$$ deaf; while :; do sleep 1; done' & \
             sleep 1000 & echo $! > child; echo $$ > ready.$$; mv ready.$$ ready; wait",
            folder.path().display()
        );
        let (caller, leaving) = UnixStream::pair().unwrap();
        let begun = Instant::now();
        thread::scope(|scope| {
            let run = scope.spawn(|| {
                let arguments = ["-c", script.as_str()];
                Programs::default().run_for(caller.as_fd(), "sh", &arguments, 100 * LONG)
            });
            while !(path("ready").is_file() && path("deaf").is_file()) {
                assert!(begun.elapsed() < LONG, "it never began");
                thread::sleep(PAUSE);
            }
            assert!(!run.is_finished(), "nobody has left yet");
            drop(leaving);
            let error = run.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        });
        assert!(begun.elapsed() < LONG);
        assert!(!path("draft").exists(), "it could clean up");
        for name in ["ready", "child", "deaf"] {
            let pid = std::fs::read_to_string(path(name)).unwrap();
            while lives(pid.trim()) {
                // What is killed takes its time to die.
                assert!(begun.elapsed() < LONG, "{name} goes on");
                thread::sleep(PAUSE);
            }
        }
    }

    #[test]
    fn a_caller_who_has_left_is_not_worked_for_and_one_who_stays_hears_all() {
        let (caller, leaving) = UnixStream::pair().unwrap();
        let run = |script| Programs::default().run_for(caller.as_fd(), "sh", &["-c", script], LONG);
        let ended = run("echo one; exec >&- 2>&-; sleep 0.1").unwrap();
        assert_eq!(ended, Ended { success: true, output: "one\n".into() });
        drop(leaving);
        let error = run("sleep 1000").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    }

    #[test]
    fn a_program_that_talks_without_end_is_cut_off() {
        let ended = sh("yes", LONG).unwrap();
        assert!(!ended.success && ended.output.len() < 20_000, "{}", ended.output.len());
    }
}
