//! Dialling the host, for ever.
//!
//! The source port is below 1024: the kernel lets only privileged processes bind one, so the host
//! can tell the agent from anybody else in the guest (vsock(7)). Standard sockets cannot be bound
//! before they connect, hence the two system calls by hand. A connected vsock stream is read,
//! written and shut down like any other, so from there on it is held as a `UnixStream`.

use crate::serve::{Agent, ServeError};
use protocol::{AGENT_PORT, HOST_CID, PRIVILEGED_PORTS};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::fmt::Write as _;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

/// The first and the longest wait between two tries.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A connection that was served for so long was a good one: the next try comes soon.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// Dials the host with an agent of `agent`'s making, serves it, and dials again, for ever.
pub fn serve_forever(agent: impl Fn() -> io::Result<Agent>, log: fn(&str)) -> ! {
    let mut wait = FIRST_WAIT;
    let mut said = String::new();
    loop {
        let began = Instant::now();
        let outcome = try_once(&agent);
        // The same trouble over and over, a module not loaded yet say, is told once.
        if outcome != said {
            log(&outcome);
            said = outcome;
        }
        if began.elapsed() >= GOOD_AFTER {
            wait = FIRST_WAIT;
        }
        thread::sleep(wait);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// One connection from beginning to end; returns how it ended, in words.
fn try_once(agent: &impl Fn() -> io::Result<Agent>) -> String {
    let agent = match agent() {
        Ok(agent) => agent,
        Err(error) => return format!("boot id cannot be read: {error}"),
    };
    let stream = match dial() {
        Ok(stream) => stream,
        Err(error) => return format!("host cannot be reached: {error}"),
    };
    match agent.serve(stream) {
        Ok(()) => "host closed the connection".into(),
        Err(error) => chain(&error),
    }
}

/// An error and what caused it, in one line.
fn chain(error: &ServeError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        // Writing to a string does not fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// A connection to the host from the highest privileged port that is free.
fn dial() -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let mut bound = Err(io::Error::from(io::ErrorKind::AddrInUse));
    for port in (1..PRIVILEGED_PORTS).rev() {
        bound = bind(&socket, libc::VMADDR_CID_ANY, port);
        match &bound {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    bound?;
    connect(&socket, HOST_CID, AGENT_PORT)?;
    Ok(UnixStream::from(socket))
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    libc::sockaddr_vm {
        svm_family: libc::AF_VSOCK as libc::sa_family_t,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: cid,
        svm_zero: [0; 4],
    }
}

const ADDRESS_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

fn bind(socket: &OwnedFd, cid: u32, port: u32) -> io::Result<()> {
    let address = address(cid, port);
    // SAFETY: the descriptor is open, and the pointer is to an address of the length given, which
    // outlives the call.
    let code =
        unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), ADDRESS_LENGTH) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn connect(socket: &OwnedFd, cid: u32, port: u32) -> io::Result<()> {
    let address = address(cid, port);
    // SAFETY: as in `bind`.
    let code =
        unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), ADDRESS_LENGTH) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
