//! `cargo xtask c`: what C programs need, which is the header and the two libraries.
//!
//! The header is written from the sources in `vmm/src/ffi`, and kept in the tree so that nobody needs
//! this tool to read it.

use crate::Outcome;
use crate::build::{self, Programs, root};
use crate::run::{cargo, output, run_aside, say};
use crate::tools::{self, CC};
use anyhow::{Context, Result, ensure};
use cbindgen::{Builder, Config, EnumConfig, Language, RenameRule, Style};
use protocol::hresult::TABLE;
use protocol::task::LogoffOptions;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The sources, in the order of the header.
const SOURCES: [&str; 8] =
    ["code", "pc", "machine", "guest", "property", "task", "events", "pc_events"];
/// What begins the header.
const TOP: &str = "\
/*
 * The object model of vmm in C: machines, their guests, their tasks and their events.
 *
 *     vmm_pc_events <-- vmm_virtual_pc --> vmm_machine --> vmm_guest_os
 *                              |              |  |              |
 *                              |              |  +-> vmm_events |
 *                              +--------------+----> vmm_task <-+
 *
 * - Nearly every function answers with a code, which is negative if the call failed. What else it
 *   has to say it puts where an out pointer points to. If that is null the answer is E_POINTER, and
 *   nothing is done; if the call fails, null or 0 is put there, or -1 for a descriptor.
 *   vmm_last_error_text has the reasons of the calling thread's last failure, for people.
 * - An object that is given out has one reference. ..._add_ref counts one more and ..._release one
 *   less; with the last the object is gone. Objects keep what they need: they can be released in any
 *   order. A null object is ERROR_INVALID_HANDLE.
 * - Text is UTF-8. What is given out as char * is freed with vmm_string_free, and the caller's
 *   own is copied. Text that is null is E_POINTER where null is not allowed, and what is not UTF-8
 *   is E_INVALIDARG.
 * - A structure begins with its size, which the caller sets to sizeof before the call. What a caller
 *   of an older header does not know has its default; one of a newer header that asks for what the
 *   library does not know yet gets E_INVALIDARG.
 * - Truth is 1 or 0. Sizes are in bytes and times in milliseconds.
 * - Every function may be called from any thread at any time; only the release of an object's last
 *   reference must be the last use of it. Two threads that wait on one event queue take turns.
 * - The library never prints, installs signal handlers, forks or ends the process. A fault of its
 *   own does not get out of a call either: that is DISP_E_EXCEPTION.
 *
 * Each function has the codes that are particular to it; DISP_E_EXCEPTION, an unexpected error, is
 * possible with all of them.
 *
 * Link with -lvmm; with libvmm.a, also with -lm.
 *
 * Written by `cargo xtask c` from vmm/src/ffi: do not edit.
 */";

/// What is to be made.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the header.
    #[arg(long)]
    header: bool,
    /// Do not write the header, but fail if it is not what the sources give.
    #[arg(long)]
    check: bool,
    /// Libraries with optimization, as one wants them for use.
    #[arg(long)]
    release: bool,
}

/// `cargo xtask c`: prints where things are.
pub(crate) fn make(args: &Args) -> Outcome {
    let path = path();
    if args.check {
        ensure!(kept() == header()?, "{STALE}");
    } else {
        fs::create_dir_all(path.parent().context("it is in a folder")?)?;
        fs::write(&path, header()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{}", path.display());
    if !args.header {
        for library in libraries(args.release)? {
            println!("{}", library.display());
        }
        if !args.release {
            say("for use, make them with --release");
        }
    }
    Ok(0)
}

/// `libvmm.so` and `libvmm.a`. The crate takes these forms only here: every other build would have to
/// make them too.
fn libraries(release: bool) -> Result<[PathBuf; 2]> {
    tools::need(&[CC])?;
    let mut command = cargo();
    command
        .args(["rustc", "--quiet", "--package", "vmm", "--lib", "--no-default-features"])
        .args(["--crate-type", "cdylib,staticlib"])
        .args(release.then_some("--release"))
        .args(["--", "-Clink-arg=-Wl,-soname,libvmm.so"]);
    run_aside(command.current_dir(root()))?;
    let folder = build::target()?.join(if release { "release" } else { "debug" });
    Ok(["libvmm.so", "libvmm.a"].map(|library| folder.join(library)))
}

/// The programs in C that want a guest with an agent: their names, their sources, and the variables
/// that tell tests where they are.
pub(crate) const PROGRAMS: [(&str, &str, &str); 2] = [
    ("c-guest", "tests/tests/c/guest.c", "VMM_C_GUEST"),
    ("c-logoff", "vmm/examples/logoff.c", "VMM_C_LOGOFF"),
];

/// These programs, static as all that goes into the lab.
pub(crate) fn programs() -> Result<Programs> {
    let [_, archive] = libraries(false)?;
    let folder = build::target()?.join("c");
    fs::create_dir_all(&folder)?;
    let mut programs = Programs::new();
    for (name, source, _) in PROGRAMS {
        let program = folder.join(name);
        let mut compiler = Command::new("cc");
        compiler.args(["-std=c99", "-static", "-s", "-Ivmm/include", source, "-o"]);
        // What the linker has to say is that static programs find no users by name: none does.
        output(compiler.arg(&program).arg(&archive).arg("-lm").current_dir(root()))?;
        programs.insert(name.to_owned(), program);
    }
    Ok(programs)
}

/// Where the header is kept.
fn path() -> PathBuf {
    root().join("vmm/include/vmm.h")
}

/// The header that is kept.
fn kept() -> String {
    fs::read_to_string(path()).unwrap_or_default()
}

/// What is said when that is an old one.
const STALE: &str = "vmm/include/vmm.h is not what the sources give: run `cargo xtask c --header`";

/// The header, from the sources.
fn header() -> Result<String> {
    let config = Config {
        language: Language::C,
        style: Style::Both,
        header: Some(TOP.to_owned()),
        include_guard: Some("VMM_H".to_owned()),
        after_includes: Some(constants()?),
        sys_includes: vec!["stdint.h".to_owned()],
        no_includes: true,
        cpp_compat: true,
        usize_is_size_t: true,
        line_length: 100,
        enumeration: EnumConfig {
            rename_variants: RenameRule::QualifiedScreamingSnakeCase,
            ..EnumConfig::default()
        },
        ..Config::default()
    };
    let mut builder = Builder::new().with_config(config);
    for file in SOURCES {
        builder = builder.with_src(root().join(format!("vmm/src/ffi/{file}.rs")));
    }
    let mut header = Vec::new();
    builder.generate().context("the sources of the header")?.write(&mut header);
    Ok(names_of_c(&String::from_utf8(header)?))
}

/// Writes the types' names as C has them: `VmmTaskInfo` becomes `vmm_task_info`.
fn names_of_c(header: &str) -> String {
    let words = header.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut text = String::new();
    for word in words {
        if !word.starts_with("Vmm") {
            text += word;
            continue;
        }
        for (place, letter) in word.char_indices() {
            if letter.is_ascii_uppercase() && place > 0 {
                text.push('_');
            }
            text.push(letter.to_ascii_lowercase());
        }
    }
    text
}

/// What the sources have as tables: the codes, and defaults.
fn constants() -> Result<String> {
    let mut text = String::from(
        "
/*
 * The codes: values and meanings of the Windows Virtual PC API.
 *
 * Each has a name of ours, which begins with VMM_. Those with a name of their own there have that one
 * here as well, unless it is defined already, or VMM_NO_SHORT_NAMES is. (ERROR_... have not: on
 * Windows those are the numbers that these codes are made of.)
 */
",
    );
    for (code, symbol, meaning) in TABLE {
        writeln!(text, "/** {meaning} */\n#define VMM_{symbol} ((vmm_hresult)0x{:08X})", code.0)?;
    }
    text += "\n#ifndef VMM_NO_SHORT_NAMES\n";
    for (_, symbol, _) in TABLE.iter().filter(|(_, symbol, _)| !symbol.starts_with("ERROR_")) {
        writeln!(text, "#ifndef {symbol}\n#define {symbol} VMM_{symbol}\n#endif")?;
    }
    text += "#endif /* VMM_NO_SHORT_NAMES */\n";
    let LogoffOptions { grace_ms, notice_ms, deadline_ms } = LogoffOptions::default();
    write!(
        text,
        "
/** Whether a code stands for a failure. */
#define VMM_FAILED(code) ((code) < 0)

/** All defaults: struct vmm_logoff_options options = VMM_LOGOFF_OPTIONS_INIT; */
#define VMM_LOGOFF_OPTIONS_INIT \\
    {{ sizeof(struct vmm_logoff_options), {grace_ms}, {notice_ms}, {deadline_ms} }}"
    )?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_that_is_kept_is_what_the_sources_give() {
        assert!(kept() == header().unwrap(), "{STALE}");
    }

    #[test]
    fn types_have_the_names_that_c_is_used_to() {
        let rust = "enum VmmVmState *state; VMM_VmmX(VmmOsVersionInfo";
        assert_eq!(names_of_c(rust), "enum vmm_vm_state *state; VMM_VmmX(vmm_os_version_info");
    }
}
