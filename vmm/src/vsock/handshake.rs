//! The line with which a host program says which port of the guest it wants: `CONNECT <port>\n`.

use rustix::net::{RecvFlags, recv};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The longest line, in bytes: `CONNECT 4294967295\n` has 19.
const LINE_MAX: usize = 32;
/// How long a program may take over it.
const LIMIT: Duration = Duration::from_secs(5);

/// A host program that has connected and not yet said where to.
pub struct Handshake {
    stream: UnixStream,
    line: Vec<u8>,
    deadline: Instant,
}

/// What has come of a handshake.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The line is not complete.
    Waits,
    /// This port of the guest is wanted.
    Wants(u32),
    /// This is nobody to talk to.
    Failed,
}

impl Handshake {
    /// A handshake on `stream`, which must not block.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, line: Vec::new(), deadline: Instant::now() + LIMIT }
    }

    /// The stream, to watch it.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The stream, after the line.
    #[must_use]
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// When the program's time is over.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Reads on; nothing that follows the line is taken from the stream.
    pub fn proceed(&mut self) -> Progress {
        match self.read() {
            Ok(progress) => progress,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Progress::Waits,
            Err(_) => Progress::Failed,
        }
    }

    fn read(&mut self) -> io::Result<Progress> {
        let mut bytes = [0; LINE_MAX];
        let room = LINE_MAX - self.line.len();
        let (_, seen) = recv(&self.stream, &mut bytes[..room], RecvFlags::PEEK)?;
        if seen == 0 {
            return Ok(Progress::Failed);
        }
        let end = bytes[..seen].iter().position(|byte| *byte == b'\n');
        let take = end.map_or(seen, |end| end + 1);
        let (_, taken) = recv(&self.stream, &mut bytes[..take], RecvFlags::empty())?;
        self.line.extend(&bytes[..taken]);
        if end.is_some() {
            return Ok(port(&self.line).map_or(Progress::Failed, Progress::Wants));
        }
        Ok(if self.line.len() == LINE_MAX { Progress::Failed } else { Progress::Waits })
    }
}

/// The port of a line.
fn port(line: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(line).ok()?;
    let port = line.trim_end_matches(['\n', '\r']).strip_prefix("CONNECT ")?;
    port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn pair() -> (UnixStream, Handshake) {
        let (program, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        (program, Handshake::new(stream))
    }

    #[test]
    fn a_line_in_pieces_is_understood_and_what_follows_is_left() {
        let (mut program, mut handshake) = pair();
        assert_eq!(handshake.proceed(), Progress::Waits);
        for byte in b"CONNECT 4294967295" {
            program.write_all(&[*byte]).unwrap();
            assert_eq!(handshake.proceed(), Progress::Waits);
        }
        program.write_all(b"\nhello").unwrap();
        assert_eq!(handshake.proceed(), Progress::Wants(u32::MAX));
        let mut rest = [0; 5];
        handshake.into_stream().read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"hello");
    }

    #[test]
    fn other_lines_fail() {
        for line in [
            "CONNECT\n",
            "CONNECT +1\n",
            "CONNECT -1\n",
            "CONNECT 4294967296\n",
            "connect 1\n",
            "\n",
            "CONNECT 1 2\n",
            "CONNECT 00000000000000000000000000001\n",
            "\u{e9}\n",
        ] {
            let (mut program, mut handshake) = pair();
            program.write_all(line.as_bytes()).unwrap();
            assert_eq!(handshake.proceed(), Progress::Failed, "{line:?}");
        }
        let (program, mut handshake) = pair();
        drop(program);
        assert_eq!(handshake.proceed(), Progress::Failed);
    }
}
