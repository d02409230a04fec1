//! A runtime directory of a test's own, and the command in it.

use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tests::micro::elf;

pub(crate) const VMM: &str = env!("CARGO_BIN_EXE_vmm");
/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(30);

/// A runtime directory of its own, and kernels.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Exit code, code and description of a refusal.
    pub(crate) fn refusal(&self) -> (Option<i32>, String, String) {
        let document = self.json();
        let word = |key: &str| document["error"][key].as_str().unwrap().to_owned();
        assert!(!word("name").is_empty(), "{self:?}");
        (self.code, word("code"), word("description"))
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("VMM_RUNTIME_DIR", self.runtime());
        command.env("VMM_DATA_DIR", self.data());
        command.env("XDG_CACHE_HOME", self.folder.path().join("cache"));
        command.env_remove("VMM_LOG").stdin(Stdio::null());
        command
    }

    pub(crate) fn vmm(&self, arguments: &[&str]) -> Answer {
        answer(self.command(VMM).args(arguments))
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Answer {
        self.vmm(&[arguments, &["--format", "json"]].concat())
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn kernel(&self, code: &[u8]) -> String {
        self.file(&format!("kernel-{}", code.len()), &elf(code))
    }

    /// Creates the machine `name` with a kernel of `code`.
    pub(crate) fn create(&self, name: &str, code: &[u8]) {
        let kernel = self.kernel(code);
        let created = self.vmm(&["create", name, "--kernel", &kernel, "--memory", "32M"]);
        assert_eq!(created.code, Some(0), "{created:?}");
    }

    /// What `vmm ls` says of the machine `name`.
    pub(crate) fn listed(&self, name: &str) -> Value {
        let listed = self.json(&["ls"]).json();
        let mut machines = listed["machines"].as_array().unwrap().iter();
        machines.find(|machine| machine["name"] == name).cloned().unwrap_or_default()
    }

    /// `vmm run` with a kernel that must not start, and what it answers.
    pub(crate) fn refused(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let answer = self.json(&[&["run", "web", "--console", "none"], arguments].concat());
        self.holds_nothing();
        answer.refusal()
    }

    pub(crate) fn holds_nothing(&self) {
        let entries = fs::read_dir(self.runtime()).into_iter().flatten().flatten();
        let names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        // The counter of tasks is to stay.
        let left: Vec<_> = names.iter().filter(|name| *name != ":last-task").collect();
        assert!(left.is_empty(), "{left:?} was left behind");
    }

    /// Nothing is left but what machines in the background have said, as soon as they have cleared up:
    /// one whose control socket is gone is listed as turned off, and clears up yet.
    pub(crate) fn holds_nothing_but_logs(&self) {
        eventually("more than logs is left behind", || {
            let folders = fs::read_dir(self.runtime()).unwrap().flatten();
            let mut entries = folders
                .flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
            entries.all(|entry| entry.file_name() == "log")
        });
    }

    /// Starts a machine and waits until it runs.
    pub(crate) fn start(&self, arguments: &[&str]) -> Machine {
        let mut command = self.command(VMM);
        command.args(["run", "Web", "--memory", "32M", "--console", "none"]).args(arguments);
        self.runs(&mut command)
    }

    /// Starts `command`, which is to run a machine, and waits until that runs.
    pub(crate) fn runs(&self, command: &mut Command) -> Machine {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let machine = Machine { child };
        let pid = machine.child.id();
        eventually("the machine never runs", || {
            let listed = self.json(&["ls"]).json();
            let mut machines = listed["machines"].as_array().unwrap().iter();
            machines.any(|machine| machine["pid"] == pid && machine["state"] == "Running")
        });
        machine
    }

    /// `vmm` in the background, which can be read.
    pub(crate) fn background(&self, arguments: &[&str]) -> Machine {
        let mut command = self.command(VMM);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Machine { child: command.spawn().unwrap() }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Machines in the background do not outlive the test.
        let ours = format!("VMM_RUNTIME_DIR={}", self.runtime().display());
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            let is_ours = environment.split(|byte| *byte == 0).any(|word| word == ours.as_bytes());
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|_| is_ours).and_then(rustix::process::Pid::from_raw) {
                // Ended already is as good.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// A process of the command, mostly one that runs a machine. It does not outlive the test.
pub(crate) struct Machine {
    pub(crate) child: Child,
}

impl Machine {
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end: exit status, standard output and standard error.
    pub(crate) fn end(mut self) -> (ExitStatus, String, String) {
        let status = wait(&mut self.child);
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (status, stdout, stderr)
    }

    /// Waits for the end: its exit status.
    pub(crate) fn status(mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Waits for the end, but leaves standard error: exit status and standard output.
    pub(crate) fn end_quietly(mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child);
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        (status, stdout)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn answer(command: &mut Command) -> Answer {
    let output = command.output().unwrap();
    Answer {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let mut ended = None;
    eventually("the process does not end", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    ended.unwrap()
}

/// Waits until something holds, which it must within the bound against hanging.
pub(crate) fn eventually(otherwise: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "{otherwise}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The command where another user can run it, with a runtime directory of that user's.
pub(crate) fn for_nobody(world: &World) -> PathBuf {
    let open = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let program = world.folder.path().join("vmm");
    fs::copy(VMM, &program).unwrap();
    open(world.folder.path());
    open(&program);
    program
}
