//! What the console's output is written to on the host, without ever waiting for its reader.
//!
//! Whether a descriptor blocks is a property of what was opened, which this process shares with
//! others, a shell say: it must not be changed. So there are four ways:
//!
//! - a pipe or terminal is opened once more, as one of our own that does not block;
//! - a socket cannot be opened again, and is told with every packet not to block;
//! - a regular file makes nobody wait. Opened again it would be written from its beginning, over
//!   what is there already, so it is used as it is;
//! - what may not be opened, a terminal of another user's say, is written a little at a time, when
//!   it is ready.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::net::{SendFlags, send};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that whatever is ready takes at once.
const LITTLE: usize = 64;

/// How it is written.
enum Way {
    /// It does not block, or not for long.
    Write,
    /// It is a socket.
    Send,
    /// It blocks.
    Little,
}

/// Where output goes.
pub(super) struct Sink {
    file: File,
    way: Way,
    /// Nobody will ever read it.
    gone: AtomicBool,
}

impl Sink {
    fn new(file: File, way: Way) -> Self {
        Self { file, way, gone: AtomicBool::new(false) }
    }

    /// The file at `path`, created or truncated.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        // A pipe without a reader is refused instead of waited for.
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        Ok(Self::new(options.open(path)?, Way::Write))
    }

    /// This process's standard output.
    pub(super) fn stdout() -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(match FileType::from_raw_mode(fstat(&stdout)?.st_mode) {
            FileType::RegularFile => Self::new(stdout, Way::Write),
            FileType::Socket => Self::new(stdout, Way::Send),
            _ => match unblocked(1, OFlags::WRONLY) {
                Ok(own) => Self::new(own, Way::Write),
                Err(_) => Self::new(stdout, Way::Little),
            },
        })
    }

    /// Writes as much of `bytes` as is taken now.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is; any other if it never will be again.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.way {
            Way::Write => (&self.file).write(bytes),
            Way::Send => Ok(send(&self.file, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?),
            Way::Little => {
                let mut fds = [PollFd::new(&self.file, PollFlags::OUT)];
                if poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                (&self.file).write(&bytes[..bytes.len().min(LITTLE)])
            }
        }
    }

    /// Notes that nobody will ever read it; false if that was known.
    pub(super) fn lose(&self) -> bool {
        !self.gone.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Sink {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// The open descriptor `fd` once more, without blocking.
pub(super) fn unblocked(fd: u32, access: OFlags) -> io::Result<File> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = rustix::fs::open(format!("/proc/self/fd/{fd}"), flags, Mode::empty())?;
    Ok(File::from(opened))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    /// Writes until nothing is taken any more, and gives how much was.
    fn fill(sink: &Sink) -> usize {
        let mut total = 0;
        loop {
            match sink.write(&[b'x'; 4096]) {
                Ok(count) => total += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return total;
                }
            }
        }
    }

    #[test]
    fn nothing_waits_for_a_socket_or_a_pipe_that_nobody_reads() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = Sink::new(File::from(std::os::fd::OwnedFd::from(ours)), Way::Send);
        assert!(fill(&socket) > 0);
        theirs.read_exact(&mut [0; 4096]).unwrap();
        assert!(theirs.set_nonblocking(true).is_ok() && theirs.read(&mut [0; 1 << 20]).is_ok());
        assert!(socket.write(b"x").is_ok());

        let (reader, writer) = pipe().unwrap();
        let pipe = Sink::new(File::from(writer), Way::Little);
        assert!(fill(&pipe) > 0);
        File::from(reader).read_exact(&mut [0; 8192]).unwrap();
        let error = pipe.write(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "the reader has gone");
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).unwrap();
        assert!(Sink::file(&path).is_err());
        let _reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        assert!(fill(&Sink::file(&path).unwrap()) > 0);
    }
}
