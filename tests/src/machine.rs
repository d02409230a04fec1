//! A machine under `vmm run`, and the `vmm` command asked about it.

use crate::console::{Console, PROMPT};
use crate::guest::Flavour;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The longest a boot may take; only a bound against hanging.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// The longest the agent may take after the shell's prompt.
const AGENT_LIMIT: Duration = Duration::from_secs(180);
/// The longest a guest may take to end.
const END_LIMIT: Duration = Duration::from_secs(180);
/// Between two looks at something that has no event to wait for.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the `vmm` command is.
///
/// # Panics
/// `VMM_BIN` is not set.
#[must_use]
pub fn vmm_bin() -> PathBuf {
    std::env::var_os("VMM_BIN")
        .expect("VMM_BIN names the vmm command; `cargo xtask test` sets it")
        .into()
}

/// Where the machine `name` has its sockets, as the README has it.
#[must_use]
pub fn runtime_dir(name: &str) -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let xdg = || variable("XDG_RUNTIME_DIR").filter(|_| !rustix::process::geteuid().is_root());
    let base = variable("VMM_RUNTIME_DIR").or_else(|| Some(xdg()?.join("vmm")));
    base.unwrap_or_else(|| "/run/vmm".into()).join(name)
}

/// What a `vmm` command answered.
#[derive(Debug)]
pub struct Answer {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// Standard output as the JSON document that it is.
    ///
    /// # Panics
    /// It is not one JSON document.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not one JSON document ({error}): {self:?}"))
    }
}

/// Runs `vmm` with `arguments` to its end.
///
/// # Panics
/// The command cannot be started.
pub fn vmm<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Answer {
    let output = Command::new(vmm_bin())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the vmm command starts");
    Answer {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// What a machine is to be made of.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The machine's name.
    pub name: String,
    /// The kernel file.
    pub kernel: PathBuf,
    /// The user space.
    pub initrd: PathBuf,
    /// RAM, as `--memory` takes it.
    pub memory: &'static str,
    /// Whether RAM is huge pages that the host has reserved.
    pub hugepages: bool,
    /// Whether it has pages of its kernel in common with other machines.
    pub share_kernel: bool,
    /// Virtual processors.
    pub cpus: u8,
    /// Words for the kernel command line.
    pub append: String,
    /// Disks, as `--disk` takes them.
    pub disks: Vec<String>,
    /// Network interfaces, as `--net` takes them.
    pub nets: Vec<String>,
    /// Show the console on standard error.
    pub echo: bool,
}

impl Recipe {
    /// A machine of one processor with `flavour`'s packed kernel, and users logged in as `logins`
    /// says: `root,alice,bob` or `none`.
    #[must_use]
    pub fn new(name: &str, flavour: Flavour, logins: &str) -> Self {
        Self {
            name: name.into(),
            kernel: flavour.kernel(),
            initrd: flavour.initrd(),
            memory: "256M",
            hugepages: false,
            share_kernel: false,
            cpus: 1,
            append: format!("quiet logins={logins}"),
            disks: Vec::new(),
            nets: Vec::new(),
            echo: false,
        }
    }

    /// Adds words to the kernel command line.
    #[must_use]
    pub fn append(mut self, words: &str) -> Self {
        self.append = format!("{} {words}", self.append);
        self
    }

    /// `vmm VERB NAME` with what it is made of.
    #[must_use]
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(vmm_bin());
        command
            .args([verb, &self.name, "--memory", self.memory])
            .arg("--kernel")
            .arg(&self.kernel)
            .arg("--initrd")
            .arg(&self.initrd)
            .args(self.hugepages.then_some("--hugepages"))
            .args(self.share_kernel.then_some("--share-kernel"))
            .args(["--cpus", &self.cpus.to_string(), "--append", &self.append])
            .args(self.disks.iter().flat_map(|disk| ["--disk", disk]))
            .args(self.nets.iter().flat_map(|net| ["--net", net]));
        command
    }
}

/// A machine that is registered, and maybe runs in the background. Dropping it ends and removes it.
struct Registered(String);

impl Drop for Registered {
    fn drop(&mut self) {
        // One that is off already is as good.
        vmm(["stop", &self.0]);
        let answer = vmm(["rm", &self.0]);
        if answer.code != Some(0) {
            eprintln!("{} is left behind: {answer:?}", self.0);
        }
    }
}

/// A running machine. Dropping it ends it.
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its serial console.
    pub console: Console,
    /// `vmm run`, or `vmm console` of one in the background.
    process: Child,
    stderr: Option<JoinHandle<String>>,
    _background: Option<Registered>,
}

impl Machine {
    /// Starts `recipe` and waits for nothing.
    ///
    /// # Panics
    /// The command cannot be started.
    #[must_use]
    pub fn start(recipe: &Recipe) -> Self {
        Self::under(&recipe.name, recipe.command("run"), recipe.echo)
    }

    /// Starts the machine `name` under `command`, a `vmm run`, and waits for nothing. With `echo` its
    /// console is shown on standard error.
    ///
    /// # Panics
    /// The command cannot be started.
    #[must_use]
    pub fn under(name: &str, mut command: Command, echo: bool) -> Self {
        command.args(["--console", "stdio"]);
        Self::behind(name, command, echo)
    }

    /// Registers `recipe`, starts it in the background and waits until its guest says that it is
    /// ready; then its console is attached to.
    ///
    /// # Panics
    /// It cannot be registered, or the guest does not say so.
    #[must_use]
    pub fn start_until_ready(recipe: &Recipe) -> Self {
        let created = recipe.command("create").output().expect("the vmm command starts");
        assert!(created.status.success(), "{created:?}");
        let registered = Registered(recipe.name.clone());
        let limit = format!("{}s", BOOT_LIMIT.as_secs());
        let started = vmm(["start", &recipe.name, "--wait", "ready", "--timeout", &limit]);
        assert_eq!(started.code, Some(0), "{started:?}");
        let mut console = Command::new(vmm_bin());
        console.args(["console", &recipe.name]);
        let mut machine = Self::behind(&recipe.name, console, recipe.echo);
        machine._background = Some(registered);
        machine
    }

    /// The machine `name`, whose console is what `command` prints and reads.
    fn behind(name: &str, mut command: Command, echo: bool) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the vmm command starts");
        let input = process.stdin.take().expect("standard input is a pipe");
        let output = process.stdout.take().expect("standard output is a pipe");
        let mut errors = process.stderr.take().expect("standard error is a pipe");
        let stderr = thread::spawn(move || {
            let mut bytes = Vec::new();
            // What could be read is what there is to say.
            let _ = errors.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let console = Console::new(input, output, echo);
        let (name, stderr) = (name.to_owned(), Some(stderr));
        Self { name, console, process, stderr, _background: None }
    }

    /// Starts `recipe` and waits for the console's shell and for the agent.
    ///
    /// # Panics
    /// Either does not come.
    #[must_use]
    pub fn boot(recipe: &Recipe) -> Self {
        let mut machine = Self::start(recipe);
        machine.wait_for_shell();
        machine.wait_for_agent();
        machine
    }

    /// Waits for the shell's first prompt of a boot.
    ///
    /// # Panics
    /// It does not come.
    pub fn wait_for_shell(&mut self) {
        self.console.expect(PROMPT, BOOT_LIMIT);
    }

    /// Waits until `vmm users` is answered, which only an agent can do.
    ///
    /// # Panics
    /// It never is.
    pub fn wait_for_agent(&self) {
        self.wait_for_users("no agent", |answer| answer.code == Some(0));
    }

    /// Waits until the guest's own `who` counts `count` sessions: logins take their time.
    ///
    /// # Panics
    /// It never does.
    pub fn wait_for_who(&mut self, count: usize) -> Vec<String> {
        let limit = Instant::now() + AGENT_LIMIT;
        loop {
            let who = self.who();
            if who.len() == count {
                return who;
            }
            assert!(Instant::now() < limit, "who never showed {count}, but {who:?}");
            thread::sleep(PAUSE);
        }
    }

    /// Waits until `vmm users` answers as `good` wants it.
    ///
    /// # Panics
    /// It never does.
    pub fn wait_for_users(&self, otherwise: &str, good: impl Fn(&Answer) -> bool) {
        let limit = Instant::now() + AGENT_LIMIT;
        loop {
            let answer = self.vmm(&["users"], &[]);
            if good(&answer) {
                return;
            }
            assert!(Instant::now() < limit, "{otherwise}: {answer:?}");
            thread::sleep(PAUSE);
        }
    }

    /// The lines of the guest's own `who`: one a session.
    pub fn who(&mut self) -> Vec<String> {
        self.console.run("who").lines().map(str::to_owned).collect()
    }

    /// Runs `vmm VERB NAME OPTIONS --format json`.
    pub fn vmm(&self, verb: &[&str], options: &[&str]) -> Answer {
        vmm(verb.iter().chain(&[self.name.as_str()]).chain(options).chain(&["--format", "json"]))
    }

    /// `vmm logoff` with `options`.
    pub fn logoff(&self, options: &[&str]) -> Answer {
        self.vmm(&["logoff"], options)
    }

    /// What `vmm task ls` says of its newest task.
    ///
    /// # Panics
    /// There is none, not even its start.
    #[must_use]
    pub fn newest_task(&self) -> Value {
        let document = self.vmm(&["task", "ls"], &[]).json();
        let tasks = document["tasks"].as_array().expect("tasks are listed");
        tasks.last().expect("its start is a task").clone()
    }

    /// The id of the machine's process, unless it runs in the background.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Powers the guest off from inside and waits for the end of `vmm run`.
    ///
    /// # Panics
    /// It does not end.
    pub fn power_off(mut self) -> (ExitStatus, String) {
        self.console.type_line("poweroff -f");
        self.wait()
    }

    /// Waits for the end of `vmm run`, and gives its status and what it wrote to standard error.
    ///
    /// # Panics
    /// It does not end.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let limit = Instant::now() + END_LIMIT;
        let status = loop {
            if let Some(status) = self.process.try_wait().expect("the child can be waited for") {
                break status;
            }
            assert!(
                Instant::now() < limit,
                "the machine does not end; its console said:\n{}",
                self.console.transcript()
            );
            thread::sleep(PAUSE);
        };
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        (status, stderr)
    }
}

impl Machine {
    /// What can be told from outside of a machine that a test has given up.
    fn autopsy(&mut self) -> String {
        if let Ok(Some(status)) = self.process.try_wait() {
            let said = self.stderr.take().and_then(|thread| thread.join().ok());
            return format!("ended with {status}: {}", said.unwrap_or_default());
        }
        let mut found = format!("{:?}\n", vmm(["ls", "--format", "json"]));
        let tasks = format!("/proc/{}/task", self.pid());
        for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
            let read = |name: &str| {
                let text = fs::read_to_string(task.path().join(name)).unwrap_or_default();
                text.trim().replace('\n', " < ")
            };
            // State, and the time in user mode and in the kernel, in clock ticks.
            let stat = read("stat");
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
            let field = |number: usize| fields.get(number - 2).copied().unwrap_or("?");
            let (state, user, system) = (field(3), field(14), field(15));
            found += &format!("{} {state} {user}+{system}: {}\n", read("comm"), read("stack"));
        }
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            let found = self.autopsy();
            eprintln!("{} when it was given up: {found}", self.name);
        }
        // Gone already is as good; a test that failed has said so.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("the console of {} said:\n{}", self.name, self.console.transcript());
        }
    }
}
