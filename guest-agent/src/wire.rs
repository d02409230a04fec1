//! The two halves of a connection to the host: whole frames out, whole messages in.

use crate::serve::ServeError;
use protocol::frame::{self, Decoder, FrameError};
use protocol::message::{AgentMessage, HostMessage};
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the host may take no bytes before the connection counts as dead.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// The two halves of `stream`.
pub(crate) fn split(stream: UnixStream) -> Result<(Reader, Wire), ServeError> {
    let writer = stream.try_clone().map_err(ServeError::Socket)?;
    writer.set_write_timeout(Some(STALLED_AFTER)).map_err(ServeError::Socket)?;
    Ok((Reader { stream, decoder: Decoder::default() }, Wire(Mutex::new(writer))))
}

/// The writing half, shared by the threads of a connection.
pub(crate) struct Wire(Mutex<UnixStream>);

impl Wire {
    pub(crate) fn send(&self, message: &AgentMessage) -> Result<(), ServeError> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frame::write(&mut *stream, message).map_err(|error| match error {
            FrameError::Io(_) => ServeError::Deaf,
            error => error.into(),
        })
    }

    /// Ends the connection in both directions, so that the reader notices.
    pub(crate) fn close(&self) {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails where the peer has closed it already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// The reading half.
pub(crate) struct Reader {
    stream: UnixStream,
    decoder: Decoder,
}

/// What came of listening.
pub(crate) enum Heard {
    Message(HostMessage),
    /// Not in time.
    Nothing,
    /// The host has closed the connection.
    End,
}

impl Reader {
    /// The host's next message, if it comes before `until`.
    pub(crate) fn next(&mut self, until: Instant) -> Result<Heard, ServeError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Heard::Nothing);
            }
            // A time-out of 0 would mean none.
            let left = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).map_err(ServeError::Socket)?;
            match self.decoder.read(&mut self.stream) {
                Ok(Some(message)) => return Ok(Heard::Message(message)),
                Ok(None) => return Ok(Heard::End),
                // Not a message of this protocol; the frames after it may be.
                Err(FrameError::Json(_)) => {}
                Err(FrameError::Io(error)) if is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the connection in both directions.
    pub(crate) fn close(&self) {
        // Fails where the host has closed it already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
