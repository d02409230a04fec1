//! The process of a puppet's machine, from its start to its end.

use super::code::{self, MAILBOX};
use super::{Call, LIMIT, Usage};
use crate::micro::BASE;
use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The name of every puppet's machine.
pub const NAME: &str = "puppet";
/// RAM goes on behind the hole here, should there be so much.
const GAP: u64 = 0xc000_0000;
/// In the mailbox: set by us in the memory of a boot that is to end.
const MARK: u64 = MAILBOX + 0x10;
const PAGE: u64 = 4096;

/// What a puppet's machine is made of.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The `vmm` command.
    pub vmm: PathBuf,
    /// RAM in bytes.
    pub memory: u64,
    /// More words for `vmm run`.
    pub options: Vec<String>,
    /// Nobody reads what the machine prints.
    pub unread: bool,
}

impl Setting {
    /// A machine of 32 MiB and nothing that not every machine has.
    #[must_use]
    pub fn new(vmm: impl Into<PathBuf>) -> Self {
        Self { vmm: vmm.into(), memory: 32 << 20, options: Vec::new(), unread: false }
    }

    /// The same with more words for `vmm run`.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }
}

type Text = Arc<Mutex<Vec<u8>>>;

fn collect(mut from: impl Read + Send + 'static) -> (Text, JoinHandle<()>) {
    let text = Text::default();
    let to = text.clone();
    let thread = thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            to.lock().unwrap_or_else(PoisonError::into_inner).extend(&bytes[..count]);
        }
    });
    (text, thread)
}

fn text(of: &Text) -> Vec<u8> {
    of.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// How a machine's process ended.
#[derive(Debug)]
pub struct End {
    /// With what status.
    pub status: ExitStatus,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// A guest that does what it is told. Dropping it ends the machine, and sees that nothing in it
/// panicked.
pub struct Puppet {
    process: RefCell<Child>,
    input: RefCell<ChildStdin>,
    /// A pipe that stays open, and full.
    _unread: Option<ChildStdout>,
    printed: Text,
    errors: Text,
    readers: RefCell<Vec<JoinHandle<()>>>,
    /// The process's memory.
    pub(super) memory: File,
    maps: File,
    /// Where in it the guest's RAM begins.
    pub(super) ram: Cell<u64>,
    /// How much of it tests can reach: up to the hole.
    pub(super) reach: u64,
    pub(super) sequence: Cell<u32>,
    folder: tempfile::TempDir,
}

impl Puppet {
    /// Starts a machine and waits until it has the puppet in its memory.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(setting: &Setting) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let kernel = folder.path().join("kernel");
        fs::write(&kernel, code::kernel()).expect("the kernel can be written");
        let mut process = Command::new(&setting.vmm)
            .args(["run", NAME, "--console", "stdio", "--integration", "off"])
            .args(["--memory", &format!("{}K", setting.memory >> 10)])
            .arg("--kernel")
            .arg(&kernel)
            .args(&setting.options)
            .env("VMM_RUNTIME_DIR", folder.path().join("run"))
            .env("VMM_DATA_DIR", folder.path().join("data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the vmm command starts");
        let input = process.stdin.take().expect("standard input is a pipe");
        let output = process.stdout.take().expect("standard output is a pipe");
        let errors = process.stderr.take().expect("standard error is a pipe");
        let (errors, reader) = collect(errors);
        let mut readers = vec![reader];
        let (printed, unread) = if setting.unread {
            (Text::default(), Some(output))
        } else {
            let (printed, reader) = collect(output);
            readers.push(reader);
            (printed, None)
        };
        // Once it is confined root alone can open these.
        let path = format!("/proc/{}/mem", process.id());
        let memory = File::options().read(true).write(true).open(path);
        let maps = File::open(format!("/proc/{}/maps", process.id()));
        let puppet = Self {
            process: RefCell::new(process),
            input: RefCell::new(input),
            _unread: unread,
            printed,
            errors,
            readers: RefCell::new(readers),
            memory: memory.expect("a child's memory can be opened"),
            maps: maps.expect("and what is where in it"),
            ram: Cell::new(0),
            reach: setting.memory.min(GAP),
            sequence: Cell::new(0),
            folder,
        };
        puppet.attach();
        puppet
    }

    /// Waits for the puppet in the memory of a new boot; the one before has been
    /// [marked](Self::mark).
    ///
    /// # Panics
    /// It never comes.
    pub fn attach(&self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(ram) = self.find_ram() {
                self.ram.set(ram);
                self.sequence.set(0);
                let (at, gates) = code::interrupts();
                self.poke(at, &gates);
                // From here on its processor runs.
                self.call_for_effect(Call::write32(MARK, 0));
                return;
            }
            self.must_live();
            assert!(Instant::now() < deadline, "the guest never begins");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Marks this boot's memory: [`attach`](Self::attach) finds the next one's.
    pub fn mark(&self) {
        self.poke(MARK, &[1]);
    }

    /// Looks for the guest's RAM among the process's mappings: it has the kernel in it.
    fn find_ram(&self) -> Option<u64> {
        let (mut file, mut maps) = (&self.maps, String::new());
        file.seek(SeekFrom::Start(0)).ok()?;
        file.read_to_string(&mut maps).ok()?;
        maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let start = u64::from_str_radix(start, 16).ok()?;
            let end = u64::from_str_radix(end, 16).ok()?;
            let places =
                end.checked_sub(start).and_then(|length| length.checked_sub(self.reach))?;
            if !rest.starts_with("rw") {
                return None;
            }
            // Neighbouring mappings look like one.
            (0..=places / PAGE).map(|page| start + page * PAGE).find(|ram| {
                let (mut found, mut mark) = ([0; 64], [0]);
                self.memory.read_exact_at(&mut found, ram + BASE).is_ok()
                    && found == *code::beginning()
                    && self.memory.read_exact_at(&mut mark, ram + MARK).is_ok()
                    && mark == [0]
            })
        })
    }

    /// The id of the machine's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.borrow().id()
    }

    /// Where the machine has its sockets.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// What the guest has printed.
    #[must_use]
    pub fn printed(&self) -> Vec<u8> {
        text(&self.printed)
    }

    /// What the monitor wrote to standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&text(&self.errors)).into_owned()
    }

    /// Types on the machine's console.
    ///
    /// # Panics
    /// It takes none.
    pub fn type_in(&self, bytes: &[u8]) {
        let mut input = self.input.borrow_mut();
        input.write_all(bytes).and_then(|()| input.flush()).expect("the console takes input");
    }

    /// Whether the machine's process is there.
    #[must_use]
    pub fn lives(&self) -> bool {
        matches!(self.process.borrow_mut().try_wait(), Ok(None))
    }

    pub(super) fn must_live(&self) {
        let ended = self.process.borrow_mut().try_wait();
        assert!(matches!(ended, Ok(None)), "the machine ended: {ended:?}: {}", self.stderr());
    }

    /// Waits for the end of the machine's process.
    ///
    /// # Panics
    /// It never ends.
    #[must_use]
    pub fn end(&self) -> End {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            let ended = self.process.borrow_mut().try_wait().expect("it can be waited for");
            if let Some(status) = ended {
                break status;
            }
            assert!(Instant::now() < deadline, "the machine never ends: {}", self.stderr());
            thread::sleep(Duration::from_millis(1));
        };
        self.join();
        End { status, stderr: self.stderr() }
    }

    /// What the process has of the host.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::of(self.pid())
    }

    fn join(&self) {
        for reader in self.readers.borrow_mut().drain(..) {
            // It only collects.
            let _ = reader.join();
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.process.get_mut().kill();
        let _ = self.process.get_mut().wait();
        self.join();
        let said = self.stderr();
        if thread::panicking() {
            eprintln!("the monitor said: {said}");
        } else {
            assert!(!said.contains("panicked at"), "{said}");
        }
    }
}
