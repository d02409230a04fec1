//! Words from others: frames and messages of both wires, definition files, the line of a host program.

use super::input::Input;
use crate::catalog::Definition;
use crate::control::wire::{Answers, Call, Response, answer};
use crate::integration::channel::clean;
use crate::vsock::handshake::{Handshake, Progress};
use protocol::frame::{Decoder, FrameError, MAX_FRAME, encode};
use protocol::message::{AgentMessage, HostMessage, MAX_ROWS};
use protocol::text::steers;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Gives its bytes in pieces of these lengths, one after the other, and in between nothing for now.
struct Trickle<'a> {
    bytes: &'a [u8],
    length: usize,
    pause: bool,
}

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pause = !self.pause;
        if self.pause {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (now, later) = self.bytes.split_at(self.length.min(self.bytes.len()).min(buffer.len()));
        buffer[..now.len()].copy_from_slice(now);
        self.bytes = later;
        Ok(now.len())
    }
}

/// Reads all messages of `data`, whose first byte says in which pieces it comes.
fn messages<T: DeserializeOwned>(data: &[u8]) -> Vec<T> {
    let (length, bytes) = data.split_first().unwrap_or((&0, &[]));
    let mut stream = Trickle { bytes, length: 1 + usize::from(*length) * 16, pause: false };
    let mut decoder = Decoder::default();
    let mut read = Vec::new();
    loop {
        match decoder.read(&mut stream) {
            Ok(Some(message)) => read.push(message),
            Ok(None) => return read,
            Err(FrameError::Json(_)) => {}
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return read;
            }
        }
    }
}

/// What was understood can be said again, and is understood as the same.
fn say_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) {
    match encode(message) {
        Ok(frame) => {
            let again = Decoder::default().read::<T>(&mut frame.as_slice());
            assert_eq!(again.expect("our own frame").as_ref(), Some(message));
        }
        // What had been left out is said now.
        Err(FrameError::TooLong(length)) => assert!(length > MAX_FRAME),
        Err(error) => panic!("{error}"),
    }
}

/// What the host hears: an agent, or a control client if the first byte is odd.
pub fn host_frames(data: &[u8]) {
    let (choice, data) = data.split_first().unwrap_or((&0, &[]));
    if choice & 1 != 0 {
        for call in messages::<Call>(data) {
            let _ = call.request.needs();
            say_again(&call);
        }
        return;
    }
    for message in messages::<AgentMessage>(data) {
        say_again(&message);
        let id = message.request_id();
        let message = clean(message);
        assert_eq!(message.request_id(), id);
        assert_eq!(clean(message.clone()), message, "nothing is left to be cleaned");
        check_clean(&message);
    }
}

/// No list is too long, and nothing in a message steers a terminal but the lines of a value.
fn check_clean(message: &AgentMessage) {
    match message {
        AgentMessage::Hello(hello) => assert!(hello.services.len() <= MAX_ROWS),
        AgentMessage::Sessions { sessions, .. } => assert!(sessions.len() <= MAX_ROWS),
        AgentMessage::Done(done) => {
            assert!(done.managers.len() <= MAX_ROWS && done.relogins.len() <= MAX_ROWS);
            assert!(done.ignored.len() <= MAX_ROWS && done.stale.len() <= MAX_ROWS);
        }
        _ => {}
    }
    let is_value = matches!(message, AgentMessage::Parameter { .. });
    visit(&serde_json::to_value(message).expect("it is JSON"), &mut |text| {
        let bad = |c: char| steers(c) && !(is_value && (c == '\n' || c == '\t'));
        assert!(!text.contains(bad), "{text:?}");
    });
}

/// Gives all texts of `value` to `see`. The names of fields are ours.
fn visit(value: &serde_json::Value, see: &mut dyn FnMut(&str)) {
    match value {
        serde_json::Value::String(text) => see(text),
        serde_json::Value::Array(values) => values.iter().for_each(|value| visit(value, see)),
        serde_json::Value::Object(values) => values.values().for_each(|value| visit(value, see)),
        _ => {}
    }
}

/// What the others hear from the host: the agent, or a control client if the first byte is odd.
pub fn agent_frames(data: &[u8]) {
    let (choice, data) = data.split_first().unwrap_or((&0, &[]));
    if choice & 1 == 0 {
        messages::<HostMessage>(data).iter().for_each(say_again);
        return;
    }
    let mut stream = data;
    let mut answers = Answers::default();
    while let Ok(Some(response)) = answers.read(&mut stream) {
        let mut bytes = Vec::new();
        answer(&mut bytes, &response).expect("memory takes all");
        let again: Option<Response> =
            Answers::default().read(&mut bytes.as_slice()).expect("our own answer");
        assert_eq!(again, Some(response));
    }
}

/// A definition file. What can be read can be written, and read as the same.
pub fn definition(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("machine.toml");
    match Definition::parse(text, path) {
        Ok(definition) => {
            let written = definition.to_toml().expect("the text was UTF-8, so its paths are");
            let again = Definition::parse(&written, path);
            assert_eq!(again.as_ref().ok(), Some(&definition), "{written}\n{again:?}");
            let _ = definition.config(Path::new("/")).cmdline();
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What a host program says to reach the guest, in two pieces, the first of them as long as the first
/// byte says.
pub fn hybrid(data: &[u8]) {
    let mut input = Input::new(data);
    let pieces = [input.short_piece(), input.rest()];
    let (mut program, stream) = UnixStream::pair().expect("descriptors are left");
    stream.set_nonblocking(true).expect("it is a socket");
    let mut handshake = Handshake::new(stream);
    let said = pieces.concat();
    // More would wait for a reader.
    let said = &said[..said.len().min(4096)];
    let (first, second) = said.split_at(pieces[0].len().min(said.len()));
    let mut progress = Progress::Waits;
    for piece in [first, second] {
        program.write_all(piece).expect("there is room");
        if !piece.is_empty() && progress == Progress::Waits {
            progress = handshake.proceed();
        }
    }
    assert_eq!(progress, expected(said), "{:?}", String::from_utf8_lossy(said));
    if let (Progress::Wants(_), Some(end)) = (progress, said.iter().position(|b| *b == b'\n')) {
        drop(program);
        let mut rest = Vec::new();
        handshake.into_stream().read_to_end(&mut rest).expect("it has ended");
        assert_eq!(rest, said[end + 1..], "what follows is left");
    }
}

/// What is to come of a line, which has 32 bytes at most with its end.
fn expected(said: &[u8]) -> Progress {
    const MOST: usize = 32;
    let Some(end) = said.iter().take(MOST).position(|byte| *byte == b'\n') else {
        return if said.len() < MOST { Progress::Waits } else { Progress::Failed };
    };
    let port = said[..end].strip_prefix(b"CONNECT ").and_then(|mut digits| {
        while let [rest @ .., b'\r'] = digits {
            digits = rest;
        }
        let value = digits.iter().try_fold(0_u64, |value, digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            Some(value.saturating_mul(10).saturating_add(digit))
        });
        u32::try_from(value.filter(|_| !digits.is_empty())?).ok()
    });
    port.map_or(Progress::Failed, Progress::Wants)
}
