//! Which files a machine's process may still open: Landlock, as far as this kernel has it
//! (`Documentation/userspace-api/landlock.rst`).

use super::{ConfineError, Landlocked};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;

/// What is asked for; an older kernel enforces what it knows of that.
const ASKED: ABI = ABI::V6;

/// What a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A file, or all files below a directory, that are read.
    Read,
    /// A file that is written, too.
    Write,
    /// A device that is written, too, and whose driver is asked for things.
    Device,
    /// A device that is read, and whose driver is asked for things.
    ReadDevice,
    /// A directory for sockets of this process, where it also takes files away.
    Sockets,
    /// A directory out of which an empty directory is taken.
    Leave,
}

impl Use {
    fn rights(self, folder: bool) -> BitFlags<AccessFs> {
        let read = match folder {
            // To open it is as far as it goes where a file should be.
            true => AccessFs::ReadFile | AccessFs::ReadDir,
            false => AccessFs::ReadFile.into(),
        };
        let write = read | AccessFs::WriteFile | AccessFs::Truncate;
        match self {
            Self::Read => read,
            Self::Write => write,
            Self::Device => write | AccessFs::IoctlDev,
            Self::ReadDevice => read | AccessFs::IoctlDev,
            Self::Sockets => AccessFs::MakeSock | AccessFs::RemoveFile,
            Self::Leave => AccessFs::RemoveDir.into(),
        }
    }
}

/// Leaves this thread, and those that it will start, nothing but `files` and the terminal.
pub(super) fn restrict(files: &[(PathBuf, Use)]) -> Result<Landlocked, ConfineError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(ASKED))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ASKED)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ASKED)))
        .and_then(Ruleset::create)
        .map_err(ConfineError::Landlock)?;
    for (path, wanted) in files {
        match PathFd::new(path) {
            Ok(fd) => ruleset = add(ruleset, fd, wanted.rights(path.is_dir()))?,
            Err(PathFdError::OpenCall { source, .. }) if is_out_of_reach(&source) => {}
            Err(PathFdError::OpenCall { source, path, .. }) => {
                return Err(ConfineError::File { path, source });
            }
            // There are no other errors.
            Err(error) => {
                let source = io::Error::other(error);
                return Err(ConfineError::File { path: path.clone(), source });
            }
        }
    }
    // A terminal is opened once more, not to block; a pipe can be in any case.
    let streams = [open(io::stdin()), open(io::stdout()), open(io::stderr())];
    for terminal in streams.into_iter().flatten() {
        ruleset = add(ruleset, terminal, Use::Device.rights(false))?;
    }
    let status = ruleset.restrict_self().map_err(ConfineError::Landlock)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Landlocked::Fully,
        RulesetStatus::PartiallyEnforced => Landlocked::Partly,
        RulesetStatus::NotEnforced => Landlocked::Not,
    })
}

/// Whether a file cannot be opened by this process in any case: whoever tries says so.
fn is_out_of_reach(error: &io::Error) -> bool {
    let reasons = [libc::ENOENT, libc::ENOTDIR, libc::EACCES, libc::ELOOP, libc::ENAMETOOLONG];
    error.raw_os_error().is_some_and(|reason| reasons.contains(&reason))
}

/// A terminal's descriptor.
fn open(stream: impl AsFd + IsTerminal) -> Option<File> {
    if !stream.is_terminal() {
        return None;
    }
    Some(File::from(stream.as_fd().try_clone_to_owned().ok()?))
}

fn add(
    ruleset: RulesetCreated,
    place: impl AsFd,
    rights: BitFlags<AccessFs>,
) -> Result<RulesetCreated, ConfineError> {
    ruleset.add_rule(PathBeneath::new(place, rights)).map_err(ConfineError::Landlock)
}
