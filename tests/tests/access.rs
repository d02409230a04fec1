//! Who may do what with a machine, played with real users and groups.
//!
//! Only root can become other users, and only root's machines can be reached by them.

use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use tests::micro::{SPIN, elf};
use vmm::catalog::{AccessList, Catalog, Definition, Principal};
use vmm::runtime::Runtime;
use vmm::state::VmState;
use vmm::{HResult, VirtualPc};

/// Users and groups that no system gives to anybody.
const READER: u32 = 4_000_001;
const OPERATOR: u32 = 4_000_002;
const NOBODY: u32 = 4_000_003;
const READERS: u32 = 5_000_001;
const OPERATORS: u32 = 5_000_002;

struct World {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl World {
    /// A folder that others can pass through, with the command in it.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("vmm");
        fs::copy(env!("CARGO_BIN_EXE_vmm"), &program).unwrap();
        for path in [folder.path(), &program] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder, program }
    }

    /// What `vmm ARGUMENTS --format json` answers `user`, who is in `group`: exit code and code.
    fn ask(&self, (user, group): (u32, u32), arguments: &[&str]) -> (Option<i32>, HResult) {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &user.to_string(), "--regid", &NOBODY.to_string()])
            .args(["--groups", &group.to_string()])
            .arg(&self.program)
            .args(arguments)
            .args(["--format", "json"])
            .env("VMM_RUNTIME_DIR", self.folder.path().join("run"))
            .env("VMM_DATA_DIR", self.folder.path().join("data"));
        let output = command.output().unwrap();
        let document: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let code = match &document["error"]["code"] {
            Value::Null => HResult::S_OK,
            code => serde_json::from_value(code.clone()).unwrap(),
        };
        (output.status.code(), code)
    }
}

#[test]
fn case_43_each_user_may_do_what_the_definition_grants_and_to_others_the_machine_is_unknown() {
    if !rustix::process::geteuid().is_root() {
        tests::not_tested("only root can become other users");
        return;
    }
    let world = World::new();
    let kernel = world.folder.path().join("kernel");
    fs::write(&kernel, elf(SPIN)).unwrap();
    let runtime = Runtime::at(world.folder.path().join("run"));
    let pc = VirtualPc::at(Catalog::at(world.folder.path().join("data"), runtime));
    let user = |id: u32| Principal::User(id.to_string());
    let group = |id: u32| Principal::Group(id.to_string());
    let access = AccessList {
        read: vec![user(READER), group(READERS)],
        execute: vec![user(OPERATOR), group(OPERATORS)],
    };
    let definition = Definition { memory: 32 << 20, access, ..Definition::new("", kernel) };
    let machine = pc.create_virtual_machine("Shared", &definition).unwrap();
    let private = Definition { access: AccessList::default(), ..definition };
    let private = pc.create_virtual_machine("private", &private).unwrap();
    for machine in [&machine, &private] {
        let started = machine.startup().unwrap().wait_for_completion(30_000).unwrap();
        assert_eq!(started.error, HResult::S_OK, "{started:?}");
    }

    let unknown = (Some(3), HResult::VM_E_VM_UNKNOWN);
    let denied = (Some(9), HResult::ERROR_ACCESS_DENIED);
    // There is no agent: whoever may log off is told so.
    let allowed = (Some(5), HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
    let seen = (Some(0), HResult::S_OK);
    for (who, look, logoff) in [
        ((0, 0), seen, allowed),
        ((OPERATOR, NOBODY), seen, allowed),
        ((NOBODY, OPERATORS), seen, allowed),
        ((READER, NOBODY), seen, denied),
        ((NOBODY, READERS), seen, denied),
        ((READER, OPERATORS), seen, allowed),
        ((NOBODY, NOBODY), unknown, unknown),
        // Numbers of groups are none of users, and the other way round.
        ((READERS, READER), unknown, unknown),
    ] {
        assert_eq!(world.ask(who, &["task", "ls", "shared"]), look, "{who:?}");
        assert_eq!(world.ask(who, &["logoff", "SHARED"]), logoff, "{who:?}");
        let private = if who.0 == 0 { seen } else { unknown };
        assert_eq!(world.ask(who, &["task", "ls", "private"]), private, "{who:?}");
    }
    // Whatever changes something is not for those who may only look.
    for words in [
        &["stop", "shared"][..],
        &["stop", "shared", "--guest"],
        &["reset", "shared"],
        &["pause", "shared"],
        &["resume", "shared"],
        &["balloon", "shared", "1M"],
        &["console", "shared"],
        &["param", "set", "shared", "HostName", "x"],
        &["shutdown", "shared"],
        &["restart", "shared"],
        &["integration", "install", "shared"],
        &["task", "cancel", "shared", "1"],
    ] {
        assert_eq!(world.ask((READER, NOBODY), words), denied, "{words:?}");
        assert_eq!(world.ask((NOBODY, NOBODY), words), unknown, "{words:?}");
    }
    assert_eq!(machine.state().unwrap(), VmState::Running);
}

#[test]
fn root_runs_no_machine_of_another_users_catalog() {
    if !rustix::process::geteuid().is_root() {
        tests::not_tested("only root can become other users");
        return;
    }
    let world = World::new();
    let (data, kernel) = (world.folder.path().join("data"), world.folder.path().join("kernel"));
    fs::write(&kernel, elf(SPIN)).unwrap();
    let precious = world.folder.path().join("precious");
    fs::write(&precious, "text").unwrap();
    fs::create_dir_all(data.join("web")).unwrap();
    let definition = format!(
        "name = 'web'\nkernel = '{}'\nmemory = '32M'\nconsole = 'file={}'\n",
        kernel.display(),
        precious.display()
    );
    fs::write(data.join("web/machine.toml"), definition).unwrap();
    for path in [data.clone(), data.join("web"), data.join("web/machine.toml")] {
        std::os::unix::fs::chown(path, Some(OPERATOR), None).unwrap();
    }
    assert_eq!(world.ask((0, 0), &["show", "web"]), (Some(0), HResult::S_OK));
    for verb in ["start", "run"] {
        assert_eq!(world.ask((0, 0), &[verb, "web"]), (Some(1), HResult::ERROR_BAD_PATHNAME));
    }
    assert_eq!(fs::read_to_string(&precious).unwrap(), "text");
}
