//! A connection to the guest's system bus, on which nothing waits for ever.
//!
//! The library is asynchronous and the agent is not. A thread of the connection's own sets it up,
//! carries its traffic, and makes a descriptor readable at every signal that was subscribed to, so
//! that whoever polls pidfds can poll the bus beside them. The thread ends with the socket, which
//! is shut down when the [`Bus`] is dropped, also where the bus never answered.

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use zbus::connection::Builder;
use zbus::export::futures_core::Stream;
use zbus::fdo::Error as StandardError;
use zbus::message::Type as MessageType;
use zbus::{Connection, DBusError, DynamicType, Error, MatchRule, MessageStream, Type, block_on};

/// How long the bus may take to let the agent in.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long one call may take. A service that is being restarted answers within it.
const CALL_WITHIN: Duration = Duration::from_secs(2);

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// What it was about is not there any more.
    #[error("no such object")]
    Absent,
    /// The service, or the bus, does not allow it.
    #[error("not allowed: {0}")]
    Denied(String),
    /// The service will not do it.
    #[error("refused: {0}")]
    Refused(String),
    /// The bus or the service is not there, does not answer, or makes no sense.
    #[error("bus does not answer")]
    Lost(#[source] io::Error),
}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Lost(error) => error,
            error => Self::other(error.to_string()),
        }
    }
}

/// A connection to a bus.
#[derive(Debug)]
pub(crate) struct Bus {
    connection: Connection,
    socket: UnixStream,
}

/// An object of a service, and an interface of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// The service's name.
    pub(crate) service: &'a str,
    /// The object's path.
    pub(crate) path: &'a str,
    /// The interface's name.
    pub(crate) interface: &'a str,
}

impl Bus {
    /// Connects to the bus that listens at `path`, and makes `wake`, an eventfd, readable at every
    /// signal of `target` and at the connection's end.
    ///
    /// # Errors
    /// Nobody listens there, or it does not let the agent in within its time.
    pub(crate) fn connect(
        path: &Path,
        target: Target<'static>,
        wake: Arc<OwnedFd>,
    ) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // A queue that is full is an error, since the socket does not block.
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        let theirs = UnixStream::from(socket);
        let socket = theirs.try_clone()?;
        let (sender, connected) = mpsc::channel();
        thread::Builder::new().name("bus".into()).spawn(move || {
            block_on(async {
                match set_up(theirs, target).await {
                    Ok((connection, signals)) => {
                        // Whoever waited may have given up; then the socket is shut down.
                        let _ = sender.send(Ok(connection));
                        listen(signals, &wake).await;
                    }
                    // As above.
                    Err(error) => drop(sender.send(Err(error))),
                }
            });
        })?;
        let error = match connected.recv_timeout(CONNECT_WITHIN) {
            Ok(Ok(connection)) => return Ok(Self { connection, socket }),
            Ok(Err(error)) => translate(error).into(),
            Err(RecvTimeoutError::Timeout) => timed_out("the bus lets nobody in"),
            Err(RecvTimeoutError::Disconnected) => io::Error::other("the bus' thread died"),
        };
        // Fails only if it is shut down already.
        let _ = socket.shutdown(Shutdown::Both);
        Err(error)
    }

    /// Calls a method of `target` and returns what it answers.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) fn call<B, R>(
        &self,
        target: Target<'_>,
        method: &str,
        body: &B,
    ) -> Result<R, CallError>
    where
        B: Serialize + DynamicType,
        R: DeserializeOwned + Type,
    {
        let Target { service, path, interface } = target;
        let call = self.connection.call_method(Some(service), path, Some(interface), method, body);
        let reply = block_on(call).map_err(translate)?;
        reply.body().deserialize().map_err(translate)
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        // Ends the thread. Fails only if the bus has gone first.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

async fn set_up(
    socket: UnixStream,
    target: Target<'static>,
) -> zbus::Result<(Connection, MessageStream)> {
    let connection = Builder::unix_stream(socket).method_timeout(CALL_WITHIN).build().await?;
    let rule = MatchRule::builder()
        .msg_type(MessageType::Signal)
        .sender(target.service)
        .path(target.path)
        .interface(target.interface)
        .build()?;
    let signals = MessageStream::for_match_rule(rule, &connection, None).await?;
    Ok((connection, signals))
}

/// Makes `wake` readable at every signal, and at the connection's end.
async fn listen(mut signals: MessageStream, wake: &OwnedFd) {
    loop {
        let next = poll_fn(|context| Pin::new(&mut signals).poll_next(context)).await;
        // Fails only where the counter is full, and then it is readable already.
        let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
        if next.is_none() {
            return;
        }
    }
}

fn timed_out(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// What an error of the library's means here.
fn translate(error: Error) -> CallError {
    let (name, text) = match &error {
        Error::MethodError(name, text, _) => {
            (name.as_str().to_owned(), text.clone().unwrap_or_default())
        }
        Error::FDO(standard) => match &**standard {
            StandardError::ZBus(error) => {
                return CallError::Lost(io::Error::other(error.to_string()));
            }
            standard => (
                standard.name().as_str().to_owned(),
                standard.description().unwrap_or_default().to_owned(),
            ),
        },
        Error::InputOutput(error) => {
            return CallError::Lost(io::Error::new(error.kind(), error.to_string()));
        }
        error => return CallError::Lost(io::Error::other(error.to_string())),
    };
    let text = if text.is_empty() { name.clone() } else { text };
    meaning(&name, text)
}

/// What an error of this name means.
fn meaning(name: &str, text: String) -> CallError {
    let standard = name.strip_prefix("org.freedesktop.DBus.Error.");
    match standard.or_else(|| name.strip_prefix("org.freedesktop.login1.")) {
        Some("UnknownObject" | "NoSuchSession" | "NoSuchUser" | "NoSuchSeat") => CallError::Absent,
        Some("AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired") => {
            CallError::Denied(text)
        }
        Some(
            "ServiceUnknown" | "NameHasNoOwner" | "NoReply" | "NoServer" | "Timeout" | "TimedOut"
            | "Disconnected" | "LimitsExceeded" | "NoMemory",
        ) => CallError::Lost(io::Error::other(text)),
        Some(name) if name.starts_with("Spawn.") => CallError::Lost(io::Error::other(text)),
        _ => CallError::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    const TARGET: Target<'static> =
        Target { service: "org.example.A", path: "/org/example", interface: "org.example.A" };

    fn connect(path: &Path) -> io::Result<Bus> {
        Bus::connect(path, TARGET, Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap()))
    }

    #[test]
    fn a_bus_that_is_not_there_fails_at_once_and_one_that_says_nothing_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus");
        let error = connect(&path).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).unwrap();
        let began = Instant::now();
        let error = connect(&path).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < CONNECT_WITHIN * 5);
        // The agent has hung up, so that nothing of the try is left behind.
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        io::copy(&mut peer, &mut io::sink()).unwrap();
    }

    #[test]
    fn a_bus_that_talks_nonsense_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let peer = thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let _ = io::Write::write_all(&mut peer, &[b'x'; 100_000]);
        });
        assert!(connect(&path).is_err());
        peer.join().unwrap();
    }

    #[test]
    fn errors_are_told_apart_by_what_can_be_done_about_them() {
        let of = |name: &str| meaning(name, "text".into());
        assert!(matches!(of("org.freedesktop.login1.NoSuchSession"), CallError::Absent));
        assert!(matches!(of("org.freedesktop.DBus.Error.UnknownObject"), CallError::Absent));
        for name in ["AccessDenied", "InteractiveAuthorizationRequired"] {
            let name = format!("org.freedesktop.DBus.Error.{name}");
            assert!(matches!(of(&name), CallError::Denied(_)), "{name}");
        }
        for name in ["ServiceUnknown", "NoReply", "Spawn.ChildExited", "Disconnected"] {
            let name = format!("org.freedesktop.DBus.Error.{name}");
            assert!(matches!(of(&name), CallError::Lost(_)), "{name}");
        }
        assert!(matches!(of("org.freedesktop.systemd1.NoSuchUnit"), CallError::Refused(_)));
        assert!(matches!(of(""), CallError::Refused(_)));
    }
}
