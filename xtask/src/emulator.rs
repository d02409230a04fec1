//! The emulated AMD host that the lab is: QEMU, started, listened to, ended.
//!
//! QEMU emulates AMD's virtualization with races, which end in guests that hang, host programs that
//! crash and timers that stop, now and then. (All were seen with 7.2, the first also with 10.0.) What
//! can be done against them is done here, and who runs tests in the lab gives them a second try.
//!
//! - Where `VMRUN` injects an interrupt, its vector stays in `exception_index`. A request to leave the
//!   execution loop that comes before the guest's next exit then delivers that interrupt a second
//!   time, whether interrupts are enabled or not. Such requests come from other processors, and with
//!   `thread=single` from a timer: the host has one processor. Where instructions are counted, the loop
//!   is also left whenever a quota of them is used up, and labs hang more often. One that did was looked
//!   at: its guest went round four instructions with its interrupts off and the value of a taken lock
//!   in RAX, as one does whose interrupt came where it holds what the handler wants.
//! - `VMRUN` changes `interrupt_request` without the lock under which timers do. An interrupt that is
//!   lost that way is found when the next one comes: one comes every [`PROD`].
//! - Up to 7.2 `cmpxchg16b` computes flags from an older instruction's, and may leave half a pointer
//!   in RFLAGS. Kernels use it in every allocation, or a short critical section where the processor
//!   has none: it has none.

use crate::job::Job;
use crate::run::say;
use crate::tools::QEMU;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long the lab may take to come up: some five seconds are usual.
const UP_LIMIT: Duration = Duration::from_secs(180);
/// How long it may take to switch itself off.
const OFF_LIMIT: Duration = Duration::from_secs(30);
/// How often the lab is sent an interrupt: by a byte to the port that tells the news.
const PROD: Duration = Duration::from_millis(100);
/// What the lab says when it is up, and before the command's exit code.
const UP: &str = "up";
const EXIT: &str = "exit ";
/// How instructions are emulated: quickly, or each of them taking a nanosecond of the lab's time.
const QUICK: &[&str] = &["-accel", "tcg,thread=multi"];
const COUNTED: &[&str] = &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"];
/// The exit code of a command that took too long, as `timeout` has it.
pub(crate) const TIMED_OUT: u8 = 124;

/// A running lab. Dropping it ends it.
pub(crate) struct Lab {
    process: Child,
    /// Lines of the port that tells how far the lab is.
    news: Receiver<String>,
    /// The same port, to write to.
    port: Option<UnixStream>,
    copies: Vec<thread::JoinHandle<()>>,
    console: PathBuf,
    /// What QEMU notes: resets, with the processor that caused them.
    log: PathBuf,
}

impl Lab {
    /// Starts it, its sockets and console in `folder`.
    ///
    /// What the command prints goes to standard output and where the job keeps it. What it writes to
    /// disks goes into a file that is gone with the lab.
    pub(crate) fn start(folder: &Path, vmlinux: &Path, initrd: &Path, job: &Job) -> Result<Self> {
        let listen = |name: &str| -> Result<UnixListener> {
            let path = folder.join(name);
            // Left over from the first try.
            let _ = fs::remove_file(&path);
            Ok(UnixListener::bind(path)?)
        };
        let console = folder.join("console");
        let log = folder.join("qemu.log");
        let ports = ["out", "err", "news"].map(listen);
        // QEMU ends when we do, however that is.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", QEMU.0])
            .args(if job.counted { COUNTED } else { QUICK })
            .args(["-cpu", "max,cx16=off", "-smp", "1", "-m", "2048"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-d", "cpu_reset", "-D"])
            .arg(&log)
            .arg("-kernel")
            .arg(vmlinux)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()));
        for disk in &job.disks {
            let disk = disk.display();
            command.args(["-drive", &format!("file={disk},format=raw,if=virtio,snapshot=on")]);
        }
        for name in ["out", "err", "news"] {
            let chardev = format!("socket,id={name},path={}", folder.join(name).display());
            command.args(["-chardev", &chardev, "-serial", &format!("chardev:{name}")]);
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start QEMU")?;
        let (sender, news) = channel();
        let mut lab = Self { process, news, port: None, copies: Vec::new(), console, log };
        let [out, err, told] = ports;
        let (out, err, told) = (lab.accept(&out?)?, lab.accept(&err?)?, lab.accept(&told?)?);
        let (printed, aside) = (job.printed.clone(), job.aside);
        lab.copies.push(thread::spawn(move || {
            copy(out, |bytes| {
                printed.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
                if aside {
                    return std::io::stderr().write_all(bytes);
                }
                std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush())
            });
        }));
        lab.copies.push(thread::spawn(move || {
            copy(err, |bytes| std::io::stderr().write_all(bytes));
        }));
        lab.port = Some(told.try_clone()?);
        thread::spawn(move || {
            for line in BufReader::new(told).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(lab)
    }

    /// QEMU's connection to `listener`, unless it ends before.
    fn accept(&mut self, listener: &UnixListener) -> Result<UnixStream> {
        listener.set_nonblocking(true)?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("QEMU ended with {status}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the command's end, and gives its code; none if the lab did not come up.
    pub(crate) fn follow(mut self, limit: Duration) -> Result<Option<u8>> {
        let line = self.line(UP_LIMIT);
        if line.as_deref() != Ok(UP) {
            say(&format!("the lab is to say {UP:?}, and there was {line:?}"));
            return Ok(None);
        }
        // Not before: until the lab has set that port up, it echoes what it gets there.
        if let Some(mut port) = self.port.take() {
            // Ends when QEMU does.
            thread::spawn(move || {
                while port.write_all(b"\n").is_ok() {
                    thread::sleep(PROD);
                }
            });
        }
        match self.line(limit) {
            Ok(line) => {
                let code = line.strip_prefix(EXIT).and_then(|code| code.parse().ok());
                let code = code.with_context(|| format!("the lab said {line:?}"))?;
                // The ports are emptied when QEMU ends, which it does when the lab powers off.
                let limit = Instant::now() + OFF_LIMIT;
                while self.process.try_wait()?.is_none() && Instant::now() < limit {
                    thread::sleep(Duration::from_millis(20));
                }
                self.end();
                Ok(Some(code))
            }
            Err(RecvTimeoutError::Timeout) => {
                say(&format!("the command took more than {} s and was ended", limit.as_secs()));
                self.end();
                Ok(Some(TIMED_OUT))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.process.wait()?;
                let said = fs::read(&self.console).unwrap_or_default();
                let said = String::from_utf8_lossy(&said);
                let noted = fs::read(&self.log).unwrap_or_default();
                let noted = String::from_utf8_lossy(&noted);
                // Each processor is reset once at the start; what follows is the lab's end.
                let end = noted.find("Triple fault").map_or("", |at| &noted[at..]);
                bail!("the lab ended before its command did: QEMU: {status}\n{said}{end}")
            }
        }
    }

    fn line(&self, limit: Duration) -> Result<String, RecvTimeoutError> {
        self.news.recv_timeout(limit).map(|line| line.trim().to_owned())
    }

    fn end(&mut self) {
        // Ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
        for copy in self.copies.drain(..) {
            // A panic there has been reported.
            let _ = copy.join();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.end();
    }
}

/// Copies until one side ends; there is nobody to tell about a standard output that is closed.
fn copy(mut from: UnixStream, mut write: impl FnMut(&[u8]) -> std::io::Result<()>) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if write(&bytes[..count]).is_err() {
            return;
        }
    }
}
