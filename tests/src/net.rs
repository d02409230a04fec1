//! Both ends of the network that is measured: the host's, and the guest's or that of another process.

use crate::load::{self, GREET, SERVE};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;

/// The host's address.
pub const HOST: &str = "10.0.0.1";
/// The guest's.
pub const GUEST: &str = "10.0.0.2";
/// The UDP port where each datagram is sent back.
pub const ECHO: u32 = 1002;

/// The name of `port` at `address`.
#[must_use]
pub fn at(address: &str, port: u32) -> String {
    format!("{address}:{port}")
}

/// Runs `ip` with `words`.
///
/// # Errors
/// It does not do that.
pub fn ip(words: &[&str]) -> io::Result<()> {
    let status = Command::new("/bin/ip").args(words).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ip {words:?}: {status}"))) }
}

/// Gives `interface` of this machine its address, and switches it on.
///
/// # Errors
/// There is no such interface.
pub fn set_up(interface: &str, address: &str) -> io::Result<()> {
    ip(&["address", "add", &format!("{address}/24"), "dev", interface])?;
    ip(&["link", "set", interface, "up"])
}

/// Serves the far end, which is set up, of [`load`] over TCP, and [`ECHO`]; `ready` is called when it
/// can be reached.
///
/// # Errors
/// It is not set up.
pub fn serve(ready: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let listen = |port| TcpListener::bind(at(GUEST, port));
    let (greet, serve) = (listen(GREET)?, listen(SERVE)?);
    let echo = UdpSocket::bind(at(GUEST, ECHO))?;
    thread::spawn(move || {
        let mut bytes = [0; 64];
        loop {
            // One that could not be sent back is missed by whoever waits for it.
            let _ = echo
                .recv_from(&mut bytes)
                .and_then(|(count, from)| echo.send_to(&bytes[..count], from));
        }
    });
    ready()?;
    let accept = |listener: &TcpListener| -> io::Result<(TcpStream, _)> {
        let (stream, from) = listener.accept()?;
        stream.set_nodelay(true)?;
        Ok((stream, from))
    };
    load::serve_all(move || accept(&serve), || accept(&greet))
}
