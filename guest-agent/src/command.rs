//! Running a program of the guest's for a bounded time, and keeping a bounded part of what it says.

use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of output that are kept.
const MAX_OUTPUT: u64 = 16 * 1024;
/// How often a program that has closed its output is looked after.
const PAUSE: Duration = Duration::from_millis(10);

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

    /// Runs the program `name`, and kills it if it takes longer than `limit`.
    ///
    /// # Errors
    /// There is no such program, it cannot be started, or it was killed.
    pub fn run(&self, name: &str, arguments: &[&str], limit: Duration) -> io::Result<Ended> {
        let path = self.find(name).ok_or_else(|| {
            io::Error::new(ErrorKind::NotFound, format!("the guest has no {name}"))
        })?;
        let until = Instant::now() + limit;
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut child = self.spawn(&path, arguments, theirs)?;
        let output = listen(&mut ours, until);
        // A program that writes more gets SIGPIPE.
        drop(ours);
        let success = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Ok(status.success()),
                Ok(None) if Instant::now() < until => thread::sleep(PAUSE),
                Ok(None) => break Err(io::Error::new(ErrorKind::TimedOut, "it took too long")),
                Err(error) => break Err(error),
            }
        };
        if success.is_err() {
            // Neither fails with a child that has not been waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok(Ended { success: success?, output })
    }

    fn spawn(&self, path: &Path, arguments: &[&str], output: UnixStream) -> io::Result<Child> {
        let output = OwnedFd::from(output);
        let path_variable = std::env::join_paths(&self.folders).unwrap_or_default();
        Command::new(path)
            .args(arguments)
            .env_clear()
            .env("PATH", path_variable)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stderr(Stdio::from(output.try_clone()?))
            .stdout(Stdio::from(output))
            .spawn()
    }
}

/// What is said before `until`, at most so much as is kept.
fn listen(stream: &mut UnixStream, until: Instant) -> String {
    let mut output = Vec::new();
    let mut chunk = [0; 1024];
    while (output.len() as u64) < MAX_OUTPUT {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            break;
        }
        match stream.read(&mut chunk) {
            Ok(count @ 1..) => output.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The end, or the time is over.
            Ok(0) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&output).into_owned()
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

    #[test]
    fn a_program_that_talks_without_end_is_cut_off() {
        let ended = sh("yes", LONG).unwrap();
        assert!(!ended.success && ended.output.len() < 20_000, "{}", ended.output.len());
    }
}
