//! The lab: an AMD host emulated by QEMU, whose KVM runs stock kernels.
//!
//! A CPU with AMD-V is emulated in software, a stock Debian kernel boots on it, and its kvm-amd
//! gives a real `/dev/kvm`. The command runs there as root in a busybox user space, with the files
//! that it needs. Its output goes where ours goes, and its exit code is ours.
//!
//! Four serial ports connect the lab: the kernel's console, which is only looked at when the lab
//! does not come up, the command's output, its errors, and a line that tells how it ended.

use crate::archive::Archive;
use crate::debian::{self, Suite};
use crate::guest::find;
use crate::run::{output, say};
use crate::tools::{self, QEMU};
use crate::{Outcome, path};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Modules of the lab's kernel, in the order in which they are loaded.
const MODULES: [&str; 4] = ["ccp", "irqbypass", "kvm", "kvm-amd"];
/// The kernel: the one for clouds has fewer drivers to start, but no ccp, which kvm-amd needs.
const KERNEL: &str = "linux-image-amd64";
/// How long the lab may take to come up: some ten seconds are usual.
const UP_LIMIT: Duration = Duration::from_secs(180);
/// What the lab says when it is up, and before the command's exit code.
const UP: &str = "up";
const EXIT: &str = "exit ";
/// The exit code of a command that took too long, as `timeout` has it.
const TIMED_OUT: u8 = 124;

/// Runs a command in the lab.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long the command may take, in seconds.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// A file that the command needs; it has the same path in the lab.
    #[arg(long)]
    file: Vec<PathBuf>,
    /// The command and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// `cargo xtask lab`.
pub(crate) fn run_command(args: &Args) -> Outcome {
    let mut job = Job { limit: Duration::from_secs(args.timeout), ..Job::default() };
    for file in &args.file {
        let file = fs::canonicalize(file).with_context(|| format!("no {}", file.display()))?;
        job.files.push((file.clone(), file.display().to_string()));
    }
    job.command = args
        .command
        .iter()
        .map(|word| word.to_str().map(str::to_owned).context("a word of the command is no UTF-8"))
        .collect::<Result<_>>()?;
    job.run()
}

/// What is to be done in the lab.
#[derive(Default)]
pub(crate) struct Job {
    /// Files: on this machine, and where they go.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Environment variables.
    pub(crate) environment: Vec<(String, String)>,
    /// The command and its arguments.
    pub(crate) command: Vec<String>,
    /// How long it may take.
    pub(crate) limit: Duration,
}

impl Job {
    /// Does it, and gives the command's exit code. A lab that does not come up gets a second try.
    pub(crate) fn run(&self) -> Outcome {
        tools::need(&[QEMU])?;
        let folder = tempfile::tempdir()?;
        let kernel = debian::kernel(Suite::Bookworm, KERNEL)?;
        let initrd = folder.path().join("initrd");
        fs::write(&initrd, self.archive(&kernel.root)?)?;
        let vmlinuz = find(&kernel.root.join("boot"), "vmlinuz-")?;
        let attempt = || Lab::start(folder.path(), &vmlinuz, &initrd)?.follow(self.limit);
        match attempt()? {
            Some(code) => Ok(code),
            None => {
                say("the lab did not come up; trying once more");
                attempt()?.with_context(|| {
                    let console = folder.path().join("console");
                    let said = fs::read(console).unwrap_or_default();
                    format!("the lab did not come up:\n{}", String::from_utf8_lossy(&said))
                })
            }
        }
    }

    fn archive(&self, kernel: &Path) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in ["proc", "sys", "dev", "run", "tmp", "root"] {
            archive.folder(folder, 0o755, 0)?;
        }
        let packages = debian::closure(Suite::Bookworm, &["busybox-static"])?;
        let busybox = packages.iter().map(|package| package.root.join("bin/busybox"));
        let busybox = busybox.into_iter().find(|path| path.is_file()).context("no busybox")?;
        archive.copy(&busybox, "bin/busybox")?;
        for applet in output(Command::new(&busybox).arg("--list"))?.lines() {
            if applet != "busybox" {
                archive.link(&format!("bin/{applet}"), "busybox")?;
            }
        }
        let folder = find(&kernel.join("lib/modules"), "")?;
        let order = fs::read_to_string(folder.join("modules.order"))?;
        let mut load = String::new();
        for module in MODULES {
            let end = format!("/{module}.ko");
            let line = order.lines().find(|line| line.ends_with(&end));
            let line = line.with_context(|| format!("the lab's kernel has no {module}"))?;
            archive.copy(&folder.join(line), &format!("modules/{module}.ko"))?;
            load.push_str(&format!("insmod /modules/{module}.ko\n"));
        }
        for (file, path) in &self.files {
            archive.copy(file, path)?;
        }
        archive.script("init", &self.init(&load))?;
        archive.finish()
    }

    /// The lab's first and only program of its own.
    fn init(&self, load: &str) -> String {
        let variables: String = self
            .environment
            .iter()
            .map(|(name, value)| format!("export {name}={}\n", quoted(value)))
            .collect();
        let command: Vec<String> = self.command.iter().map(|word| quoted(word)).collect();
        let command = command.join(" ");
        format!(
            "mount -t proc proc /proc\n\
             mount -t sysfs sysfs /sys\n\
             mount -t devtmpfs dev /dev 2>/dev/null\n\
             mkdir -p /dev/pts /dev/shm\n\
             mount -t devpts devpts /dev/pts\n\
             mount -t tmpfs run /run\n\
             mount -t tmpfs tmp /tmp\n\
             ip link set lo up\n\
             {load}\
             for port in 1 2 3; do stty -F /dev/ttyS$port raw -echo; done\n\
             export HOME=/root PATH=/bin TERM=dumb\n\
             {variables}\
             echo {UP} > /dev/ttyS3\n\
             cd /root\n\
             setsid {command} < /dev/null > /dev/ttyS1 2> /dev/ttyS2\n\
             code=$?\n\
             for port in 1 2; do stty -F /dev/ttyS$port >/dev/null; done\n\
             echo {EXIT}$code > /dev/ttyS3\n\
             sleep 1\n\
             poweroff -f\n"
        )
    }
}

/// `word` as a shell takes it literally.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A running lab. Dropping it ends it.
struct Lab {
    process: Child,
    /// Lines of the port that tells how far the lab is.
    news: Receiver<String>,
    copies: Vec<thread::JoinHandle<()>>,
}

impl Lab {
    fn start(folder: &Path, vmlinuz: &Path, initrd: &Path) -> Result<Self> {
        let listen = |name: &str| -> Result<UnixListener> {
            let path = folder.join(name);
            // Left over from the first try.
            let _ = fs::remove_file(&path);
            Ok(UnixListener::bind(path)?)
        };
        let ports = ["out", "err", "news"].map(listen);
        let mut command = Command::new(QEMU.0);
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(vmlinuz)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
            .arg("-serial")
            .arg(format!("file:{}", folder.join("console").display()));
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
        let mut lab = Self { process, news, copies: Vec::new() };
        let [out, err, told] = ports;
        let (out, err, told) = (lab.accept(&out?)?, lab.accept(&err?)?, lab.accept(&told?)?);
        lab.copies.push(thread::spawn(move || copy(out, std::io::stdout())));
        lab.copies.push(thread::spawn(move || copy(err, std::io::stderr())));
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
    fn follow(mut self, limit: Duration) -> Result<Option<u8>> {
        if self.line(UP_LIMIT).as_deref() != Ok(UP) {
            return Ok(None);
        }
        match self.line(limit) {
            Ok(line) => {
                let code = line.strip_prefix(EXIT).and_then(|code| code.parse().ok());
                let code = code.with_context(|| format!("the lab said {line:?}"))?;
                // The ports are emptied when QEMU ends, which it does when the lab powers off.
                let limit = Instant::now() + Duration::from_secs(30);
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
            Err(RecvTimeoutError::Disconnected) => bail!("the lab ended before its command did"),
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
fn copy(mut from: UnixStream, mut to: impl Write) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// Runs `job` on this machine or in the lab, whichever the probe says.
pub(crate) fn run_where_kernels_run(job: &Job, path: path::Path) -> Outcome {
    match path {
        path::Path::Lab => job.run(),
        path::Path::Native => {
            let (program, arguments) = job.command.split_first().context("no command")?;
            let status = Command::new(program)
                .args(arguments)
                .envs(job.environment.iter().map(|(name, value)| (name, value)))
                .status()
                .with_context(|| format!("cannot start {program}"))?;
            Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
    }
}
