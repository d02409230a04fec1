//! The catalog: its verbs, their codes, and what many programs at once make of it.

use super::{Catalog, CatalogError, DRAFT, Definition, Principal, Registered};
use crate::config::NAME_FORBIDDEN;
use crate::runtime::Runtime;
use protocol::HResult;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A catalog, a runtime directory and a kernel, each in a folder of their own.
pub(super) struct Fixture {
    pub(super) folder: tempfile::TempDir,
    pub(super) catalog: Catalog,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("vmlinuz"), "kernel").unwrap();
        let runtime = Runtime::at(folder.path().join("run"));
        let catalog = Catalog::at(folder.path().join("data"), runtime);
        Self { folder, catalog }
    }

    pub(super) fn base(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn definition(&self) -> Definition {
        Definition::new("", self.folder.path().join("vmlinuz"))
    }

    pub(super) fn create(&self, name: &str) -> Result<Registered, CatalogError> {
        self.catalog.create(name, &self.definition())
    }

    /// Writes a definition of the machine `name` outside of the catalog.
    pub(super) fn elsewhere(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.toml"));
        fs::write(&path, format!("name = '{name}'\nkernel = 'vmlinuz'\n")).unwrap();
        set_mode(&path, 0o644);
        path.canonicalize().unwrap()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let listed = self.catalog.list().unwrap();
        listed.into_iter().map(|listed| listed.machine.name).collect()
    }
}

pub(super) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(super) fn code<T: std::fmt::Debug>(result: Result<T, CatalogError>) -> HResult {
    result.unwrap_err().code()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn entries(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

#[test]
fn what_is_created_is_found_whatever_the_letters_and_read_as_it_was() {
    let fixture = Fixture::new();
    let mut definition = fixture.definition();
    definition.notes = "the web server".into();
    let web = fixture.catalog.create("Web", &definition).unwrap();
    assert_eq!(web.path, fixture.base().join("web/machine.toml"));
    assert!(!web.linked);
    for name in ["Web", "web", "WEB"] {
        assert_eq!(fixture.catalog.find(name).unwrap().as_ref(), Some(&web));
    }
    let loaded = web.load().unwrap();
    assert!(loaded.id.is_some());
    assert_eq!(loaded, Definition { name: "Web".into(), id: loaded.id, ..definition });
    assert_eq!(fixture.names(), ["Web"]);
    assert_eq!(fixture.catalog.find("db").unwrap(), None);
    let other = fixture.catalog.create("db", &loaded).unwrap().load().unwrap();
    assert_ne!(other.id, loaded.id, "an identity is never given twice");
    assert_eq!(
        (mode(&fixture.base()), mode(web.directory()), mode(&web.path)),
        (0o700, 0o700, 0o600)
    );
}

#[test]
fn a_catalog_that_is_not_there_is_empty_and_looking_does_not_make_it() {
    let fixture = Fixture::new();
    assert!(fixture.names().is_empty());
    assert_eq!(fixture.catalog.find("web").unwrap(), None);
    for result in [fixture.catalog.delete("web"), fixture.catalog.get("web").map(drop)] {
        assert_eq!(code(result), HResult::VM_E_VM_UNKNOWN);
    }
    assert!(!fixture.base().exists());
}

#[test]
fn names_follow_the_documented_rules_and_have_their_codes() {
    let fixture = Fixture::new();
    fixture.create("Web").unwrap();
    let path = fixture.elsewhere("other");
    let long = "x".repeat(81);
    let mut table = vec![
        (String::new(), HResult::VM_E_CONFIG_NO_NAME),
        (long, HResult::VM_E_CONFIG_NAME_TOO_LONG),
        ("wEB".into(), HResult::VM_E_CONFIG_DUPLICATE_NAME),
        ("..".into(), HResult::VM_E_CONFIG_NAME_INVALID_CHAR),
        // Allowed, but longer than any file system lets a directory's name be.
        ("𝄞".repeat(80), HResult::ERROR_BUFFER_OVERFLOW),
    ];
    let forbidden = NAME_FORBIDDEN.chars().chain(['\0', '\n']);
    table.extend(forbidden.map(|c| (format!("a{c}b"), HResult::VM_E_CONFIG_NAME_INVALID_CHAR)));
    for (name, expected) in table {
        assert_eq!(code(fixture.create(&name)), expected, "{name:?}");
        if !name.is_empty() {
            assert_eq!(code(fixture.catalog.register(Some(&name), &path)), expected, "{name:?}");
        }
    }
    assert_eq!(fixture.names(), ["Web"]);
    assert_eq!(entries(&fixture.base()), ["LOCK", "web"]);
    for name in ["x".repeat(80), "lock".into(), "LOCK".into(), "...".into(), "é ü".into()] {
        let expected =
            if name == "LOCK" { Err(HResult::VM_E_CONFIG_DUPLICATE_NAME) } else { Ok(()) };
        assert_eq!(fixture.create(&name).map(drop).map_err(|error| error.code()), expected);
    }
}

#[test]
fn an_unknown_machine_is_told_with_the_nearest_known_one() {
    let fixture = Fixture::new();
    for name in ["web", "database"] {
        fixture.create(name).unwrap();
    }
    let message = |name| fixture.catalog.get(name).unwrap_err().to_string();
    assert_eq!(message("Databse"), "there is no machine named Databse; did you mean database?");
    assert_eq!(message("mail"), "there is no machine named mail");
    assert_eq!(code(fixture.catalog.unregister("mail")), HResult::VM_E_VM_UNKNOWN);
}

#[test]
fn a_definition_elsewhere_is_registered_by_a_link_and_stays_what_it_is() {
    let fixture = Fixture::new();
    let path = fixture.elsewhere("Web");
    let text = fs::read_to_string(&path).unwrap();
    for none in [None, Some("")] {
        let web = fixture.catalog.register(none, &path).unwrap();
        assert_eq!((web.name.as_str(), &web.path, web.linked), ("Web", &path, true));
        let config = web.load().unwrap().config(web.directory());
        assert_eq!(config.kernel, path.with_file_name("vmlinuz"));
        assert_eq!(fixture.catalog.unregister("web").unwrap(), path);
        assert_eq!(entries(&fixture.base()), ["LOCK"]);
    }
    let other = fixture.catalog.register(Some("Other"), &path).unwrap();
    assert_eq!(other.load().unwrap().name, other.name, "the name is that of the registration");
    let again = fixture.catalog.register(Some("again"), &path).unwrap_err();
    assert_eq!(again.code(), HResult::ERROR_ALREADY_EXISTS);
    assert_eq!(again.to_string(), format!("{} is the definition of other already", path.display()));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    fixture.catalog.delete("other").unwrap();
    assert!(!path.exists() && fixture.names().is_empty());
}

#[test]
fn what_cannot_be_registered_has_its_code() {
    let fixture = Fixture::new();
    let register = |path: &Path| code(fixture.catalog.register(Some("web"), path));
    let at = |name: &str| fixture.folder.path().join(name);
    assert_eq!(register(&at("none.toml")), HResult::ERROR_FILE_NOT_FOUND);
    assert_eq!(register(&at("none/none.toml")), HResult::ERROR_PATH_NOT_FOUND);
    assert_eq!(register(&at("vmlinuz/none.toml")), HResult::ERROR_PATH_NOT_FOUND);
    assert_eq!(register(Path::new("a\0b")), HResult::ERROR_BAD_PATHNAME);
    assert_eq!(register(&at(&"x".repeat(5000))), HResult::ERROR_BUFFER_OVERFLOW);
    assert_eq!(register(fixture.folder.path()), HResult::ERROR_BAD_PATHNAME);
    fs::write(at("bad.toml"), "kernl = 1").unwrap();
    set_mode(&at("bad.toml"), 0o600);
    assert_eq!(register(&at("bad.toml")), HResult::VM_E_PREF_ILLEGAL_VALUE);
    fs::write(at("bad.toml"), "name = 'web'\nkernel = 'none'").unwrap();
    assert_eq!(register(&at("bad.toml")), HResult::ERROR_FILE_NOT_FOUND);
    assert!(!fixture.base().exists(), "nothing was changed");
}

#[test]
fn what_cannot_be_started_or_read_again_is_not_created() {
    let fixture = Fixture::new();
    let create = |change: fn(&mut Definition)| {
        let mut definition = fixture.definition();
        change(&mut definition);
        code(fixture.catalog.create("web", &definition))
    };
    assert_eq!(create(|web| web.kernel = "none".into()), HResult::ERROR_PATH_NOT_FOUND);
    assert_eq!(create(|web| web.kernel = "/none".into()), HResult::ERROR_FILE_NOT_FOUND);
    let illegal = HResult::VM_E_PREF_ILLEGAL_VALUE;
    assert_eq!(create(|web| web.memory = 4095), illegal);
    assert_eq!(create(|web| web.cpus = 0), illegal);
    assert_eq!(create(|web| web.append = "a\nb".into()), illegal);
    assert_eq!(create(|web| web.notes = "x".repeat(super::FILE_MAX)), illegal);
    assert_eq!(create(|web| web.access.read = vec![Principal::User("@a".into())]), illegal);
    assert!(fixture.names().is_empty());
}

#[test]
fn an_unregistered_machine_keeps_its_definition_and_can_come_back() {
    let fixture = Fixture::new();
    let web = fixture.create("Web").unwrap();
    let definition = web.load().unwrap();
    let kept = fixture.catalog.unregister("web").unwrap();
    assert_eq!(kept, fixture.base().join("web/unregistered.toml"));
    assert!(fixture.names().is_empty());
    assert_eq!(code(web.load()), HResult::VM_E_VM_UNKNOWN);
    assert_eq!(code(fixture.create("web")), HResult::ERROR_ALREADY_EXISTS);
    fixture.catalog.register(Some("other"), &kept).unwrap();
    assert_eq!(code(fixture.catalog.register(None, &kept)), HResult::ERROR_ALREADY_EXISTS);
    fixture.catalog.unregister("other").unwrap();
    let back = fixture.catalog.register(None, &kept).unwrap();
    assert_eq!((&back, back.load().unwrap()), (&web, definition));
    assert_eq!(entries(web.directory()), ["machine.toml"]);
}

#[test]
fn a_running_machine_is_not_removed_and_one_that_is_being_removed_does_not_start() {
    let fixture = Fixture::new();
    fixture.create("web").unwrap();
    let running = fixture.catalog.runtime().claim("WEB").unwrap();
    assert_eq!(code(fixture.catalog.delete("web")), HResult::VM_E_VM_RUNNING);
    assert_eq!(code(fixture.catalog.unregister("web")), HResult::VM_E_VM_RUNNING);
    assert_eq!(fixture.names(), ["web"]);
    drop(running);
    fixture.catalog.delete("Web").unwrap();
    assert!(fixture.catalog.runtime().list().is_empty());
    assert_eq!(entries(&fixture.base()), ["LOCK"]);
    fixture.catalog.runtime().claim("web").unwrap();
}

#[test]
fn files_that_others_put_beside_a_definition_survive_its_deletion() {
    let fixture = Fixture::new();
    let web = fixture.create("web").unwrap();
    fs::write(web.directory().join("disk.img"), "precious").unwrap();
    fixture.catalog.delete("web").unwrap();
    assert_eq!(entries(web.directory()), ["disk.img"]);
    fixture.create("web").unwrap();
}

#[test]
fn what_is_saved_replaces_what_was_and_what_cannot_be_saved_changes_nothing() {
    let fixture = Fixture::new();
    let path = fixture.elsewhere("db");
    let machines = [fixture.create("Web").unwrap(), fixture.catalog.register(None, &path).unwrap()];
    for machine in &machines {
        let mut definition = machine.load().unwrap();
        definition.memory = 1 << 30;
        definition.name = "other".into();
        fixture.catalog.save(machine, &definition).unwrap();
        let saved = machine.load().unwrap();
        assert_eq!((saved.memory, &saved.name), (1 << 30, &machine.name));
        definition.cpus = 0;
        assert_eq!(
            code(fixture.catalog.save(machine, &definition)),
            HResult::VM_E_PREF_ILLEGAL_VALUE
        );
        assert_eq!(machine.load().unwrap(), saved);
        fixture.catalog.delete(&machine.name).unwrap();
        assert_eq!(code(fixture.catalog.save(machine, &saved)), HResult::VM_E_VM_UNKNOWN);
    }
    assert_eq!(entries(&fixture.base()), ["LOCK"]);
    assert_eq!(entries(fixture.folder.path()), ["data", "run", "vmlinuz"]);
}

#[test]
fn only_a_machine_whose_lists_let_somebody_in_can_be_seen_by_others() {
    let fixture = Fixture::new();
    let closed = fixture.create("closed").unwrap();
    let mut definition = fixture.definition();
    definition.access.read = vec![Principal::User("bob".into())];
    let open = fixture.catalog.create("open", &definition).unwrap();
    let modes = |machine: &Registered| (mode(machine.directory()), mode(&machine.path));
    assert_eq!(mode(&fixture.base()), 0o711);
    assert_eq!((modes(&open), modes(&closed)), ((0o711, 0o644), (0o700, 0o600)));
    fixture.catalog.save(&open, &fixture.definition()).unwrap();
    fixture.catalog.save(&closed, &definition).unwrap();
    assert_eq!((modes(&open), modes(&closed)), ((0o700, 0o600), (0o711, 0o644)));
}

#[test]
fn a_broken_definition_is_listed_with_its_fault_and_hides_no_other() {
    let fixture = Fixture::new();
    for name in ["a", "b", "c"] {
        fixture.create(name).unwrap();
    }
    fs::write(fixture.base().join("b/machine.toml"), "name = 'b'\nkernl = 'x'").unwrap();
    fs::write(fixture.base().join("notes.txt"), "no machine").unwrap();
    let listed = fixture.catalog.list().unwrap();
    let found: Vec<_> =
        listed.iter().map(|it| (it.machine.name.as_str(), it.definition.is_ok())).collect();
    assert_eq!(found, [("a", true), ("b", false), ("c", true)]);
    let error = listed[1].definition.as_ref().unwrap_err().to_string();
    assert!(error.ends_with("b/machine.toml:2: unknown key \"kernl\"; did you mean \"kernel\"?"));
    assert_eq!(code(fixture.catalog.get("b").unwrap().load()), HResult::VM_E_PREF_ILLEGAL_VALUE);
    fixture.catalog.delete("b").unwrap();
    assert_eq!(fixture.names(), ["a", "c"]);
}

#[test]
fn what_a_killed_writer_left_is_never_in_the_way() {
    let fixture = Fixture::new();
    // Killed while it created a machine,
    let folder = fixture.base().join("web");
    fs::create_dir_all(&folder).unwrap();
    set_mode(&fixture.base(), 0o755);
    set_mode(&folder, 0o755);
    fs::write(folder.join(DRAFT), "name = 'we").unwrap();
    fs::write(fixture.base().join("LOCK"), "").unwrap();
    assert!(fixture.names().is_empty());
    let web = fixture.create("web").unwrap();
    assert_eq!(entries(&folder), ["machine.toml"]);
    // while it saved one,
    fs::write(folder.join(DRAFT), "name = 'we").unwrap();
    fixture.catalog.save(&web, &fixture.definition()).unwrap();
    assert_eq!(entries(&folder), ["machine.toml"]);
    fs::write(folder.join(DRAFT), "name = 'we").unwrap();
    fixture.catalog.delete("web").unwrap();
    assert_eq!(entries(&fixture.base()), ["LOCK"]);
    // and while it deleted one: the definition elsewhere is gone, the link is not.
    let path = fixture.elsewhere("db");
    fixture.catalog.register(None, &path).unwrap();
    fs::remove_file(&path).unwrap();
    let listed = fixture.catalog.list().unwrap();
    assert_eq!(listed[0].definition.as_ref().unwrap_err().code(), HResult::ERROR_FILE_NOT_FOUND);
    fixture.catalog.delete("db").unwrap();
    assert_eq!(entries(&fixture.base()), ["LOCK"]);
}
