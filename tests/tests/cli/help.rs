//! What the command says of itself: help, completions, manual pages, colours.

use crate::terminal::terminal;
use crate::world::{VMM, World, wait};
use std::fs;
use std::fs::File;
use std::io::Read;
use std::process::Stdio;

/// Every verb, also those of verbs.
const VERBS: &[&[&str]] = &[
    &["create"],
    &["register"],
    &["unregister"],
    &["rm"],
    &["start"],
    &["run"],
    &["stop"],
    &["reset"],
    &["pause"],
    &["balloon"],
    &["resume"],
    &["console"],
    &["ls"],
    &["show"],
    &["info"],
    &["events"],
    &["users"],
    &["logoff"],
    &["shutdown"],
    &["restart"],
    &["integration", "show"],
    &["integration", "install"],
    &["param", "get"],
    &["param", "set"],
    &["task", "ls"],
    &["task", "show"],
    &["task", "wait"],
    &["task", "cancel"],
    &["doctor"],
    &["completions"],
    &["man"],
];

#[test]
fn help_is_grouped_and_has_an_example_for_each_verb() {
    let world = World::new();
    let whole = world.vmm(&["--help"]).stdout;
    assert!(whole.contains("Exit codes"));
    for group in ["Keep machines", "Run machines", "Look", "Work with the guest", "Follow work"] {
        assert!(whole.contains(&format!("{group}:\n")), "{whole}");
    }
    for verb in VERBS {
        let help = world.vmm(&[*verb, &["--help"]].concat());
        assert_eq!(help.code, Some(0));
        assert!(help.stdout.contains("Example"), "{verb:?}: {}", help.stdout);
        assert!(whole.contains(&format!("\n  {}", verb[0])), "{verb:?}: {whole}");
    }
}

#[test]
fn there_is_a_manual_page_for_each_verb() {
    let world = World::new();
    let directory = world.folder.path().join("man/man1");
    assert_eq!(world.vmm(&["man", directory.to_str().unwrap()]).code, Some(0));
    for verb in VERBS {
        let page = fs::read_to_string(directory.join(format!("vmm-{}.1", verb.join("-")))).unwrap();
        assert!(page.starts_with(".ie") && page.contains("Example"), "{page}");
    }
    assert!(fs::read_to_string(directory.join("vmm.1")).unwrap().contains("Exit codes"));
    let taken = world.file("taken", b"");
    let (exit, _, text) = world.json(&["man", &taken]).refusal();
    assert_eq!(exit, Some(1));
    assert!(text.contains(&taken), "{text}");
}

#[test]
fn completions_know_the_verbs_in_each_shell() {
    let world = World::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = world.vmm(&["completions", shell]);
        assert_eq!(script.code, Some(0));
        for verb in ["logoff", "console", "ok-if-none"] {
            assert!(script.stdout.contains(verb), "{shell}: {verb}");
        }
    }
}

/// What the command says on standard error when that is a terminal.
fn on_terminal(arguments: &[&str], set: &[(&str, &str)]) -> String {
    let world = World::new();
    let (mut person, program) = terminal();
    let mut command = world.command(VMM);
    command.args(arguments).env("TERM", "xterm").env_remove("NO_COLOR").envs(set.iter().copied());
    let mut child = command.stdout(Stdio::null()).stderr(program).spawn().unwrap();
    wait(&mut child);
    drop(command);
    printed(&mut person)
}

/// What was printed on a terminal that no program has open any more.
fn printed(person: &mut File) -> String {
    let mut text = Vec::new();
    // The end of a terminal is an error.
    let _ = person.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn colours_are_for_terminals_whose_user_wants_them() {
    for arguments in [&["users", "web"][..], &["explode"]] {
        let wanted = on_terminal(arguments, &[]);
        assert!(wanted.contains("error:") && wanted.contains('\x1b'), "{wanted:?}");
        let unwanted = on_terminal(arguments, &[("NO_COLOR", "1")]);
        assert!(unwanted.starts_with("error:") && !unwanted.contains('\x1b'), "{unwanted:?}");
        let elsewhere = World::new().vmm(arguments).stderr;
        assert!(elsewhere.starts_with("error:") && !elsewhere.contains('\x1b'), "{elsewhere:?}");
    }
}
