//! `vmm --help`, grouped by what one wants to do; completions and manual pages.

use crate::args::Args;
use crate::output::{Failure, Outcome, print_raw};
use clap::builder::styling::Styles;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use protocol::HResult;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

/// What one wants to do, and the verbs for it.
const GROUPS: &[(&str, &[&str])] = &[
    ("Keep machines", &["create", "register", "unregister", "rm"]),
    ("Run machines", &["start", "run", "stop", "reset", "pause", "resume", "balloon", "console"]),
    ("Look", &["ls", "show", "info", "events"]),
    ("Work with the guest", &["users", "logoff", "shutdown", "restart", "param", "integration"]),
    ("Follow work", &["task"]),
    ("This host", &["doctor", "completions", "man"]),
];

/// The command, whose help is grouped.
pub(crate) fn command() -> Command {
    let command = Args::command();
    let verbs = overview(&command);
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{verbs}{}\n{{options}}{{after-help}}",
        heading("Options")
    ))
}

fn heading(text: &str) -> String {
    let style = Styles::styled();
    let header = style.get_header();
    format!("{header}{text}:{header:#}")
}

/// The verbs, grouped.
fn overview(command: &Command) -> String {
    let widest = GROUPS.iter().flat_map(|(_, verbs)| *verbs).map(|verb| verb.len()).max();
    let width = widest.unwrap_or(0);
    let style = Styles::styled();
    let literal = style.get_literal();
    let mut text = String::new();
    for (group, verbs) in GROUPS {
        let _ = writeln!(text, "{}", heading(group));
        for verb in *verbs {
            let about = command.find_subcommand(verb).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {literal}{verb:width$}{literal:#}  {about}");
        }
        text.push('\n');
    }
    text
}

pub(crate) fn completions(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "vmm", &mut script);
    print_raw(&script);
    Ok(0)
}

/// Writes a page for each verb and one for the command.
pub(crate) fn manual(directory: &Path) -> Outcome {
    let written = fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Args::command(), directory));
    written.map_err(|error: io::Error| Failure {
        code: match error.kind() {
            io::ErrorKind::PermissionDenied => HResult::ERROR_ACCESS_DENIED,
            _ => HResult::DISP_E_EXCEPTION,
        },
        exit: 1,
        text: format!("cannot write manual pages to {}: {error}", directory.display()),
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Format, Verb, read_run};
    use clap::Parser;
    use std::ffi::OsString;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn the_readme_lists_each_verb_and_no_other() {
        let readme = include_str!("../../../../README.md");
        let begin = readme.find("`vmm create|").unwrap();
        let list = readme[begin..].split(';').next().unwrap();
        let words = list.split(|c: char| !c.is_ascii_lowercase()).filter(|word| !word.is_empty());
        let mut listed: Vec<&str> = words.filter(|word| *word != "vmm").collect();
        // These have a sentence of their own.
        listed.extend(["completions", "man"]);
        let mut verbs: Vec<&str> = GROUPS.iter().flat_map(|(_, verbs)| *verbs).copied().collect();
        listed.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(listed, verbs);
    }

    /// The command lines of this command in the text after a verb's help, in words.
    fn examples(verb: &Command) -> Vec<Vec<String>> {
        let text = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = text.lines().map(|line| line.trim_start_matches("Example: ").trim());
        let shown = lines.filter(|line| line.starts_with("vmm ") || line.contains("| vmm "));
        let commands = shown.flat_map(|line| line.split(['|', '>']).flat_map(|c| c.split("&&")));
        commands.map(str::trim).filter(|c| c.starts_with("vmm ")).map(words).collect()
    }

    /// A command line in words, as a shell has them.
    fn words(line: &str) -> Vec<String> {
        let quoted = line.split('\'').enumerate();
        let parts = quoted.flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        });
        parts.collect()
    }

    fn check_examples(verb: &Command, path: &[&str]) {
        let mut verbs = verb.get_subcommands().filter(|verb| verb.get_name() != "help").peekable();
        if verbs.peek().is_some() {
            return verbs
                .for_each(|verb| check_examples(verb, &[path, &[verb.get_name()]].concat()));
        }
        let examples = examples(verb);
        let shows = |words: &Vec<String>| words.iter().skip(1).zip(path).all(|(a, b)| a == b);
        assert!(examples.iter().any(shows), "{path:?} has no example");
        for words in examples {
            let read = Args::try_parse_from(&words);
            assert!(read.is_ok(), "{words:?}: {}", read.err().unwrap());
            let words: Vec<OsString> = words.iter().map(Into::into).collect();
            let alone = read_run(&words).map(|args| args.verb);
            assert_eq!(matches!(alone, Some(Verb::Run(_))), words[1] == "run", "{words:?}");
        }
    }

    #[test]
    fn each_verb_has_an_example_and_each_example_can_be_read() {
        assert_eq!(words("vmm run --append 'a b' -x"), ["vmm", "run", "--append", "a b", "-x"]);
        check_examples(&Args::command(), &[]);
    }

    #[test]
    fn what_is_not_a_line_of_run_alone_is_read_among_all_verbs() {
        for line in
            ["vmm", "vmm ls", "vmm run", "vmm run --help", "vmm run --nonsense", "vmm help run"]
        {
            let words: Vec<OsString> = words(line).into_iter().map(Into::into).collect();
            assert!(read_run(&words).is_none(), "{line}");
        }
        let words = ["vmm", "run", "web", "--format", "json"].map(OsString::from);
        assert_eq!(read_run(&words).unwrap().format, Format::Json);
    }

    #[test]
    fn no_line_of_help_that_is_meant_as_one_is_longer_than_80_columns() {
        fn check(verb: &Command) {
            let text = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", verb.get_name());
            }
            verb.get_subcommands().for_each(check);
        }
        check(&Args::command());
    }

    #[test]
    fn each_verb_is_in_one_group_and_its_line_fits_80_columns() {
        let command = Args::command();
        let shown = command.get_subcommands().filter(|verb| !verb.is_hide_set());
        let mut verbs: Vec<&str> = shown.map(Command::get_name).collect();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, verbs)| *verbs).copied().collect();
        verbs.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(verbs, grouped);
        let help = self::command().render_help().to_string();
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
