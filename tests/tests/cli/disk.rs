//! Disks on the command line: what is refused, and who may have an image.

use crate::world::World;
use serde_json::json;
use tests::micro::SPIN;

#[test]
fn a_disk_that_cannot_be_used_is_explained_with_its_code() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let odd = world.file("odd.img", &[0; 1000]);
    let image = world.file("disk.img", &[0; 4096]);
    let directory = world.folder.path().display().to_string();
    for (disk, code, named) in [
        (format!("path={odd}"), "0xA0040502", "1000 bytes"),
        (format!("path={image},format=qcow2"), "0xA0040502", "qcow2"),
        (format!("path={directory},readonly"), "0xA0040502", "neither a file"),
        ("path=/nonexistent".into(), "0x80070002", "/nonexistent"),
    ] {
        let arguments = ["--kernel", &kernel, "--memory", "32M", "--disk", &disk];
        let (exit, found, text) = world.refused(&arguments);
        assert_eq!((exit, found.as_str()), (Some(1), code), "{text}");
        assert!(text.contains(named), "{text}");
    }
    let disk = format!("path={image}");
    let twice = ["--kernel", &kernel, "--memory", "32M", "--disk", &disk, "--disk", &disk];
    let (exit, code, text) = world.refused(&twice);
    assert_eq!((exit, code.as_str()), (Some(2), "0x80070057"), "{text}");
}

#[test]
fn an_image_is_written_by_one_machine_and_free_again_when_that_is_off() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let image = world.file("disk.img", &[0; 4096]);
    let disk = format!("path={image}");
    for name in ["one", "two"] {
        let arguments = ["create", name, "--kernel", &kernel, "--memory", "32M", "--disk", &disk];
        let created = world.vmm(&arguments);
        assert_eq!(created.code, Some(0), "{created:?}");
    }
    let shown = world.json(&["show", "one"]).json()["definition"]["disks"].clone();
    assert_eq!(shown, json!([{ "path": image, "readonly": false, "format": "raw" }]));
    let human = world.vmm(&["show", "one"]).stdout;
    assert!(human.contains(&format!("{image} (raw)")), "{human}");
    assert_eq!(world.vmm(&["start", "one"]).code, Some(0));
    let refused = world.json(&["start", "two"]);
    let task = refused.json()["task"].clone();
    assert_eq!((refused.code, &task["error"]), (Some(1), &json!("0x80070020")), "{task}");
    let text = task["error_description"].as_str().unwrap();
    assert!(text.contains("in use"), "{text}");
    assert_eq!(world.vmm(&["stop", "one"]).code, Some(0));
    assert_eq!(world.vmm(&["start", "two"]).code, Some(0));
    assert_eq!(world.vmm(&["stop", "two"]).code, Some(0));
}
