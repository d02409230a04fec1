//! The cases of hostile input, and the tests that hold them.
//!
//! A test that plays a case is named `case_NN_...`, wherever it is: against the monitor's own process
//! (`tests/tests/hostile`), or beside the code that it is about. The names are found in the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// What the tests' names begin with.
const PREFIX: &str = "case_";
/// Where the sources are, from the workspace's root.
const SOURCES: [&str; 4] = ["guest-agent", "protocol", "tests", "vmm"];

/// What is tried, by who tries it; the cases are numbered from 1 through all groups.
pub const CASES: [(&str, &[&str]); 6] = [
    (
        "A guest's driver, in the rings",
        &[
            "a chain that links to itself",
            "a chain longer than its queue",
            "tables of descriptors in tables, of no size, of an odd size, of more than 4 GiB",
            "buffers of no bytes, and of 4 GiB",
            "buffers outside of RAM, in its hole, around the end of all addresses, over the ring",
            "a descriptor behind the table",
            "an available index that runs ahead, goes back, or changes while it is read",
            "a ring outside of RAM, or misaligned",
            "a buffer to write where one to read is due, and the reverse",
            "queues of no size, of an odd one, of more than there may be",
            "registers written at the wrong time, queues that are not there",
            "resets in flight, ten thousand of them; status bits taken back",
            "features that were not offered, steps that are left out",
            "lies about when the driver wants to be told",
            "PCI where there is none",
        ],
    ),
    (
        "A guest's driver, at the vsock device",
        &[
            "a length that is not the payload's, headers and payloads in many pieces",
            "packets of unknown kinds",
            "a false source, a destination that nobody has",
            "packets that fit no state of their connection",
            "credit that is none, shrinks, overflows, or is not kept to",
            "storms of resets and requests, more connections than there may be, ports used at once",
            "no buffers to receive into, or tiny ones",
            "a host program that stalls, closes, half closes, floods",
            "a stuck program, which must cost no time",
        ],
    ),
    (
        "A guest's processor",
        &[
            "every width, offset and repetition at every port and register, and where nobody is",
            "triple faults, halts for ever, storms of power-offs and resets",
            "a flood on the console that nobody reads",
            "garbage at the keyboard's controller and in the ACPI registers",
            "probing of CPUID and of model-specific registers",
            "hypercalls",
        ],
    ),
    (
        "Images and definitions",
        &[
            "every truncated prefix of a kernel, and of an initrd",
            "an ELF file whose counts, offsets, sizes or addresses lie",
            "a bzImage whose sizes lie, or that unpacks without end",
            "an initrd larger than RAM, one that is no file, files that shrink",
            "command lines that no kernel can read",
            "memory and processors that no machine can have",
            "definitions with unknown keys, overflows, names that are paths or taken",
            "a raw disk into which the guest writes the header of another format",
        ],
    ),
    (
        "Clients of the control socket, and the host",
        &[
            "bytes that trickle, announced gigabytes, documents that are no requests",
            "a thousand idle clients, clients that die, two who race through all verbs",
            "something else in the socket's place, paths too long, wrong owners and modes",
            "signals without end; no room, no descriptors, no memory at every step",
            "another user without rights",
        ],
    ),
    (
        "An agent",
        &[
            "frames of no length, of 4 GiB, byte by byte, without an end",
            "unknown versions, messages and fields",
            "replies to what was not asked, given twice, or of another connection or boot",
            "a million events, work without end, progress that goes back",
            "success while sessions remain",
            "words that steer a terminal, are no text, are too long, are paths",
            "two agents, one that restarts, a process without privilege that poses as one",
            "the end of the machine in the middle of every call",
        ],
    ),
];

/// What came of tests, by their names as they were when they ran.
#[derive(Default)]
pub struct Results {
    /// Those that have passed.
    pub passed: Vec<String>,
    /// Those that have passed without having tried all that they should, and what not.
    pub not_tested: Vec<(String, String)>,
}

/// The tests of each case.
pub type Found = BTreeMap<usize, Vec<String>>;

/// Finds the tests in the sources below `root`, the workspace.
#[must_use]
pub fn find(root: &Path) -> Found {
    let mut found = Found::new();
    for folder in SOURCES {
        search(&root.join(folder), &mut found);
    }
    for tests in found.values_mut() {
        tests.sort();
    }
    found
}

fn search(folder: &Path, found: &mut Found) {
    // What cannot be read has no tests.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            search(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            for name in text.lines().filter_map(function) {
                if let Some(number) = number(name) {
                    found.entry(number).or_default().push(name.to_owned());
                }
            }
        }
    }
}

/// The function that a line of source begins, if its name has the prefix.
fn function(line: &str) -> Option<&str> {
    let name = line.trim_start().strip_prefix("fn ")?;
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    name[..end].starts_with(PREFIX).then_some(&name[..end])
}

/// The number of the case that a test of this name plays.
fn number(name: &str) -> Option<usize> {
    let (number, _) = name.strip_prefix(PREFIX)?.split_once('_')?;
    number.parse().ok()
}

/// The list of all cases, in Markdown. With the results of the tests it says which of them are held.
#[must_use]
pub fn table(results: Option<(&Found, &Results)>) -> String {
    let mut text = String::new();
    let mut number = 0;
    for (group, titles) in CASES {
        let head = if results.is_some() {
            "| case | what is tried | tests |"
        } else {
            "| case | what is tried |"
        };
        let line = if results.is_some() { "|---|---|---|" } else { "|---|---|" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "### {group}\n\n{head}\n{line}");
        for title in titles {
            number += 1;
            let _ = match results {
                None => writeln!(text, "| {number} | {title} |"),
                Some((found, results)) => {
                    let tests = found.get(&number).map_or(&[][..], Vec::as_slice);
                    writeln!(text, "| {number} | {title} | {} |", verdict(tests, results))
                }
            };
        }
        text.push('\n');
    }
    text
}

/// How many of `tests` have passed, which have not, and what those that have did not try.
fn verdict(tests: &[String], results: &Results) -> String {
    let is = |name: &str, test: &str| name.rsplit("::").next() == Some(test);
    let has_passed = |test: &String| results.passed.iter().any(|name| is(name, test));
    let missing: Vec<&str> =
        tests.iter().filter(|test| !has_passed(test)).map(String::as_str).collect();
    let here = |name: &str| tests.iter().any(|test| is(name, test));
    let untried = results.not_tested.iter().filter(|(name, _)| here(name));
    let untried: BTreeSet<&str> = untried.map(|(_, what)| what.as_str()).collect();
    let text = match (tests.len(), missing.as_slice()) {
        (0, _) => "NONE".into(),
        (count, []) => format!("{count} ok"),
        (count, missing) => {
            format!("{} of {count} ok; not passed: {}", count - missing.len(), missing.join(", "))
        }
    };
    if untried.is_empty() {
        return text;
    }
    format!("{text}, but for: {}", untried.into_iter().collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is around this crate")
    }

    #[test]
    fn the_list_in_the_documentation_is_this_one() {
        let text = include_str!("../../docs/hostile.md");
        let (_, rest) = text.split_once("<!-- cases -->\n").expect("the list has a beginning");
        let (shown, _) = rest.split_once("<!-- end of cases -->").expect("and an end");
        let table = table(None);
        assert_eq!(shown.trim(), table.trim(), "the documentation is to show\n{table}");
    }

    #[test]
    fn each_case_has_a_test_and_each_test_a_case() {
        let found = find(root());
        let count: usize = CASES.iter().map(|(_, titles)| titles.len()).sum();
        for (number, tests) in &found {
            assert!((1..=count).contains(number), "there is no case for {tests:?}");
        }
        // One suite may be taken out; then its cases are missing as a whole.
        let vsock = root().join("tests/tests/hostile/vsock.rs").exists();
        let without = (1..=count).filter(|number| !found.contains_key(number));
        let without: Vec<usize> = without.filter(|n| vsock || !(16..=24).contains(n)).collect();
        assert!(without.is_empty(), "no test plays {without:?}");
    }

    #[test]
    fn a_test_counts_only_if_it_has_passed() {
        let found = Found::from([
            (1, vec!["case_01_a".into(), "case_01_b".into()]),
            (2, vec!["case_02_a".into()]),
        ]);
        let passed = ["chains::case_01_a".to_owned(), "case_02_a".to_owned(), "case_02".to_owned()];
        let results = Results { passed: passed.into(), not_tested: Vec::new() };
        let table = table(Some((&found, &results)));
        assert!(table.contains("itself | 1 of 2 ok; not passed: case_01_b |"), "{table}");
        assert!(table.contains("| 2 | a chain longer than its queue | 1 ok |"), "{table}");
        assert!(
            table.contains("| 51 | the end of the machine in the middle of every call | NONE |")
        );
    }

    #[test]
    fn what_a_test_has_not_tried_is_told_beside_its_case_and_no_other() {
        let found =
            Found::from([(1, vec!["case_01_a".into(), "case_01_b".into()]), (2, Vec::new())]);
        let passed = ["chains::case_01_a", "case_01_b"].map(str::to_owned).into();
        let not = |test: &str, what: &str| (test.to_owned(), what.to_owned());
        let not_tested = vec![
            not("chains::case_01_a", "networks"),
            not("case_01_b", "networks"),
            not("case_01_b", "jails"),
            not("case_01", "nothing"),
        ];
        let table = table(Some((&found, &Results { passed, not_tested })));
        assert!(table.contains("itself | 2 ok, but for: jails; networks |"), "{table}");
        assert_eq!(table.matches("but for").count(), 1, "{table}");
    }

    #[test]
    fn a_test_is_a_function_whose_name_begins_with_its_case() {
        assert_eq!(function("    fn case_07_x(y: u8) {"), Some("case_07_x"));
        assert_eq!(function("// fn case_07_x()"), None);
    }
}
