//! A command that needs a KVM which runs stock kernels: run on this machine where it has one, else
//! in the lab.

use crate::build::{self, Programs};
use crate::guest::Guests;
use crate::image::Image;
use crate::path::Path;
use crate::run::run;
use crate::userspace::Program;
use crate::{Outcome, lab};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is to be done.
pub(crate) struct Job {
    path: Path,
    /// Files and folders for the lab: on this machine, and where they go.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Disks for the lab: images that it may write to, which nothing is left of afterwards. The first
    /// is its /dev/vda.
    pub(crate) disks: Vec<PathBuf>,
    /// Links for the lab: where they are, and what they name.
    pub(crate) links: Vec<(String, String)>,
    /// Programs of Debian's that it needs in the lab.
    pub(crate) debian: Vec<&'static Program>,
    /// Modules that the lab's kernel loads besides its own, each after those that it needs.
    pub(crate) modules: Vec<&'static str>,
    /// Environment variables.
    pub(crate) environment: Vec<(String, String)>,
    /// The command and its arguments.
    pub(crate) command: Vec<String>,
    /// How long it may take in the lab.
    pub(crate) limit: Duration,
    /// Whether the lab's time is a count of instructions; it runs slower then.
    pub(crate) counted: bool,
    /// Whether what it prints in the lab is to be seen only as progress.
    pub(crate) aside: bool,
    /// What it prints in the lab.
    pub(crate) printed: Printed,
}

/// What a command prints, while it does and afterwards.
pub(crate) type Printed = Arc<Mutex<Vec<u8>>>;

impl Job {
    /// Nothing yet.
    pub(crate) fn new(path: Path, limit: Duration) -> Self {
        Self {
            path,
            files: Vec::new(),
            disks: Vec::new(),
            links: Vec::new(),
            debian: Vec::new(),
            modules: Vec::new(),
            environment: Vec::new(),
            command: Vec::new(),
            limit,
            counted: false,
            aside: false,
            printed: Printed::default(),
        }
    }

    /// Lets it find `vmm` and the guests where the tests look for them, and `vmm` also by its name;
    /// and lets `vmm` find the agent.
    pub(crate) fn give_machines(&mut self, programs: &Programs, guests: &Guests) -> Result<()> {
        let vmm = self.give_program(programs, "vmm")?;
        let mut folder = guests.folder.display().to_string();
        let mut agent = guests.agent.display().to_string();
        if self.path == Path::Lab {
            agent = "/bin/vmm-agent".into();
            self.files.push((guests.agent.clone(), agent.clone()));
            folder = "/guests".into();
            for name in &guests.names {
                self.files.push((guests.folder.join(name), format!("{folder}/{name}")));
            }
        }
        let path = self.path.name().to_owned();
        let variables =
            [("VMM_BIN", vmm), ("VMM_AGENT", agent), ("VMM_GUESTS", folder), ("VMM_PATH", path)];
        for (name, value) in variables {
            self.environment.push((name.into(), value));
        }
        Ok(())
    }

    /// Lets it find the guests `images` where [those](Self::give_machines) are.
    pub(crate) fn give_images(&mut self, guests: &Guests, images: &[&Image]) -> Result<()> {
        for image in images {
            let made = image.get()?;
            let [kernel, initrd, disk] = ["vmlinuz", "initrd", "disk"].map(|name| made.join(name));
            if self.path == Path::Native {
                let folder = guests.folder.join(image.name);
                fs::create_dir_all(&folder)?;
                for file in [&kernel, &initrd, &disk] {
                    // A copy, for the guest writes to its disk.
                    let mut copy = Command::new("cp");
                    run(copy.args(["--sparse=always", "--reflink=auto"]).arg(file).arg(&folder))?;
                }
                continue;
            }
            let folder = format!("/guests/{}", image.name);
            self.files.push((kernel, format!("{folder}/vmlinuz")));
            self.files.push((initrd, format!("{folder}/initrd")));
            let letter = (b'a'..=b'z').nth(self.disks.len()).context("too many disks")?;
            self.links.push((format!("{folder}/disk"), format!("/dev/vd{}", char::from(letter))));
            self.disks.push(disk);
        }
        Ok(())
    }

    /// Lets it have the program `name` of `programs`, and says where it will be.
    pub(crate) fn give_program(&mut self, programs: &Programs, name: &str) -> Result<String> {
        let program = build::take(programs, name)?;
        if self.path == Path::Native {
            return Ok(program.display().to_string());
        }
        let place = format!("/bin/{name}");
        self.files.push((program, place.clone()));
        Ok(place)
    }

    /// What it has printed in the lab.
    pub(crate) fn heard(&self) -> String {
        let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&printed).into_owned()
    }

    /// Does it, and gives its exit code.
    pub(crate) fn run(&self) -> Outcome {
        if self.path == Path::Lab {
            return lab::run(self);
        }
        let (program, arguments) = self.command.split_first().context("there is no command")?;
        let variables = self.environment.iter().map(|(name, value)| (name, value));
        let status = Command::new(program)
            .args(arguments)
            .envs(variables)
            .status()
            .with_context(|| format!("cannot start {program}"))?;
        // As a shell has it.
        let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
        Ok(u8::try_from(code).unwrap_or(1))
    }
}
