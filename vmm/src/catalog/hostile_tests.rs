//! What somebody may have put into a catalog, or where one should be.

use super::tests::{Fixture, code, set_mode};
use super::{Catalog, CatalogError, FILE_MAX};
use crate::runtime::Runtime;
use protocol::HResult;
use rustix::fs::{CWD, FileType, Mode};
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::time::Duration;

/// Sees that the machine `web` is listed with an error of this code, beside the machine `good`, and
/// that loading it fails in the same way.
fn is_broken(fixture: &Fixture, expected: HResult) {
    let listed = fixture.catalog.list().unwrap();
    assert_eq!(fixture.names(), ["good", "web"]);
    assert_eq!(listed[1].definition.as_ref().unwrap_err().code(), expected);
    assert!(listed[0].definition.is_ok());
    let loaded = fixture.catalog.get("web").and_then(|web| web.load());
    assert_eq!(code(loaded), expected);
}

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    for name in ["good", "web"] {
        fixture.create(name).unwrap();
    }
    fixture
}

fn make(path: &Path, kind: FileType) {
    rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn case_37_a_machine_directory_that_is_a_link_is_refused() {
    let fixture = fixture();
    let elsewhere = fixture.folder.path().join("elsewhere");
    fs::rename(fixture.base().join("web"), &elsewhere).unwrap();
    symlink(&elsewhere, fixture.base().join("web")).unwrap();
    is_broken(&fixture, HResult::ERROR_BAD_PATHNAME);
    for result in [
        fixture.catalog.delete("web"),
        fixture.catalog.unregister("web").map(drop),
        fixture.create("web").map(drop),
    ] {
        assert_eq!(code(result), HResult::ERROR_BAD_PATHNAME);
    }
    assert!(elsewhere.join("machine.toml").exists());
}

#[test]
fn case_37_a_definition_that_is_no_plain_file_is_refused_and_can_be_deleted() {
    for kind in [FileType::Fifo, FileType::Socket] {
        let fixture = fixture();
        let path = fixture.base().join("web/machine.toml");
        fs::remove_file(&path).unwrap();
        make(&path, kind);
        let error = fixture.catalog.get("web").unwrap().load().unwrap_err();
        match kind {
            FileType::Fifo => is_broken(&fixture, HResult::ERROR_BAD_PATHNAME),
            // It cannot even be opened.
            _ => assert!(matches!(error, CatalogError::Io { .. })),
        }
        fixture.catalog.delete("web").unwrap();
        assert_eq!(fixture.names(), ["good"]);
    }
}

#[test]
fn case_37_a_link_to_what_is_no_plain_file_is_refused() {
    let fixture = fixture();
    let path = fixture.base().join("web/machine.toml");
    let fifo = fixture.folder.path().join("fifo");
    make(&fifo, FileType::Fifo);
    let chain = fixture.folder.path().join("chain");
    symlink(fixture.elsewhere("other"), &chain).unwrap();
    let bad = HResult::ERROR_BAD_PATHNAME;
    for (target, expected) in [
        (fifo.as_path(), bad),
        (Path::new("/dev/zero"), bad),
        (Path::new("/"), bad),
        (Path::new("../good/machine.toml"), bad),
        (chain.as_path(), bad),
        (path.as_path(), bad),
        (Path::new("/none/machine.toml"), HResult::ERROR_PATH_NOT_FOUND),
    ] {
        fs::remove_file(&path).unwrap();
        symlink(target, &path).unwrap();
        is_broken(&fixture, expected);
    }
    fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    fixture.catalog.delete("web").unwrap();
    assert!(Path::new("/dev/zero").exists());
}

#[test]
fn case_37_a_huge_definition_and_one_that_is_no_text_are_refused() {
    let fixture = fixture();
    let path = fixture.base().join("web/machine.toml");
    fs::write(&path, "#".repeat(FILE_MAX + 1)).unwrap();
    is_broken(&fixture, HResult::VM_E_PREF_ILLEGAL_VALUE);
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    is_broken(&fixture, HResult::VM_E_PREF_ILLEGAL_VALUE);
    fs::write(&path, b"name = 'web'\n\n# \xff").unwrap();
    is_broken(&fixture, HResult::VM_E_PREF_ILLEGAL_VALUE);
    let error = fixture.catalog.get("web").unwrap().load().unwrap_err().to_string();
    assert_eq!(error, format!("{}:3: not TOML: the text is not UTF-8", path.display()));
}

#[test]
fn case_37_what_others_could_have_written_is_refused() {
    let fixture = fixture();
    let folder = fixture.base().join("web");
    for mode in [0o777, 0o770, 0o1777] {
        set_mode(&folder, mode);
        is_broken(&fixture, HResult::ERROR_BAD_PATHNAME);
    }
    set_mode(&folder, 0o700);
    for mode in [0o606, 0o660] {
        set_mode(&folder.join("machine.toml"), mode);
        is_broken(&fixture, HResult::ERROR_BAD_PATHNAME);
    }
    let path = fixture.elsewhere("other");
    set_mode(&path, 0o666);
    let error = fixture.catalog.register(None, &path).unwrap_err();
    assert_eq!(error.code(), HResult::ERROR_BAD_PATHNAME);
    assert!(error.to_string().ends_with("of this user that nobody else can write to"));
}

#[test]
fn case_37_a_catalog_that_others_can_write_to_is_refused() {
    let fixture = fixture();
    for mode in [0o777, 0o770, 0o702, 0o1777] {
        set_mode(&fixture.base(), mode);
        for result in [
            fixture.catalog.list().map(drop),
            fixture.catalog.find("web").map(drop),
            fixture.catalog.delete("web"),
            fixture.create("new").map(drop),
        ] {
            assert_eq!(code(result), HResult::ERROR_BAD_PATHNAME, "{mode:o}");
        }
    }
    set_mode(&fixture.base(), 0o755);
    assert_eq!(fixture.names(), ["good", "web"]);
    let file = fixture.folder.path().join("vmlinuz");
    let catalog = Catalog::at(&file, Runtime::at(fixture.folder.path().join("run")));
    assert_eq!(code(catalog.list()), HResult::ERROR_BAD_PATHNAME);
}

#[test]
fn a_lock_that_is_a_link_or_held_for_ever_is_explained() {
    let mut fixture = fixture();
    fixture.catalog.patience = Duration::from_millis(50);
    let lock = fixture.base().join("LOCK");
    fs::remove_file(&lock).unwrap();
    let precious = fixture.folder.path().join("precious");
    symlink(&precious, &lock).unwrap();
    assert_eq!(code(fixture.create("new")), HResult::ERROR_BAD_PATHNAME);
    assert!(!precious.exists());
    fs::remove_file(&lock).unwrap();
    let held = crate::lock::open_lock(&lock).unwrap();
    assert!(crate::lock::take_lock(&held).unwrap());
    assert_eq!(code(fixture.create("new")), HResult::ERROR_SHARING_VIOLATION);
    assert_eq!(fixture.names(), ["good", "web"], "readers wait for nobody");
}

/// Other users can only be played by root.
#[test]
fn what_belongs_to_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: files of other users cannot be made");
        return;
    }
    let fixture = fixture();
    let give = |path: &Path| chown(path, Some(1000), None).unwrap();
    let path = fixture.elsewhere("other");
    give(&path);
    assert_eq!(code(fixture.catalog.register(None, &path)), HResult::ERROR_BAD_PATHNAME);
    give(&fixture.base().join("web/machine.toml"));
    is_broken(&fixture, HResult::ERROR_BAD_PATHNAME);
    give(&fixture.base().join("web"));
    is_broken(&fixture, HResult::ERROR_BAD_PATHNAME);
    // The owner of a catalog owns its machines. Others may look, if he lets them, but not change it.
    give(&fixture.base());
    assert!(fixture.catalog.get("web").unwrap().load().is_ok());
    assert!(fixture.catalog.get("good").unwrap().load().is_ok());
    assert_eq!(code(fixture.catalog.delete("web")), HResult::ERROR_BAD_PATHNAME);
}

#[test]
fn a_definition_of_another_user_stays_when_its_machine_is_deleted() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: files of other users cannot be made");
        return;
    }
    let fixture = Fixture::new();
    let path = fixture.elsewhere("web");
    fixture.catalog.register(None, &path).unwrap();
    chown(&path, Some(1000), None).unwrap();
    fixture.catalog.delete("web").unwrap();
    assert!(path.exists() && fixture.names().is_empty());
}
