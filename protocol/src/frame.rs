//! Frames: a 32-bit little-endian length, then that many bytes of one JSON document.
//!
//! A length of 0 or above [`MAX_FRAME`] ends the connection: the stream cannot be trusted any
//! more. A document that is not what was expected is the reader's to judge; the stream goes on.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};

/// The longest document, in bytes.
pub const MAX_FRAME: usize = 64 * 1024;

const HEADER: usize = 4;
const CHUNK: usize = 4096;

/// Why a frame could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer announced a length that no frame has.
    #[error("frame of {0} bytes announced, 1 to {MAX_FRAME} allowed")]
    Length(u32),
    /// The message is too long for a frame.
    #[error("message of {0} bytes does not fit a frame of {MAX_FRAME}")]
    TooLong(usize),
    /// The document is not the message that was expected.
    #[error("message not understood")]
    Json(#[from] serde_json::Error),
    /// The stream failed.
    #[error("stream failed")]
    Io(#[from] io::Error),
    /// The stream ended within a frame.
    #[error("stream ended within a frame")]
    Truncated,
}

/// `message` as a frame.
///
/// # Errors
/// The message is longer than [`MAX_FRAME`] or cannot be expressed in JSON.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - HEADER;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    frame[..HEADER].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Writes `message` to `stream` as one frame, in one write where the stream takes it.
///
/// # Errors
/// As [`encode`], or the stream fails.
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    Ok(stream.flush()?)
}

/// Cuts a byte stream into frames; holds at most one frame and one read of 4 KiB.
///
/// A read that is interrupted, by a time-out say, loses nothing: the next call goes on.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// The next message of `stream`, or none at its end.
    ///
    /// # Errors
    /// [`FrameError::Json`] leaves the stream usable: the bad document has been passed over.
    /// [`FrameError::Io`] leaves it usable where the stream is (`WouldBlock`, `TimedOut`). All
    /// others end it.
    pub fn read<T: DeserializeOwned>(
        &mut self,
        stream: &mut impl Read,
    ) -> Result<Option<T>, FrameError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let mut chunk = [0; CHUNK];
            match stream.read(&mut chunk) {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(FrameError::Truncated),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What was read and belongs to no frame that has been given out: for a stream that goes on as
    /// something else.
    #[must_use]
    pub fn into_rest(self) -> Vec<u8> {
        self.buffer
    }

    /// Whether the beginning of a frame is waiting for its end.
    #[must_use]
    pub fn is_midway(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The first message of the buffer, if it is complete.
    fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let announced = u32::from_le_bytes(*header);
        let length = announced as usize;
        if length == 0 || length > MAX_FRAME {
            return Err(FrameError::Length(announced));
        }
        let Some(document) = self.buffer.get(HEADER..HEADER + length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(document);
        self.buffer.drain(..HEADER + length);
        Ok(Some(message?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives its bytes in pieces of the sizes given, over and over.
    struct Trickle<'a> {
        bytes: &'a [u8],
        sizes: std::iter::Cycle<std::slice::Iter<'a, usize>>,
    }

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = *self.sizes.next().unwrap_or(&1);
            let count = size.min(buffer.len()).min(self.bytes.len());
            let (now, later) = self.bytes.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.bytes = later;
            Ok(count)
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_the_stream_cuts_it(
            messages in prop::collection::vec(".{0,300}", 0..20),
            sizes in prop::collection::vec(1_usize..5000, 1..8),
        ) {
            let mut bytes = Vec::new();
            for message in &messages {
                write(&mut bytes, message).unwrap();
            }
            let mut stream = Trickle { bytes: &bytes, sizes: sizes.iter().cycle() };
            let mut decoder = Decoder::default();
            let mut read = Vec::new();
            while let Some(message) = decoder.read::<String>(&mut stream).unwrap() {
                read.push(message);
            }
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn no_bytes_whatever_panic_or_grow_the_buffer(
            bytes in prop::collection::vec(any::<u8>(), 0..20_000),
        ) {
            let mut stream = bytes.as_slice();
            let mut decoder = Decoder::default();
            loop {
                let outcome = decoder.read::<serde_json::Value>(&mut stream);
                prop_assert!(decoder.buffer.len() <= HEADER + MAX_FRAME + CHUNK);
                match outcome {
                    Ok(Some(_)) | Err(FrameError::Json(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        }

        #[test]
        fn every_cut_of_a_frame_is_truncated_and_no_message(
            message in ".{1,100}", cut in 0.0..1.0_f64,
        ) {
            let frame = encode(&message).unwrap();
            let cut = 1 + (cut * (frame.len() - 1) as f64) as usize;
            prop_assume!(cut < frame.len());
            let outcome = Decoder::default().read::<String>(&mut &frame[..cut]);
            prop_assert!(matches!(outcome, Err(FrameError::Truncated)), "{:?}", outcome);
        }
    }

    #[test]
    fn case_44_lengths_that_no_frame_has_are_refused_at_once() {
        for announced in [0_u32, MAX_FRAME as u32 + 1, u32::MAX] {
            let bytes = announced.to_le_bytes();
            let outcome = Decoder::default().read::<String>(&mut bytes.as_slice());
            assert!(matches!(outcome, Err(FrameError::Length(n)) if n == announced));
        }
    }

    #[test]
    fn the_longest_message_fits_and_one_byte_more_does_not() {
        let longest = "x".repeat(MAX_FRAME - 2);
        let frame = encode(&longest).unwrap();
        let read = Decoder::default().read::<String>(&mut frame.as_slice()).unwrap();
        assert_eq!(read, Some(longest.clone()));
        assert!(matches!(encode(&(longest + "x")), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn a_bad_document_is_passed_over_and_the_next_is_read() {
        let mut bytes = encode(&5).unwrap();
        bytes.extend(encode(&"five").unwrap());
        let mut stream = bytes.as_slice();
        let mut decoder = Decoder::default();
        assert!(matches!(decoder.read::<String>(&mut stream), Err(FrameError::Json(_))));
        assert_eq!(decoder.read::<String>(&mut stream).unwrap(), Some("five".into()));
    }
}
