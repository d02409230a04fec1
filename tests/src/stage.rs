//! A booted Debian on which one scene after the other is played.
//!
//! The judge is the guest: its own `loginctl`, `ps` and `who` over the serial console, whose shell is
//! a service and no session.

use crate::guest::Debian;
use crate::machine::{Answer, Machine, Recipe, vmm};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

/// The longest that anything in the guest may take; only a bound against hanging.
const LIMIT: Duration = Duration::from_secs(180);
/// Between two looks: each of them makes the guest work.
const PAUSE: Duration = Duration::from_millis(300);
/// The users that scenes log in.
const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// A session as the guest's `loginctl` shows it.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// `user`, `greeter`, `manager`, ...
    pub class: String,
    /// `opening`, `active`, `online`, `closing`.
    pub state: String,
    /// systemd's unit; none with elogind.
    pub scope: String,
}

impl Session {
    /// Whether a user is logged on in it.
    pub fn is_users(&self) -> bool {
        self.class.starts_with("user")
    }

    fn is_up(&self) -> bool {
        self.state == "active" || self.state == "online"
    }
}

/// A guest, and who is logged on in it.
pub struct Stage {
    /// The machine.
    pub machine: Machine,
    /// What runs in it.
    pub debian: Debian,
}

impl Stage {
    /// Boots `debian`, and sees to it that it has an agent: one that came by itself, or that a
    /// person installs.
    pub fn boot(debian: Debian) -> Self {
        Self::boot_with(debian, Vec::new())
    }

    /// The same, with these network interfaces.
    pub fn boot_with(debian: Debian, nets: Vec<String>) -> Self {
        let recipe = Recipe { nets, ..recipe(debian) };
        let mut stage = Self { machine: Machine::start(&recipe), debian };
        stage.machine.wait_for_shell();
        stage.get_agent();
        stage
    }

    /// Starts `debian` in the background, and waits for nothing but its own word that it is ready.
    pub fn start_until_ready(debian: Debian) -> Self {
        Self { machine: Machine::start_until_ready(&recipe(debian)), debian }
    }

    /// Has the agent in the guest: systemd 257 got it from the monitor, the others need one line.
    pub fn get_agent(&mut self) {
        if self.debian != Debian::Thirteen {
            self.install_agent();
        }
        self.machine.wait_for_agent();
    }

    /// Installs the agent from the disk that the monitor brings.
    pub fn install_agent(&mut self) {
        let said = self
            .run("mount -L VMM-IC /mnt && sh /mnt/install && sync && echo INSTALLED; umount /mnt");
        assert!(said.contains("INSTALLED"), "{said}");
    }

    /// Runs `command` in the guest, and gives what it printed.
    pub fn run(&mut self, command: &str) -> String {
        self.machine.console.run(command)
    }

    /// Whether the guest's process 1 is systemd.
    #[must_use]
    pub fn has_systemd(&self) -> bool {
        self.debian != Debian::Sysvinit
    }

    /// Sends everybody away, whatever they do, and takes back what scenes have set up.
    pub fn clear(&mut self) {
        let mut script = String::from(
            "touch /run/enough; pkill -x ssh; pkill -x script; umount /tmp/freezer 2> /dev/null; ",
        );
        if self.has_systemd() {
            script += "systemctl stop 'relogin@*' 'login@*' 'stage-*'; ";
        }
        for user in USERS {
            script += &format!("rm -f /home/{user}/.bash_profile; crontab -r -u {user}; ");
            if self.has_systemd() {
                script += &format!("loginctl disable-linger {user}; ");
            }
            script += &format!("pkill -KILL -u {user}; ");
        }
        self.run(&format!("{{ {script} }} 2> /dev/null"));
        self.wait("everybody is gone", |stage| {
            let left = stage.run("ps -o pid= -u alice -u bob -u carol");
            if !left.is_empty() {
                stage.run("pkill -KILL -u alice,bob,carol");
            }
            left.is_empty() && stage.sessions().is_empty()
        });
        self.run("rm -f /run/enough");
    }

    /// All sessions, of whatever class.
    pub fn sessions(&mut self) -> Vec<Session> {
        let said = self.run(
            "for s in $(loginctl list-sessions --no-legend | awk '{ print $1 }'); do \
             loginctl show-session $s -p Id -p Name -p Class -p State -p Scope 2> /dev/null | \
             paste -sd' '; done",
        );
        said.lines().filter_map(session).collect()
    }

    /// The sessions of `user` that go on.
    pub fn sessions_of(&mut self, user: &str) -> Vec<Session> {
        let mut sessions = self.sessions();
        sessions.retain(|one| one.is_users() && one.is_up() && one.user == user);
        sessions
    }

    /// Whether nobody is logged on, by the guest's own word.
    pub fn is_empty(&mut self) -> bool {
        !self.sessions().iter().any(|one| one.is_users() && one.state != "closing")
    }

    /// The processes of `user`.
    pub fn processes(&mut self, user: &str) -> Vec<u64> {
        let said = self.run(&format!("ps -o pid= -u {user}"));
        said.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    /// The first process of `user` that is called `name`.
    pub fn process(&mut self, user: &str, name: &str) -> Option<u64> {
        let said = self.run(&format!("pgrep -u {user} -x '{name}'"));
        said.lines().next().and_then(|line| line.trim().parse().ok())
    }

    /// Waits until `user` has a process that is called `name`, and says which it is.
    ///
    /// # Panics
    /// There never is one.
    pub fn wait_for_process(&mut self, user: &str, name: &str) -> u64 {
        let mut found = None;
        self.wait(&format!("{user} has a process {name}"), |stage| {
            found = stage.process(user, name);
            found.is_some()
        });
        found.unwrap_or_default()
    }

    /// Waits until `good`, which is to say `what`.
    pub fn wait(&mut self, what: &str, mut good: impl FnMut(&mut Self) -> bool) {
        let limit = Instant::now() + LIMIT;
        while !good(self) {
            if Instant::now() >= limit {
                let sessions = self.sessions();
                let processes = self.run("ps -eo pid,user,cgroup:60,args | grep -v ' \\['");
                panic!("never so: {what}; the sessions are {sessions:?}\n{processes}");
            }
            thread::sleep(PAUSE);
        }
    }

    /// Waits until `user` has `count` sessions that have come up.
    pub fn wait_for(&mut self, user: &str, count: usize) {
        let what = format!("{user} has {count} sessions");
        self.wait(&what, |stage| stage.sessions_of(user).len() == count);
    }

    /// Logs `user` on at a terminal, through getty and login.
    pub fn login(&mut self, terminal: &str, user: &str) {
        self.run(&format!("login-on {terminal} {user}"));
        self.wait_for(user, 1);
    }

    /// Logs `user` on over ssh.
    pub fn ssh(&mut self, user: &str) {
        let before = self.sessions_of(user).len();
        self.run(&background(&format!("ssh -tt {user}@localhost")));
        self.wait_for(user, before + 1);
    }

    /// Logs `user` on with `su -l`, on a terminal, to run `command`.
    pub fn su(&mut self, user: &str, command: &str) {
        self.run(&su(user, command));
    }

    /// Lets every later login of `user` do `script` before anything else.
    pub fn profile(&mut self, user: &str, script: &str) {
        self.run(&format!("echo \"{script}\" > /home/{user}/.bash_profile"));
    }

    /// Logs `user` on at `terminal` with a shell that does not leave before it is killed.
    pub fn login_stubborn(&mut self, terminal: &str, user: &str) {
        self.profile(user, "trap '' HUP TERM; while :; do read -t 1 -r line; done");
        self.login(terminal, user);
        // Its session is there before its shell is: until that ignores SIGHUP, it is like any other.
        let ignores =
            format!("grep -q 'SigIgn.*[13579bdf]$' /proc/$(pgrep -nxu {user} bash)/status");
        self.wait(&format!("{user} has a stubborn shell"), |stage| {
            stage.run(&format!("{ignores} && echo yes")) == "yes"
        });
    }

    /// `vmm logoff` with `options`.
    pub fn logoff(&self, options: &[&str]) -> Answer {
        self.machine.logoff(options)
    }

    /// Calls `vmm logoff` with this grace in a thread, and returns when it is committed.
    pub fn logoff_in_background(&self, grace: &str) -> thread::JoinHandle<Answer> {
        let before = self.machine.newest_task()["id"].clone();
        let arguments =
            ["logoff", &self.machine.name, "--grace", grace, "--format", "json"].map(String::from);
        let call = thread::spawn(move || vmm(arguments));
        let limit = Instant::now() + LIMIT;
        loop {
            let task = self.machine.newest_task();
            if task["id"] != before && task["is_cancelable"] == false {
                return call;
            }
            assert!(Instant::now() < limit, "the logoff is never committed: {task}");
            thread::sleep(PAUSE);
        }
    }

    /// Whether the guest has utmp.
    pub fn has_utmp(&mut self) -> bool {
        self.run("test -e /run/utmp && echo yes") == "yes"
    }
}

/// The machine that `debian` runs on.
fn recipe(debian: Debian) -> Recipe {
    Recipe {
        name: debian.name().into(),
        kernel: debian.file("vmlinuz"),
        initrd: debian.file("initrd"),
        memory: "512M",
        hugepages: false,
        share_kernel: false,
        cpus: 1,
        append: "root=/dev/vda ro quiet".into(),
        disks: vec![format!("path={}", debian.file("disk").display())],
        nets: Vec::new(),
        echo: false,
    }
}

/// A shell's words that run `command` beside the shell, its input being a pipe that nobody writes to.
#[must_use]
pub fn background(command: &str) -> String {
    let pipe = "/run/silence";
    format!("[ -p {pipe} ] || mkfifo {pipe}; {{ setsid {command} <> {pipe} > /dev/null 2>&1 & }}")
}

/// A shell's words that log `user` on with `login`, at a terminal of its own, where nobody types.
#[must_use]
pub fn login(user: &str) -> String {
    background(&format!("script -qc 'exec login -f {user}' /dev/null"))
}

/// A shell's words that log `user` on at a terminal of its own to run `command`.
#[must_use]
pub fn su(user: &str, command: &str) -> String {
    background(&format!("script -qc \"su -l {user} -c '{command}'\" /dev/null"))
}

/// A session from a line of `Key=value` words.
fn session(line: &str) -> Option<Session> {
    let value = |key: &str| {
        let mut words = line.split(' ').filter_map(|word| word.split_once('='));
        words.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    };
    Some(Session {
        id: value("Id")?,
        user: value("Name")?,
        class: value("Class")?,
        state: value("State")?,
        scope: value("Scope").unwrap_or_default(),
    })
}

/// Says that `answer` is a task that ended with `result` and `error`, and gives its document.
pub fn ended(answer: &Answer, exit: i32, result: &str, error: &str) -> Value {
    let document = answer.json();
    assert_eq!(document["task"]["result"], result, "{answer:?}");
    assert_eq!(document["task"]["error"], error, "{answer:?}");
    assert_eq!(document["task"]["is_complete"], true, "{answer:?}");
    assert_eq!(answer.code, Some(exit), "{answer:?}");
    document
}

/// Says that everybody was logged off, and gives the report.
pub fn succeeded(answer: &Answer) -> Value {
    let document = ended(answer, 0, "Success", "0x00000000");
    assert_eq!(document["task"]["percent_completed"], 100, "{answer:?}");
    assert_eq!(document["report"]["backend"], "logind", "{answer:?}");
    document["report"].clone()
}

/// Says that `answer` is a refusal of the call with `code`, and gives its words.
pub fn refused(answer: &Answer, exit: i32, code: &str) -> String {
    let document = answer.json();
    assert_eq!(document["error"]["code"], code, "{answer:?}");
    assert_eq!(answer.code, Some(exit), "{answer:?}");
    document["error"]["description"].as_str().expect("a refusal is explained").to_owned()
}

/// The outcomes of `user`'s sessions in `report`.
pub fn outcomes<'a>(report: &'a Value, user: &str) -> Vec<&'a str> {
    let sessions = report["sessions"].as_array().expect("the report lists sessions");
    let of_user = sessions.iter().filter(|session| session["user"] == user);
    of_user.map(|session| session["outcome"].as_str().unwrap_or("none")).collect()
}

/// Whether `user`'s manager was stopped, and why it was not.
pub fn manager(report: &Value, user: &str) -> (bool, String) {
    let managers = report["managers"].as_array().expect("the report lists managers");
    let found = managers.iter().find(|manager| manager["user"] == user);
    let found = found.unwrap_or_else(|| panic!("no manager of {user}: {report}"));
    let reason = found["reason"].as_str().unwrap_or_default().to_owned();
    (found["stopped"] == true, reason)
}
