//! The corpus of each target, played again: what the fuzzers have found interesting, and what they
//! have found wrong, holds with every compiler.

use super::{TARGETS, Target};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

fn corpus() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus").into()
}

/// Plays the folder `name`, whose inputs are given to `target` one by one.
fn play(name: &str, target: Target) {
    let mut played = 0;
    for entry in fs::read_dir(corpus().join(name)).expect("the target has a corpus") {
        let path = entry.expect("it can be listed").path();
        let data = fs::read(&path).expect("it can be read");
        // A panic says where; this says with what.
        println!("{}", path.display());
        target(&data);
        played += 1;
    }
    assert!(played > 0, "the corpus of {name} is empty");
}

macro_rules! replayed {
    ($($target:ident),* $(,)?) => {$(
        #[test]
        fn $target() {
            let (name, target) = TARGETS
                .into_iter()
                .find(|(name, _)| *name == stringify!($target))
                .expect("there is such a target");
            play(name, target);
        }
    )*

    const REPLAYED: &[&str] = &[$(stringify!($target)),*];
    };
}

/// Each plays its corpus without a panic.
mod the_corpus_holds_for {
    use super::{TARGETS, play};

    replayed!(
        agent_frames,
        balloon,
        block,
        console,
        definition,
        host_frames,
        hybrid,
        kernel,
        net,
        qcow2,
        rng,
        unpack,
        vsock,
        vsock_queues,
    );

    pub(super) fn all() -> &'static [&'static str] {
        REPLAYED
    }
}

#[test]
fn every_target_has_a_program_a_corpus_and_a_test_that_plays_it() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names = |folder: PathBuf| -> BTreeSet<String> {
        let entries = fs::read_dir(folder).expect("it is there");
        let paths = entries.map(|entry| entry.expect("it can be listed").path());
        paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
    };
    assert_eq!(names(corpus()), targets);
    assert_eq!(names(corpus().join("../targets")), targets);
    let played = the_corpus_holds_for::all().iter().map(|name| (*name).to_owned());
    assert_eq!(played.collect::<BTreeSet<String>>(), targets);
}
