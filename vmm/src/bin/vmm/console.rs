//! `vmm console`: a machine's serial console, attached to this terminal.

use crate::machines::connect;
use crate::output::{Outcome, say};
use crate::signals;
use crate::terminal::{Restore, Terminal};
use protocol::HResult;
use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use vmm::error::CallError;

/// `Ctrl-A`: the next key is for this command.
const ESCAPE: u8 = 0x01;
/// After the escape: detach.
const DETACH: u8 = b'd';
/// The exit code of a process that a signal ended, less the signal.
const EXIT_SIGNAL: i32 = 128;

/// Standard output is the guest's, so there is no document.
pub(crate) fn console(name: &str) -> Outcome {
    let terminal = Arc::new(Terminal::default());
    // The thread of the signals holds the terminal too, so a panic here would not drop it.
    let _restore = Restore(&terminal);
    let shared = Arc::clone(&terminal);
    signals::watch(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP], move |signal| {
        shared.restore();
        std::process::exit(EXIT_SIGNAL + signal.number);
    })
    .map_err(|error| failed(&error))?;
    let client = connect(name)?;
    let name = client.name().to_owned();
    let (stream, printed) = client.console()?;
    let keys = stream.try_clone().map_err(|error| failed(&error))?;
    let interactive = io::stdin().is_terminal();
    if interactive {
        say(&format!("attached to {name}; Ctrl-A d detaches"));
        terminal.make_raw();
    }
    let detached = Arc::new(AtomicBool::new(false));
    let said = Arc::clone(&detached);
    let typist = thread::Builder::new().name("keys".into()).spawn(move || {
        if type_keys(&keys, interactive) {
            said.store(true, Ordering::Release);
            // Whoever shows what is printed ends now. If the machine was faster, it has ended too.
            let _ = keys.shutdown(Shutdown::Both);
        }
    });
    typist.map_err(|error| failed(&error))?;
    show(stream, &printed);
    terminal.restore();
    let detached = detached.load(Ordering::Acquire);
    if interactive {
        let words = if detached { "detached from" } else { "the machine let go of the console of" };
        say(&format!("\n{words} {name}"));
    }
    Ok(0)
}

/// Shows what the guest prints until the connection ends, or nobody looks any more.
fn show(mut stream: UnixStream, printed: &[u8]) {
    let mut screen = io::stdout().lock();
    let mut write = |bytes: &[u8]| screen.write_all(bytes).and_then(|()| screen.flush());
    let mut bytes = [0; 4096];
    let mut shown = write(printed);
    while shown.is_ok() {
        shown = match stream.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Ok(0) | Err(_) => return,
            Ok(count) => write(&bytes[..count]),
        };
    }
}

/// Sends what is typed; true if the user detaches. On a terminal the escape means something; what
/// comes from a file or a pipe is passed on as it is, and its end means only that there is no more.
fn type_keys(mut stream: &UnixStream, interactive: bool) -> bool {
    let mut escaped = false;
    let mut bytes = [0; 1024];
    loop {
        let count = match io::stdin().lock().read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A terminal that is gone detaches.
            Ok(0) | Err(_) => return interactive,
            Ok(count) => count,
        };
        let keys = &bytes[..count];
        let (typed, detach) =
            if interactive { escapes(keys, &mut escaped) } else { (keys.to_vec(), false) };
        if detach {
            return true;
        }
        if stream.write_all(&typed).is_err() {
            return false;
        }
    }
}

/// What of `keys` goes to the guest, and whether the user detaches. After `Ctrl-A`, `d` detaches,
/// and every other key is typed, so that `Ctrl-A Ctrl-A` types one `Ctrl-A`.
fn escapes(keys: &[u8], escaped: &mut bool) -> (Vec<u8>, bool) {
    let mut typed = Vec::with_capacity(keys.len());
    for key in keys {
        match (*key, std::mem::take(escaped)) {
            (DETACH, true) => return (typed, true),
            (ESCAPE, false) => *escaped = true,
            (key, _) => typed.push(key),
        }
    }
    (typed, false)
}

fn failed(error: &io::Error) -> CallError {
    CallError::new(HResult::DISP_E_EXCEPTION, format!("cannot attach to the console: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_detaches_or_types_itself_also_across_reads() {
        let mut escaped = false;
        assert_eq!(escapes(b"a\x01\x01b", &mut escaped), (b"a\x01b".to_vec(), false));
        assert_eq!(escapes(b"c\x01", &mut escaped), (b"c".to_vec(), false));
        assert!(escaped);
        assert_eq!(escapes(b"de", &mut escaped), (Vec::new(), true));
        escaped = false;
        assert_eq!(escapes(b"\x01\x01d", &mut escaped), (b"\x01d".to_vec(), false));
    }
}
