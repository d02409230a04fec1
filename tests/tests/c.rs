//! The object model from C: what `vmm.h`, `libvmm.so` and `libvmm.a` promise.
//!
//! The programs are in `tests/c` and `vmm/examples`. All run under valgrind, also with a machine in
//! their own process, and must neither err nor leak there. `cargo xtask test` installs what this
//! needs: a compiler for C, one for C++, and valgrind.

#[path = "c/scripted.rs"]
mod scripted;

use scripted::Scripted;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use tests::micro::{SPIN, elf};
use vmm::catalog::Catalog;
use vmm::runtime::Runtime;
use vmm::{HResult, VirtualMachine, VirtualPc};

/// As strict as it gets.
const STRICT: [&str; 5] = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread"];

/// The workspace.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The libraries, made as everybody makes them; the header is checked on the way.
static LIBRARIES: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--quiet", "--package", "xtask", "--", "c", "--check"]);
    let printed = succeeds(cargo.current_dir(root()));
    let path = |end: &str| {
        let line = printed.lines().find(|line| line.ends_with(end));
        PathBuf::from(line.unwrap_or_else(|| panic!("no {end}: {printed}")))
    };
    [path("/libvmm.so"), path("/libvmm.a")]
});

/// How a program gets the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Shared,
    Static,
}

impl Link {
    const BOTH: [Self; 2] = [Self::Shared, Self::Static];

    fn arguments(self) -> Vec<String> {
        let [shared, archive] = LIBRARIES.each_ref().map(|path| path.to_str().unwrap());
        let folder = LIBRARIES[0].parent().unwrap().display();
        match self {
            Self::Shared => vec![shared.into(), format!("-Wl,-rpath,{folder}")],
            Self::Static => vec![archive.into(), "-lm".into()],
        }
    }
}

/// Folders for machines, and programs.
struct World {
    folder: tempfile::TempDir,
    link: Link,
}

impl World {
    fn new(link: Link) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Other users are to find the machines, if not more.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("kernel"), elf(SPIN)).unwrap();
        Self { folder, link }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn kernel(&self) -> String {
        self.path("kernel").to_str().unwrap().to_owned()
    }

    /// Compiles a program.
    fn program(&self, source: &str) -> PathBuf {
        let program = self.path(Path::new(source).file_stem().unwrap().to_str().unwrap());
        let mut compiler = Command::new("cc");
        compiler.args(["-std=c99", "-g"]).args(STRICT).arg("-I").arg(root().join("vmm/include"));
        compiler.arg(root().join(source)).arg("-o").arg(&program).args(self.link.arguments());
        succeeds(&mut compiler);
        program
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env("VMM_RUNTIME_DIR", self.path("run"))
            .env("VMM_DATA_DIR", self.path("data"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a program under valgrind, which it survives without a word: what it prints.
    fn valgrind(&self, program: &Path, arguments: &[&str]) -> String {
        let mut command = self.command("valgrind");
        command.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
        command.arg(program).args(arguments);
        succeeds(&mut command)
    }

    /// The machine `web`, which runs in this process as long as this is held.
    fn web(&self) -> VirtualMachine {
        let runtime = Runtime::at(self.path("run"));
        let pc = VirtualPc::at(Catalog::at(self.path("data"), runtime));
        let machine = pc.find_virtual_machine("web").unwrap().unwrap();
        let started = machine.startup().unwrap().wait_for_completion(60_000).unwrap();
        assert_eq!(started.error, HResult::S_OK, "{started:?}");
        machine
    }
}

/// Runs a command that must succeed without a complaint, and gives what it prints.
fn succeeds(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; `cargo xtask test` installs what is missing")
    });
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
    stdout
}

#[test]
fn the_header_is_strict_c_and_cpp_and_leaves_its_includer_the_names_he_has() {
    let include = root().join("vmm/include");
    let sources = root().join("tests/tests/c");
    let check = |compiler: &str, arguments: &[&str], file: &Path| {
        let mut command = Command::new(compiler);
        command.args(arguments).args(STRICT).arg("-fsyntax-only").arg("-I").arg(&include);
        succeeds(command.arg(file));
    };
    for file in ["names.c", "no_names.c"].map(|name| sources.join(name)) {
        for standard in ["-std=c99", "-std=c11", "-std=c17", "-std=gnu2x"] {
            check("cc", &[standard], &file);
        }
        for standard in ["-std=c++11", "-std=c++17", "-std=c++20"] {
            check("c++", &[standard, "-x", "c++"], &file);
        }
    }
}

#[test]
fn every_function_of_the_header_is_called_by_one_of_the_programs() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let header = read("vmm/include/vmm.h");
    let programs =
        ["pointers", "codes", "guest"].map(|name| read(&format!("tests/tests/c/{name}.c")));
    let programs = programs.concat();
    let declared = header.lines().filter(|line| !line.starts_with([' ', '#', '/']));
    let functions: Vec<&str> = declared
        .filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("vmm_"))
        .collect();
    assert!(functions.len() > 70, "{functions:?}");
    for function in functions {
        let called = programs.contains(&format!("{function}("))
            || programs.contains(&format!("({function},"));
        assert!(called, "{function} is never called");
    }
}

#[test]
fn what_is_null_or_no_text_or_of_the_wrong_size_is_refused_and_harms_nobody() {
    for link in Link::BOTH {
        let world = World::new(link);
        let program = world.program("tests/tests/c/pointers.c");
        assert_eq!(world.valgrind(&program, &[]), "");
    }
}

#[test]
fn each_call_has_its_documented_code_symbol_and_value() {
    for link in Link::BOTH {
        let world = World::new(link);
        let program = world.program("tests/tests/c/codes.c");
        let play = |scene: &[&str]| world.valgrind(&program, scene);
        assert_eq!(play(&["off", &world.kernel()]), "");
        let web = world.web();
        let said = play(&["on"]);
        if rustix::process::geteuid().is_root() {
            assert_eq!(said, "");
        } else {
            eprint!("{said}");
        }
        drop(web);
        assert_eq!(play(&["inside", &world.kernel()]), "");
        let guest = world.program("tests/tests/c/guest.c");
        let _guest = Scripted::new(&world.path("run"));
        assert_eq!(world.valgrind(&guest, &["twice", "GUEST"]), "");
        let again = world.valgrind(&guest, &["once", "guest"]);
        assert_eq!(again, "task 0x80070520 ERROR_NO_SUCH_LOGON_SESSION\n");
    }
}

#[test]
fn the_example_shows_progress_and_codes_and_leaks_nothing() {
    for link in Link::BOTH {
        let world = World::new(link);
        let program = world.program("vmm/examples/logoff.c");
        let _guest = Scripted::new(&world.path("run"));
        let printed = world.valgrind(&program, &["guest"]);
        let lines: Vec<&str> = printed.lines().collect();
        let place = |line: &str| {
            let found = lines.iter().position(|printed| printed.starts_with(line));
            found.unwrap_or_else(|| panic!("no {line:?}: {printed}"))
        };
        let order = [
            "logoff: 0x00000000 S_OK",
            "  0 %, can be cancelled",
            " 30 %",
            " 60 %",
            "100 %",
            "task 1: result 0, error 0x00000000 S_OK",
            "report: {",
        ]
        .map(place);
        assert!(order.is_sorted(), "{printed}");
        let again = world.valgrind(&program, &["guest"]);
        let nobody = "task 2: result 2, error 0x80070520 ERROR_NO_SUCH_LOGON_SESSION\n";
        assert!(again.contains(nobody), "{again}");

        let output = world.command(&program).arg("nothing").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("there is no machine nothing"));
    }
}
