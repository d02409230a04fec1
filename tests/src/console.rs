//! The serial console: what the guest printed, and commands to its maintenance shell.

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What the maintenance shell prints when it waits for a command.
pub(crate) const PROMPT: &str = "guest# ";

/// A guest's console, typed to and read from. All that it printed is kept.
pub struct Console {
    input: ChildStdin,
    output: Arc<(Mutex<Output>, Condvar)>,
    /// Output before this has been looked at.
    seen: usize,
    /// Commands typed so far: each gets marks of its own.
    commands: u32,
}

#[derive(Default)]
struct Output {
    text: String,
    ended: bool,
}

impl Console {
    /// A console behind the pipes of a `vmm run`. With `echo` what the guest prints is shown on
    /// standard error as it comes.
    #[must_use]
    pub fn new(input: ChildStdin, output: ChildStdout, echo: bool) -> Self {
        let shared = Arc::new((Mutex::new(Output::default()), Condvar::new()));
        let writer = shared.clone();
        thread::spawn(move || collect(output, &writer, echo));
        Self { input, output: shared, seen: 0, commands: 0 }
    }

    /// Waits until the guest prints `text`, and gives what came before it.
    ///
    /// # Panics
    /// It does not within `limit`, or the console ends first.
    pub fn expect(&mut self, text: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        let (lock, changed) = &*self.output;
        let mut output = lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let news = &output.text[self.seen..];
            if let Some(at) = news.find(text) {
                let before = news[..at].to_owned();
                self.seen += at + text.len();
                return before;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !output.ended && !left.is_zero(),
                "the console never said {text:?}; since the last command it said:\n{news}"
            );
            output = changed.wait_timeout(output, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs `command` in the maintenance shell and gives what it printed, without the last newline.
    /// The prompt that follows has been seen, too: the next one to come is another boot's, or that of a
    /// line that was only typed.
    ///
    /// # Panics
    /// It does not end within two minutes, or the console is gone.
    pub fn run(&mut self, command: &str) -> String {
        self.commands += 1;
        let number = self.commands;
        // The marks are put together by the shell, so that its echo of the line is not taken for
        // them.
        self.type_line(&format!("echo '<'{number}'>'; {command}; echo '</'{number}'>'"));
        self.expect(&format!("<{number}>"), COMMAND_LIMIT);
        let printed = self.expect(&format!("</{number}>"), COMMAND_LIMIT);
        self.expect(PROMPT, COMMAND_LIMIT);
        printed.replace('\r', "").trim_matches('\n').to_owned()
    }

    /// Types `line` and the return key, and waits for nothing.
    ///
    /// # Panics
    /// The console is gone.
    pub fn type_line(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).expect("the console takes input");
        self.input.flush().expect("the console takes input");
    }

    /// All that the guest has printed so far.
    #[must_use]
    pub fn transcript(&self) -> String {
        self.output.0.lock().unwrap_or_else(PoisonError::into_inner).text.clone()
    }
}

/// The longest a command of the maintenance shell may take; only a bound against hanging.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

fn collect(mut from: ChildStdout, to: &(Mutex<Output>, Condvar), echo: bool) {
    let mut bytes = [0; 4096];
    loop {
        let count = from.read(&mut bytes).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..count]);
        if echo {
            eprint!("{}", text.replace('\r', ""));
        }
        let mut output = to.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.text.push_str(&text);
        output.ended = count == 0;
        to.1.notify_all();
        if count == 0 {
            return;
        }
    }
}
