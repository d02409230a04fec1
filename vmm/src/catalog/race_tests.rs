//! Many programs at once: one of them wins, and nobody sees half of anything.

use super::tests::{Fixture, code};
use super::{CatalogError, Definition};
use protocol::HResult;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const THREADS: usize = 8;
const ROUNDS: usize = 12;

/// What each of `THREADS` threads got from `call`, which they all make at the same moment.
fn all_at_once<T: Send>(call: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        let (start, call) = (&start, &call);
        let run = |index| {
            move || {
                start.wait();
                call(index)
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|index| scope.spawn(run(index))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Sees that one call succeeded, and that the others failed with `expected`.
fn one_wins<T: std::fmt::Debug>(results: Vec<Result<T, CatalogError>>, expected: HResult) {
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1, "{lost:?}");
    for result in lost {
        assert_eq!(code(result), expected);
    }
}

#[test]
fn of_many_who_want_the_same_one_wins_and_nothing_is_left_half_made() {
    let fixture = Fixture::new();
    let path = fixture.elsewhere("web");
    let catalog = &fixture.catalog;
    for _ in 0..ROUNDS {
        let created = all_at_once(|index| match index % 2 {
            0 => fixture.create(if index < 4 { "web" } else { "WEB" }),
            _ => catalog.register(Some("Web"), &path),
        });
        one_wins(created, HResult::VM_E_CONFIG_DUPLICATE_NAME);
        assert!(catalog.get("web").unwrap().load().is_ok());
        let removed = all_at_once(|index| match index % 2 {
            0 => catalog.delete("web"),
            _ => catalog.unregister("web").map(drop),
        });
        one_wins(removed, HResult::VM_E_VM_UNKNOWN);
        assert!(fixture.names().is_empty());
        let _ = std::fs::remove_dir_all(fixture.base().join("web"));
        fixture.elsewhere("web");
    }
}

#[test]
fn changes_of_different_machines_do_not_disturb_each_other() {
    let fixture = Fixture::new();
    let name = |index: usize| format!("machine {index}");
    for _ in 0..ROUNDS {
        for created in all_at_once(|index| fixture.create(&name(index))) {
            created.unwrap();
        }
        assert_eq!(fixture.names().len(), THREADS);
        for deleted in all_at_once(|index| fixture.catalog.delete(&name(index))) {
            deleted.unwrap();
        }
    }
    let left: Vec<_> = std::fs::read_dir(fixture.base()).unwrap().map(|it| it.unwrap()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_reader_sees_a_whole_definition_or_none() {
    let fixture = Fixture::new();
    let catalog = &fixture.catalog;
    let done = AtomicBool::new(false);
    let read = || {
        while !done.load(Ordering::Relaxed) {
            for listed in catalog.list().unwrap() {
                let definition = listed.definition.unwrap();
                assert_eq!(definition.notes.len() % 1000, 0);
            }
            if let Some(web) = catalog.find("web").unwrap() {
                match web.load() {
                    Ok(definition) => assert!(definition.id.is_some()),
                    Err(error) => assert_eq!(error.code(), HResult::VM_E_VM_UNKNOWN, "{error}"),
                }
            }
        }
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        let written = (0..ROUNDS * 4).try_for_each(|round| {
            let web = fixture.create("web")?;
            let notes = "x".repeat(round % 60 * 1000);
            let definition = Definition { notes, ..web.load()? };
            catalog.save(&web, &definition)?;
            catalog.delete("web")
        });
        done.store(true, Ordering::Relaxed);
        written.unwrap();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn a_machine_starts_or_is_deleted_but_not_both() {
    let fixture = Fixture::new();
    let catalog = &fixture.catalog;
    for _ in 0..ROUNDS {
        fixture.create("web").unwrap();
        // As a start does it: first the place, then the definition.
        let started = |_| {
            let place = catalog.runtime().claim("web").ok()?;
            let definition = catalog.find("web").unwrap().map(|web| web.load())?.ok()?;
            Some((place, definition))
        };
        let outcomes = all_at_once(|index| match index {
            0 => (None, catalog.delete("web").is_ok()),
            _ => (started(index), false),
        });
        let running = outcomes.iter().filter(|(started, _)| started.is_some()).count();
        let deleted = outcomes.iter().any(|(_, deleted)| *deleted);
        assert!(running + usize::from(deleted) <= 1, "{running} run, deleted: {deleted}");
        assert_eq!(catalog.find("web").unwrap().is_none(), deleted);
        drop(outcomes);
        let _ = catalog.delete("web");
    }
}
