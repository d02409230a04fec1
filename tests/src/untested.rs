//! What a test cannot try where it runs: it has passed all the same, so it has to be told beside that.
//!
//! A test that passes shows nothing of what it has printed. `cargo xtask test` names a file in the
//! environment, to which every test of every program adds a line.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;

/// The environment variable with the file's name.
pub const VARIABLE: &str = "VMM_NOT_TESTED";

/// Says that the test which calls this, on its own thread, does not try what it should, and why.
///
/// # Panics
/// The file cannot be written: a list without this line would say too much.
pub fn not_tested(why: &str) {
    eprintln!("NOT TESTED: {why}");
    if let Some(path) = std::env::var_os(VARIABLE) {
        tell(Path::new(&path), thread::current().name().unwrap_or_default(), why);
    }
}

fn tell(path: &Path, test: &str, why: &str) {
    let file = File::options().append(true).create(true).open(path);
    // In one piece: others write to it, too.
    let told = file.and_then(|mut file| file.write_all(format!("{test}\t{why}\n").as_bytes()));
    assert!(told.is_ok(), "{}: {told:?}", path.display());
}

/// The tests that have said so in the file at `path`, and why.
#[must_use]
pub fn heard(path: &Path) -> Vec<(String, String)> {
    // Where nobody had anything to say there is none.
    let text = fs::read_to_string(path).unwrap_or_default();
    let parts = text.lines().filter_map(|line| line.split_once('\t'));
    parts.map(|(test, why)| (test.into(), why.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_say_at_the_same_time_is_heard_whole() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("not-tested");
        assert_eq!(heard(&path), []);
        thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || (0..50).for_each(|_| tell(path, &format!("t{number}"), "so")));
            }
        });
        let heard = heard(&path);
        for number in 0..8 {
            let test = (format!("t{number}"), "so".to_owned());
            assert_eq!(heard.iter().filter(|one| **one == test).count(), 50);
        }
    }
}
