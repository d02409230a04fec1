//! What `docs/machines.md` tells users, compared with what is so.

use protocol::HResult;
use std::fs;
use vmm::VirtualPc;
use vmm::catalog::Catalog;
use vmm::runtime::Runtime;

const TEXT: &str = include_str!("../../docs/machines.md");

#[test]
fn the_definition_that_users_are_shown_is_one() {
    let (_, rest) = TEXT.split_once("```toml\n").unwrap();
    let (definition, _) = rest.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shown.toml");
    for image in ["vmlinuz", "initrd.img", "root.qcow2"] {
        fs::write(folder.path().join(image), "").unwrap();
    }
    // The one path that is not relative.
    fs::write(&file, definition.replace("/boot/vmlinuz", "vmlinuz")).unwrap();
    let runtime = Runtime::at(folder.path().join("run"));
    let pc = VirtualPc::at(Catalog::at(folder.path().join("data"), runtime));
    let machine = pc.register_virtual_machine(None, &file).unwrap();
    let definition = machine.definition().unwrap();
    let devices = (definition.disks.len(), definition.nets.len());
    let shown = (machine.name(), definition.cpus, devices);
    assert_eq!(shown, ("web", 2, (1, 1)));
}

#[test]
fn the_codes_that_users_are_shown_have_these_names() {
    let mut rows = 0;
    for line in TEXT.lines() {
        let Some((number, rest)) =
            line.strip_prefix("| 0x").and_then(|line| line.split_once(" | "))
        else {
            continue;
        };
        let code = HResult(u32::from_str_radix(number, 16).unwrap());
        assert_eq!(code.symbol(), rest.split(" | ").next(), "{line}");
        rows += 1;
    }
    assert!(rows > 9, "{rows} codes are shown");
}
