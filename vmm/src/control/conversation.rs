//! One client of a control socket: what it has said, what it is owed, what it follows.
//!
//! ```text
//!          a request that waits            its answer
//! Idle --------------------------> Called ------------> Idle
//!  |  a request to wait for a task                      its end
//!  +-----------------------------> Following ---------------------> Idle
//!  |  a request for events
//!  +-----------------------------> Listening, for good
//!  |  a request for the console
//!  +-----------------------------> Leaving: the console has the connection
//! ```
//!
//! A client is read only while it is idle and has taken all that it was told: whoever asks much and
//! reads little stops itself, and what waits for it is bounded by one answer, which has a
//! [share](Share) of what may wait for all together.

use crate::control::access::Peer;
use crate::control::serve::document;
use crate::control::unsent::Share;
use crate::control::wire::{self, Call, Request, Response, VERSION};
use crate::error::CallError;
use crate::events::{Notice, Subscription};
use crate::io::Registry;
use crate::task::Task;
use protocol::HResult;
use protocol::frame::{Decoder, FrameError};
use rustix::net::{SendFlags, send};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;

/// How long a client may not read an answer that it asked for.
pub(super) const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 10_000 });
/// How long it may read an answer that it does not take at once.
const PATIENCE_IN_ALL: Duration = PATIENCE.saturating_mul(6);
/// How often a client that follows a task hears of it at least.
const NEWS: Duration = Duration::from_secs(1);

/// A client.
pub(super) struct Conversation {
    stream: UnixStream,
    peer: Peer,
    decoder: Decoder,
    /// What is to be sent, and how much of it has been.
    output: Vec<u8>,
    sent: usize,
    share: Share,
    /// Since when it takes nothing of that.
    stuck: Option<Instant>,
    /// Since when it has not taken all of it.
    slow: Option<Instant>,
    stage: Stage,
    /// The task that the last request is answered by is followed.
    follow: bool,
    /// There may be more to read or to say although nothing happens: others had to be heard first.
    interrupted: Option<Instant>,
    /// For what the stream is watched.
    watched: EventSet,
    /// It can be told nothing any more, or is to be told nothing more.
    over: bool,
}

enum Stage {
    /// It has asked nothing since then.
    Idle(Instant),
    /// A thread works on its answer.
    Called,
    /// It hears of a task.
    Following { task: Task, version: u64, told: Instant },
    /// It hears of events.
    Listening(Subscription),
    /// Its connection is to go on as something else.
    Leaving,
}

/// What comes next in a conversation.
pub(super) enum Next {
    /// This is to be done and [answered](Conversation::answer), or refused.
    Request(Result<Request, CallError>),
    /// Something was said, and there may be more.
    More,
    /// Something has to happen first.
    Wait,
    /// The connection goes on as [something else](Conversation::leave).
    Leave,
    /// Nothing.
    End,
}

impl Conversation {
    pub(super) fn new(stream: UnixStream, peer: Peer, share: Share) -> Self {
        Self {
            stream,
            peer,
            decoder: Decoder::default(),
            output: Vec::new(),
            sent: 0,
            share,
            stuck: None,
            slow: None,
            stage: Stage::Idle(Instant::now()),
            follow: false,
            interrupted: None,
            watched: EventSet::IN,
            over: false,
        }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Since when it has asked nothing, or read nothing of what it wanted to hear; none if it is owed
    /// an answer or hears what it wanted.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        match self.stage {
            Stage::Idle(since) if self.output.is_empty() => Some(since),
            Stage::Following { .. } | Stage::Listening(_) => self.stuck,
            _ => None,
        }
    }

    pub(super) fn follows(&self) -> bool {
        matches!(self.stage, Stage::Following { .. } | Stage::Listening(_))
    }

    pub(super) fn is_owed_an_answer(&self) -> bool {
        !self.output.is_empty() || matches!(self.stage, Stage::Called | Stage::Following { .. })
    }

    /// Answers the last request.
    pub(super) fn answer(&mut self, answer: Result<Response, CallError>) {
        self.stage = Stage::Idle(Instant::now());
        self.say(&answer.unwrap_or_else(|error| wire::refusal(&error)));
    }

    /// The last request is being worked on.
    pub(super) fn called(&mut self) {
        self.stage = Stage::Called;
    }

    /// Whether the client wants to follow the task that its last request is answered by.
    pub(super) fn wants_to_follow(&self) -> bool {
        self.follow
    }

    /// The client is to hear of `task` until it is complete.
    pub(super) fn follow(&mut self, task: Task) {
        self.stage = Stage::Following { task, version: 0, told: Instant::now() };
    }

    /// The client is to hear of what `subscription` brings.
    pub(super) fn listen(&mut self, subscription: Subscription) {
        self.stage = Stage::Listening(subscription);
        self.say(&Response::Done);
    }

    /// The connection is to go on as something else, once the client has been told so.
    pub(super) fn prepare_to_leave(&mut self) {
        self.stage = Stage::Leaving;
        self.say(&Response::Done);
    }

    /// The connection, and what came through it and is no request any more.
    pub(super) fn leave(self) -> (UnixStream, Vec<u8>) {
        (self.stream, self.decoder.into_rest())
    }

    /// Nobody is at the other end any more.
    pub(super) fn peer_has_gone(&mut self) {
        self.over = true;
    }

    /// Others are to be heard before there is [more](Next::More).
    pub(super) fn interrupt(&mut self) {
        self.interrupted = Some(Instant::now());
    }

    /// When something is to be done although nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let late = match &self.stage {
            Stage::Following { told, .. } if self.output.is_empty() => Some(*told + NEWS),
            // What these have not read is but a line, and more is kept for them within bounds.
            Stage::Following { .. } | Stage::Listening(_) => None,
            Stage::Idle(_) | Stage::Called | Stage::Leaving => self.patience_ends(),
        };
        self.interrupted.or(late)
    }

    /// The deadline has passed.
    pub(super) fn expired(&mut self, now: Instant) {
        if self.interrupted.take().is_some() {
            return;
        }
        match &mut self.stage {
            // Whatever it knows is old.
            Stage::Following { version, .. } => *version = 0,
            _ => self.over |= self.patience_ends().is_some_and(|end| end <= now),
        }
    }

    /// When a client that does not take its answer is sent away.
    fn patience_ends(&self) -> Option<Instant> {
        let stuck = self.stuck.map(|since| since + PATIENCE);
        stuck.into_iter().chain(self.slow.map(|since| since + PATIENCE_IN_ALL)).min()
    }

    /// Takes one step: says what there is to say, or reads what the client asks.
    pub(super) fn go_on(&mut self) -> Next {
        if !self.flush() {
            return if self.over { Next::End } else { Next::Wait };
        }
        match &mut self.stage {
            Stage::Idle(_) => return self.read(),
            Stage::Called => return Next::Wait,
            Stage::Leaving => return Next::Leave,
            Stage::Following { task, version, told } => {
                let (now, info) = task.wait_change(*version, Some(Duration::ZERO));
                if now == *version {
                    return Next::Wait;
                }
                *version = now;
                *told = Instant::now();
                if info.is_complete {
                    let task = task.clone();
                    self.answer(Ok(document(&task)));
                } else {
                    self.say(&Response::Changed { task: info });
                }
            }
            Stage::Listening(subscription) => match subscription.take() {
                Some(Notice::Event(event)) => self.say(&Response::Event { event }),
                Some(Notice::Lost(count)) => self.say(&Response::Lost { count }),
                None => return Next::Wait,
            },
        }
        Next::More
    }

    /// Reads a request.
    fn read(&mut self) -> Next {
        let refusal = match self.decoder.read::<Call>(&mut &self.stream) {
            Ok(Some(Call { version: VERSION, request, follow })) => {
                self.follow = follow;
                return Next::Request(Ok(request));
            }
            Ok(Some(Call { version, .. })) => {
                let text =
                    format!("this machine's process speaks version {VERSION}, not {version}");
                CallError::new(HResult::DISP_E_EXCEPTION, text)
            }
            Err(FrameError::Json(error)) => {
                let text = format!("request not understood: {error}");
                CallError::new(HResult::E_INVALIDARG, text)
            }
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Next::Wait;
            }
            Ok(None) | Err(_) => return Next::End,
        };
        Next::Request(Err(refusal))
    }

    fn say(&mut self, response: &Response) {
        let before = self.output.len();
        let mut told = wire::answer(&mut self.output, response);
        if !self.share.take(self.output.len() - before) {
            let text = "too much is waiting for clients of the machine's process that do not read \
                        it; try again";
            let crowded = CallError::new(HResult::VM_E_OUT_OF_RESOURCE, text);
            self.output.truncate(before);
            self.output.shrink_to_fit();
            told = wire::answer(&mut self.output, &wire::refusal(&crowded));
        }
        // Only an answer that is no JSON could fail here; and then there is nothing to say.
        self.over |= told.is_err();
    }

    /// Sends as much as the client takes; false if that was not all, or it has gone.
    fn flush(&mut self) -> bool {
        while !self.over && self.sent < self.output.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.stream, &self.output[self.sent..], flags) {
                Ok(count) => {
                    self.sent += count;
                    self.stuck = None;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let now = Instant::now();
                    self.stuck.get_or_insert(now);
                    self.slow.get_or_insert(now);
                    return false;
                }
                Err(_) => self.over = true,
            }
        }
        if self.over {
            return false;
        }
        if self.sent > 0 {
            // An answer may have been long, and silence may be.
            self.output = Vec::new();
            self.sent = 0;
            self.slow = None;
            self.share.give_back();
        }
        true
    }

    /// Has the client's stream watched for what it waits for.
    pub(super) fn watch(&mut self, registry: &mut Registry<'_>, token: u32) -> io::Result<()> {
        let wanted = match self.stage {
            _ if !self.output.is_empty() => EventSet::OUT,
            Stage::Idle(_) => EventSet::IN,
            // That nobody is there any more is always told.
            _ => EventSet::empty(),
        };
        if wanted != self.watched {
            registry.watch(&self.stream, token, wanted)?;
            self.watched = wanted;
        }
        Ok(())
    }
}
