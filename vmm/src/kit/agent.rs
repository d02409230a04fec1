//! The agent as a file of this host: where it is looked for, and what it must be.
//!
//! It goes into guests of every distribution, so it must be a static program, which needs neither a
//! loader nor libraries of theirs. The file comes from wherever the monitor was installed; it is
//! read once, up to a bound, and nothing in it is believed beyond what is checked here.

use crate::config::Components;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The file's name.
pub const AGENT: &str = "vmm-agent";
/// The variable that names the file; nowhere else is it looked for then.
pub const VARIABLE: &str = "VMM_AGENT";
/// The most bytes that it may have.
pub const AGENT_MAX: usize = 16 << 20;

/// What the program prints before its version, and how long that may be.
const NAME: &[u8] = b"vmm-agent ";
const VERSION_MAX: usize = 32;

/// Where packages put it, for a monitor that is somewhere else.
const PACKAGED: &str = "/usr/lib/vmm/vmm-agent";

/// Why a file is not taken for the agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentFault {
    /// It is not there.
    #[error("there is none")]
    Missing,
    /// It cannot be opened or read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It is a directory, a device, a pipe.
    #[error("it is not a regular file")]
    Kind,
    /// It is longer than any agent.
    #[error("it has more than {AGENT_MAX} bytes")]
    TooLarge,
    /// It is no program for guests of this kind.
    #[error("it is not a program for x86-64 Linux")]
    Program,
    /// It would need what the guest may not have.
    #[error("it is linked dynamically, and guests may not have its libraries: build it statically")]
    Dynamic,
}

/// A file that is not taken for the agent.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct AgentError {
    /// Where it was looked for.
    pub path: PathBuf,
    /// Why it is not taken.
    #[source]
    pub fault: AgentFault,
}

/// No file that can be taken for the agent: every place, and what is wrong there.
#[derive(Debug)]
pub struct NoAgent(pub Vec<AgentError>);

impl fmt::Display for NoAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no agent to bring along: ")?;
        for (index, error) in self.0.iter().enumerate() {
            let between = if index > 0 { "; " } else { "" };
            write!(f, "{between}{}", crate::error::chain(error))?;
        }
        Ok(())
    }
}

impl std::error::Error for NoAgent {}

/// The agent.
#[derive(Debug)]
pub struct AgentFile {
    /// Where it is.
    pub path: PathBuf,
    /// The program.
    pub program: Vec<u8>,
}

impl AgentFile {
    /// The agent that comes with this monitor: the file that the variable [`VARIABLE`] names, or
    /// the first of those beside the running program, in `../lib/vmm` from there, and in
    /// `/usr/lib/vmm`.
    ///
    /// # Errors
    /// There is none that can be taken.
    pub fn find() -> Result<Self, NoAgent> {
        Self::find_in(&places_of(&Components::Auto))
    }

    /// The version that the program would print: `vmm-agent `, numbers with dots and a line feed
    /// stand in it.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        let begins = self.program.windows(NAME.len()).enumerate();
        begins.filter(|(_, bytes)| *bytes == NAME).find_map(|(at, _)| {
            let rest = self.program.get(at + NAME.len()..)?;
            let line = rest.iter().take(VERSION_MAX + 1).position(|byte| *byte == b'\n')?;
            let text = std::str::from_utf8(&rest[..line]).ok()?;
            let numbers = text.split('.').filter(|part| part.parse::<u32>().is_ok()).count();
            (numbers == 3 && text.split('.').count() == 3).then(|| text.to_owned())
        })
    }

    fn find_in(places: &[PathBuf]) -> Result<Self, NoAgent> {
        let mut errors = Vec::new();
        for path in places {
            match Self::read(path) {
                Ok(agent) => return Ok(agent),
                Err(error) => errors.push(error),
            }
        }
        Err(NoAgent(errors))
    }

    /// The agent at `path`.
    ///
    /// # Errors
    /// It cannot be taken.
    pub fn read(path: &Path) -> Result<Self, AgentError> {
        match read(path) {
            Ok(program) => Ok(Self { path: path.to_owned(), program }),
            Err(fault) => Err(AgentError { path: path.to_owned(), fault }),
        }
    }
}

/// Where this program is. In a jail that cannot be found out any more.
static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Finds out where this program is, as long as that can be.
pub(crate) fn remember_program() -> Option<&'static Path> {
    PROGRAM.get_or_init(|| env::current_exe().ok()).as_deref()
}

/// Where the agent is looked for, for a machine that is to have these `components`.
pub(crate) fn places_of(components: &Components) -> Vec<PathBuf> {
    match components {
        Components::Off => Vec::new(),
        Components::Agent(path) => vec![path.clone()],
        Components::Auto => places(env::var_os(VARIABLE), remember_program()),
    }
}

/// Where the agent is looked for, by the variable and from the running program's place.
fn places(named: Option<OsString>, program: Option<&Path>) -> Vec<PathBuf> {
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        return vec![named.into()];
    }
    let folder = program.and_then(Path::parent);
    let near = folder.into_iter().flat_map(|folder| {
        let installed = folder.parent().map(|above| above.join("lib/vmm").join(AGENT));
        [Some(folder.join(AGENT)), installed]
    });
    let mut places: Vec<PathBuf> = near.flatten().collect();
    if !places.iter().any(|place| place == Path::new(PACKAGED)) {
        places.push(PACKAGED.into());
    }
    places
}

fn read(path: &Path) -> Result<Vec<u8>, AgentFault> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => AgentFault::Missing,
        _ => AgentFault::Read(error),
    };
    // A device may do something when it is opened, and a pipe may wait.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(AgentFault::Kind);
    }
    let mut program = Vec::new();
    if metadata.len() <= AGENT_MAX as u64 {
        // It may grow meanwhile, and files of some file systems are longer than they say.
        file.take(AGENT_MAX as u64 + 1).read_to_end(&mut program).map_err(unreadable)?;
    }
    if metadata.len() > AGENT_MAX as u64 || program.len() > AGENT_MAX {
        return Err(AgentFault::TooLarge);
    }
    check(&program)?;
    Ok(program)
}

const IDENT: &[u8] = b"\x7fELF\x02\x01";
const EXECUTABLE: u16 = 2;
const SHARED_OBJECT: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const PROGRAM_HEADER: usize = 56;
const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;

/// Whether a kernel can run `program` without anything else (the ELF specification, and its
/// supplement for x86-64): something is to be loaded, and no interpreter is asked for.
fn check(program: &[u8]) -> Result<(), AgentFault> {
    let half = |at: usize| {
        let bytes = program.get(at..)?.first_chunk()?;
        Some(u16::from_le_bytes(*bytes))
    };
    let known = program.starts_with(IDENT)
        && matches!(half(16), Some(EXECUTABLE | SHARED_OBJECT))
        && half(18) == Some(MACHINE_X86_64)
        && half(54).map(usize::from) == Some(PROGRAM_HEADER);
    if !known {
        return Err(AgentFault::Program);
    }
    let table = program.get(32..).and_then(|rest| rest.first_chunk());
    let table = table.and_then(|at| usize::try_from(u64::from_le_bytes(*at)).ok());
    let length = half(56).map(|count| usize::from(count) * PROGRAM_HEADER);
    let headers = table.zip(length).and_then(|(at, length)| program.get(at..)?.get(..length));
    let headers = headers.ok_or(AgentFault::Program)?;
    let kinds = headers.chunks(PROGRAM_HEADER).filter_map(|header| header.first_chunk());
    let kinds: Vec<u32> = kinds.map(|kind| u32::from_le_bytes(*kind)).collect();
    if kinds.contains(&INTERPRETER) {
        return Err(AgentFault::Dynamic);
    }
    if kinds.contains(&LOAD) { Ok(()) } else { Err(AgentFault::Program) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    /// The least that passes for a static program.
    pub(in crate::kit) fn program(kinds: &[u32]) -> Vec<u8> {
        let mut program = IDENT.to_vec();
        program.resize(64, 0);
        program[16] = 3;
        program[18] = 62;
        program[32] = 64;
        program[54] = 56;
        program[56] = u8::try_from(kinds.len()).unwrap();
        for kind in kinds {
            program.extend(kind.to_le_bytes());
            program.resize(program.len() + 52, 0);
        }
        program
    }

    fn words(error: &AgentError) -> String {
        crate::error::chain(error)
    }

    #[test]
    fn a_static_program_is_taken_also_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, program(&[6, 1, 1])).unwrap();
        symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            let agent = AgentFile::read(path).unwrap();
            assert_eq!((&agent.path, agent.program), (path, program(&[6, 1, 1])));
        }
    }

    #[test]
    fn what_is_no_static_program_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("directory")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        symlink(at("loop"), at("loop")).unwrap();
        fs::write(at("empty"), []).unwrap();
        fs::write(at("text"), "#!/bin/sh\n").unwrap();
        fs::write(at("dynamic"), program(&[1, 3, 1])).unwrap();
        fs::write(at("nothing"), program(&[])).unwrap();
        let mut arm = program(&[1]);
        arm[18] = 183;
        fs::write(at("arm"), arm).unwrap();
        let mut short = program(&[1, 1]);
        short.truncate(64 + 56);
        fs::write(at("short"), short).unwrap();
        let mut far = program(&[1]);
        far[32..40].fill(0xff);
        fs::write(at("far"), far).unwrap();
        File::create(at("huge")).unwrap().set_len(1 << 40).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        for (name, reason) in [
            ("nowhere", "there is none"),
            ("text/below", "there is none"),
            ("dangling", "there is none"),
            ("loop", "it cannot be read"),
            ("socket", "it cannot be read"),
            ("directory", "it is not a regular file"),
            ("pipe", "it is not a regular file"),
            ("huge", "bytes"),
            ("empty", "it is not a program"),
            ("text", "it is not a program"),
            ("arm", "it is not a program"),
            ("short", "it is not a program"),
            ("far", "it is not a program"),
            ("nothing", "it is not a program"),
            ("dynamic", "it is linked dynamically"),
        ] {
            let said = words(&AgentFile::read(&at(name)).unwrap_err());
            assert!(said.contains(reason) && said.contains(name), "{name}: {said}");
        }
        let said = words(&AgentFile::read(Path::new("/dev/zero")).unwrap_err());
        assert!(said.contains("it is not a regular file"), "{said}");
    }

    #[test]
    fn the_version_is_what_the_program_would_print() {
        let version = |text: &str| {
            let program = [program(&[1]), text.into()].concat();
            AgentFile { path: "".into(), program }.version()
        };
        assert_eq!(version("vmm-agent x\nvmm-agent 1.20.3\nusage"), Some("1.20.3".into()));
        for text in ["", "vmm-agent ", "vmm-agent 1.2\n", "vmm-agent 1.2.3", "vmm-agent 1.2.x\n"] {
            assert_eq!(version(text), None, "{text}");
        }
    }

    #[test]
    fn no_part_of_a_program_makes_the_check_panic() {
        let whole = program(&[6, 1, 3]);
        for length in 0..whole.len() {
            assert!(check(&whole[..length]).is_err());
        }
    }

    #[test]
    fn it_is_looked_for_where_it_is_installed_and_only_there_where_the_variable_says() {
        let program = Path::new("/opt/vmm/bin/vmm");
        let usual = places(None, Some(program));
        let expected =
            ["/opt/vmm/bin/vmm-agent", "/opt/vmm/lib/vmm/vmm-agent", "/usr/lib/vmm/vmm-agent"];
        assert_eq!(usual, expected.map(PathBuf::from));
        assert_eq!(places(Some("".into()), Some(program)), usual, "an empty one says nothing");
        assert_eq!(places(Some("/a".into()), Some(program)), [PathBuf::from("/a")]);
        assert_eq!(places(None, Some(Path::new("/usr/bin/vmm"))).len(), 2);
        assert_eq!(places(None, None), [PathBuf::from(PACKAGED)]);
    }

    #[test]
    fn the_first_that_can_be_taken_is_and_else_all_places_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let places = ["a", "b", "c"].map(|name| folder.path().join(name));
        fs::write(&places[1], "text").unwrap();
        fs::write(&places[2], program(&[1])).unwrap();
        assert_eq!(AgentFile::find_in(&places).unwrap().path, places[2]);
        let said = AgentFile::find_in(&places[..2]).unwrap_err().to_string();
        let expected = format!(
            "no agent to bring along: {}: there is none; {}: it is not a program for x86-64 Linux",
            places[0].display(),
            places[1].display()
        );
        assert_eq!(said, expected);
    }
}
