//! A program that may hang, and may start others: it ends in time, when we do, and never alone.

use anyhow::{Context, Result};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What `timeout` ends a group of processes with, and so itself.
const KILL: i32 = 9;

/// How a program has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Success,
    Failure,
    TookTooLong,
}

/// What runs `program`, for no longer than `limit`.
///
/// It has a group of processes to itself, all of which `timeout` ends when it hears its alarm. That is
/// set for `limit`, and is what the kernel sends it should we end before.
pub(crate) fn command(limit: Duration, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "ALRM", "timeout", "--signal", "KILL"])
        .arg(limit.as_secs().to_string())
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// Runs what [`command`] gave.
pub(crate) fn run(command: &mut Command) -> Result<End> {
    let status = command.status().context("cannot start setpriv")?;
    Ok(match status.signal() {
        Some(KILL) => End::TookTooLong,
        _ if status.success() => End::Success,
        _ => End::Failure,
    })
}

#[cfg(test)]
mod tests {
    use super::{End, command, run};
    use std::io::Read;
    use std::path::Path;
    use std::time::Duration;

    const SHELL: &str = "/bin/sh";

    fn end(script: &str, limit: u64) -> End {
        let mut command = command(Duration::from_secs(limit), Path::new(SHELL));
        run(command.args(["-c", script])).expect("setpriv and timeout are everywhere")
    }

    #[test]
    fn a_program_that_ends_in_time_says_how() {
        assert_eq!(end("exit 0", 60), End::Success);
        assert_eq!(end("exit 7", 60), End::Failure);
        assert_eq!(end("kill -ABRT $$", 60), End::Failure);
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_all_that_it_has_started() {
        let (mut said, says) = std::io::pipe().expect("a pipe can be made");
        let mut command = command(Duration::from_secs(1), Path::new(SHELL));
        command.args(["-c", "(sleep 60; echo I live) & wait"]).stdout(says);
        assert_eq!(run(&mut command).expect("it runs"), End::TookTooLong);
        drop(command);
        // The pipe ends when nobody is left who has it.
        let mut words = String::new();
        said.read_to_string(&mut words).expect("a pipe can be read");
        assert_eq!(words, "");
    }
}
