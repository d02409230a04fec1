//! Definitions: what is read, what is written, and what is said of what is wrong.

use super::{AccessList, Definition, Fault, MachineId, Principal};
use crate::config::{
    Components, Console, ConsoleDevice, DISKS_MAX, Disk, DiskFormat, KernelEntry, check_disks,
};
use proptest::prelude::*;
use protocol::HResult;
use std::path::Path;

const FILE: &str = "web/machine.toml";

const WHOLE: &str = r#"
name = "Web"
id = "0b3c9a52-8d5e-4f7a-9c1d-2e3f4a5b6c7d"
kernel = "/boot/vmlinuz"
initrd = "initrd.img"
append = "root=/dev/vda quiet"
memory = "1G"
cpus = 2
hugepages = true
share_kernel = true
kernel_entry = "bzimage"
console = "file=log/serial.txt"
console_device = "virtio"
notes = """
Two lines,
and "quotes"."""
oem_strings = ["io.systemd.credential:motd=hello", "two"]

[[disk]]
path = "root.img"

[[disk]]
path = "/srv/data.qcow2"
format = "qcow2"
readonly = true

[access]
read = ["bob", "1000"]
execute = ["@staff", "@1000"]

[integration]
host_time_sync = false
components = "off"
"#;

fn parse(text: &str) -> Result<Definition, String> {
    Definition::parse(text, Path::new(FILE)).map_err(|error| {
        assert_eq!(error.code(), HResult::VM_E_PREF_ILLEGAL_VALUE);
        error.to_string()
    })
}

fn user(name: &str) -> Principal {
    Principal::User(name.into())
}

fn group(name: &str) -> Principal {
    Principal::Group(name.into())
}

#[test]
fn every_key_is_read() {
    let definition = parse(WHOLE).unwrap();
    let expected = Definition {
        id: Some("0b3c9a52-8d5e-4f7a-9c1d-2e3f4a5b6c7d".parse().unwrap()),
        initrd: Some("initrd.img".into()),
        append: "root=/dev/vda quiet".into(),
        memory: 1 << 30,
        hugepages: true,
        share_kernel: true,
        cpus: 2,
        kernel_entry: KernelEntry::Bzimage,
        console: Some("log/serial.txt".into()),
        console_device: ConsoleDevice::Virtio,
        oem_strings: vec!["io.systemd.credential:motd=hello".into(), "two".into()],
        notes: "Two lines,\nand \"quotes\".".into(),
        disks: vec![
            Disk::new("root.img"),
            Disk { path: "/srv/data.qcow2".into(), readonly: true, format: DiskFormat::Qcow2 },
        ],
        access: AccessList {
            read: vec![user("bob"), user("1000")],
            execute: vec![group("staff"), group("1000")],
        },
        integration: super::Integration { host_time_sync: false, components: false },
        ..Definition::new("Web", "/boot/vmlinuz")
    };
    assert_eq!(definition, expected);
}

#[test]
fn what_is_not_said_is_the_default() {
    let definition = parse("name = 'web'\nkernel = 'vmlinuz'").unwrap();
    assert_eq!(definition, Definition::new("web", "vmlinuz"));
    assert_eq!((definition.memory, definition.cpus), (512 << 20, 1));
    assert!(definition.integration.host_time_sync && definition.access.is_empty());
    // Tables may be written as dotted keys, numbers in any way that TOML has.
    let text =
        "name = 'web'\nkernel = 'k'\ncpus = 0x10\nmemory = 16_777_216\naccess.read = ['bob']";
    let definition = parse(text).unwrap();
    assert_eq!((definition.memory, definition.cpus), (16 << 20, 16));
    assert_eq!(definition.access.read, [user("bob")]);
}

#[test]
fn paths_are_relative_to_the_directory_of_the_definition() {
    let config = parse(WHOLE).unwrap().config(Path::new("/machines/web"));
    assert_eq!(config.kernel, Path::new("/boot/vmlinuz"));
    assert_eq!(config.initrd.unwrap(), Path::new("/machines/web/initrd.img"));
    assert_eq!(config.console, Console::File("/machines/web/log/serial.txt".into()));
    let disks: Vec<&Path> = config.disks.iter().map(|disk| disk.path.as_path()).collect();
    assert_eq!(disks, [Path::new("/machines/web/root.img"), Path::new("/srv/data.qcow2")]);
    assert_eq!((config.name.as_str(), config.cpus, config.memory), ("Web", 2, 1 << 30));
    assert!(config.hugepages && config.share_kernel);
    assert_eq!(config.kernel_entry, KernelEntry::Bzimage);
    assert_eq!(config.integration, Components::Off);
    assert_eq!(config.console_device, ConsoleDevice::Virtio);
}

/// A definition's lines after the name, and what is said of them after the file.
const FAULTS: &[(&str, &str)] = &[
    // Unknown keys, and those that are missing.
    (r#"kernl = "k""#, r#":2: unknown key "kernl"; did you mean "kernel"?"#),
    ("kernel = 'k'\nCPUS = 1", r#":3: unknown key "CPUS"; did you mean "cpus"?"#),
    ("kernel = 'k'\n\n[acess]", r#":4: unknown key "acess"; did you mean "access"?"#),
    (
        "kernel = 'k'\n[access]\nwrite = []",
        r#":4: unknown key "access.write"; known here: read, execute"#,
    ),
    (
        "kernel = 'k'\n[access]\nexcute = []",
        r#":4: unknown key "access.excute"; did you mean "access.execute"?"#,
    ),
    (
        "host_time_sync = true",
        r#":2: unknown key "host_time_sync"; did you mean "integration.host_time_sync"?"#,
    ),
    (
        "zzz = 1\naaaaaaa = 1",
        r#":2: unknown key "zzz"; known here: name, id, kernel, initrd, append, memory, hugepages, share_kernel, cpus, kernel_entry, console, console_device, notes, oem_strings, disk, net, access, integration"#,
    ),
    ("", r#": no "kernel"; expected the path of a file"#),
    // Disks.
    (
        "kernel = 'k'\n[[disk]]\nreadonly = true",
        r#":3: no "disk.path"; expected the path of a file"#,
    ),
    (
        "kernel = 'k'\n[[disk]]\npath = 'a'\n[[disk]]\npath = 'b'\nread_only = true",
        r#":7: unknown key "disk.read_only"; did you mean "disk.readonly"?"#,
    ),
    (
        "kernel = 'k'\n[[disk]]\npath = 'a'\nformat = 'vhd'",
        r#":5: "disk.format": expected "raw" or "qcow2", found the text "vhd""#,
    ),
    (
        "kernel = 'k'\n[[disk]]\npath = 'a'\nreadonly = 1",
        r#":5: "disk.readonly": expected true or false, found the number 1"#,
    ),
    (
        "kernel = 'k'\n[[disk]]\npath = 'a'\n[[disk]]\npath = 'a'\nreadonly = true",
        r#":6: "disk.path": expected a file that no other disk has, found the text "a""#,
    ),
    (
        "kernel = 'k'\n[disk]\npath = 'a'",
        r#":3: "disk": expected tables that begin with [[disk]], found a table"#,
    ),
    (
        "kernel = 'k'\ndisk = ['a.img']",
        r#":3: "disk": expected tables that begin with [[disk]], found the text "a.img""#,
    ),
    ("kernel = 'k'\npath = 'a.img'", r#":3: unknown key "path"; did you mean "disk.path"?"#),
    // Wrong types.
    ("kernel = 5", r#":2: "kernel": expected the path of a file, found the number 5"#),
    ("kernel = ''", r#":2: "kernel": expected the path of a file, found the text """#),
    ("kernel = \"a\\u0000\"", r#":2: "kernel": expected the path of a file, found the text "a\0""#),
    ("kernel = ['k']", r#":2: "kernel": expected the path of a file, found an array"#),
    ("[kernel]", r#":2: "kernel": expected the path of a file, found a table"#),
    ("kernel = 'k'\ninitrd = false", r#":3: "initrd": expected the path of a file, found false"#),
    (
        "kernel = 'k'\nnotes = 1979-05-27",
        r#":3: "notes": expected text, found the time 1979-05-27"#,
    ),
    (
        "kernel = 'k'\ncpus = 'four'",
        r#":3: "cpus": expected a number from 1 to 255, found the text "four""#,
    ),
    (
        "kernel = 'k'\ncpus = 1.5",
        r#":3: "cpus": expected a number from 1 to 255, found the number 1.5"#,
    ),
    ("access = 1\nkernel = 'k'", r#":2: "access": expected a table, found the number 1"#),
    (
        "kernel = 'k'\naccess.read = 'bob'",
        r#":3: "access.read": expected an array of texts, each a user such as "bob", or a group such as "@staff", found the text "bob""#,
    ),
    (
        "kernel = 'k'\n[access]\nread = [\n  'bob',\n  '@',\n]",
        r#":6: "access.read": expected a user such as "bob", or a group such as "@staff", found the text "@""#,
    ),
    (
        "kernel = 'k'\n[access]\nread = [1000]",
        r#":4: "access.read": expected a user such as "bob", or a group such as "@staff", found the number 1000"#,
    ),
    (
        "kernel = 'k'\n[integration]\ncomponents = 'on'",
        r#":4: "integration.components": expected "auto" or "off", found the text "on""#,
    ),
    (
        "kernel = 'k'\n[integration]\nhost_time_sync = 'yes'",
        r#":4: "integration.host_time_sync": expected true or false, found the text "yes""#,
    ),
    // Values that are not allowed.
    ("id = 'x'\nkernel = 'k'", ID_FAULT),
    (
        "kernel = 'k'\nappend = \"a\\nb\"",
        r#":3: "append": expected text on one line, found the text "a\nb""#,
    ),
    (
        "kernel = 'k'\nhugepages = 1",
        r#":3: "hugepages": expected true or false, found the number 1"#,
    ),
    (
        "kernel = 'k'\nshare_kernel = 'yes'",
        r#":3: "share_kernel": expected true or false, found the text "yes""#,
    ),
    (
        "kernel = 'k'\nkernel_entry = 'elf'",
        r#":3: "kernel_entry": expected "unpacked" or "bzimage", found the text "elf""#,
    ),
    (
        "kernel = 'k'\nconsole_device = 'hvc0'",
        r#":3: "console_device": expected "serial" or "virtio", found the text "hvc0""#,
    ),
    (
        "kernel = 'k'\nconsole = 'stdio'",
        r#":3: "console": expected "none" or "file=PATH", found the text "stdio""#,
    ),
    (
        "kernel = 'k'\nconsole = 'file='",
        r#":3: "console": expected "none" or "file=PATH", found the text "file=""#,
    ),
    // Overflows, and what is too little.
    (
        "kernel = 'k'\ncpus = 0",
        r#":3: "cpus": expected a number from 1 to 255, found the number 0"#,
    ),
    (
        "kernel = 'k'\ncpus = 256",
        r#":3: "cpus": expected a number from 1 to 255, found the number 256"#,
    ),
    (
        "kernel = 'k'\ncpus = 99999999999999999999999999999999999999999",
        r#":3: "cpus": expected a number from 1 to 255, found the number 99999999999999999999999999999999999999999"#,
    ),
    ("kernel = 'k'\nmemory = -1", MEMORY_FAULTS[0]),
    ("kernel = 'k'\nmemory = '99999999999T'", MEMORY_FAULTS[1]),
    ("kernel = 'k'\nmemory = 18446744073709551616", MEMORY_FAULTS[2]),
    ("kernel = 'k'\nmemory = '8M'", MEMORY_FAULTS[3]),
    ("kernel = 'k'\nmemory = 16777217", MEMORY_FAULTS[4]),
    // No TOML.
    ("kernel = 'k'\nkernel = 'l'", ":3: not TOML: duplicate key"),
];

const ID_FAULT: &str = r#":2: "id": expected a UUID: 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12, found the text "x""#;

const MEMORY_FAULTS: &[&str] = &[
    r#":3: "memory": expected a size such as "512M", at least 16 MiB and a multiple of 4096 bytes, found the number -1"#,
    r#":3: "memory": expected a size such as "512M", at least 16 MiB and a multiple of 4096 bytes, found the text "99999999999T""#,
    r#":3: "memory": expected a size such as "512M", at least 16 MiB and a multiple of 4096 bytes, found the number 18446744073709551616"#,
    r#":3: "memory": expected a size such as "512M", at least 16 MiB and a multiple of 4096 bytes, found the text "8M""#,
    r#":3: "memory": expected a size such as "512M", at least 16 MiB and a multiple of 4096 bytes, found the number 16777217"#,
];

#[test]
fn a_fault_is_told_with_file_line_key_what_was_expected_and_what_was_found() {
    for (lines, message) in FAULTS {
        let error = parse(&format!("name = 'web'\n{lines}")).expect_err(lines);
        assert_eq!(error, format!("{FILE}{message}"));
    }
}

#[test]
fn a_name_in_a_definition_follows_the_rules_for_names() {
    assert!(parse("kernel = 'k'").unwrap_err().ends_with(
        "no \"name\"; expected 1 to 80 characters, none of *?:<>/\\|\" and no control character"
    ));
    for name in ["", "a/b", "..", "a\tb", &"x".repeat(81)] {
        let error = parse(&format!("kernel = 'k'\nname = '{name}'")).unwrap_err();
        assert!(error.starts_with("web/machine.toml:2: \"name\": expected 1 to 80"), "{error}");
    }
}

#[test]
fn syntax_errors_have_their_line() {
    for (text, line) in [("name = ", 1), ("\n\n=", 3), ("name = 'web'\n[access\n", 2), ("\u{1}", 1)]
    {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(&format!("{FILE}:{line}: not TOML: ")), "{text:?}: {error}");
    }
}

#[test]
fn case_37_what_is_too_much_is_refused_and_messages_stay_short() {
    let most = super::FILE_MAX;
    let comment = |length| format!("name='w'\nkernel='k'\n#{}", "x".repeat(length - 21));
    assert!(parse(&comment(most)).is_ok());
    let error = parse(&comment(most + 1)).unwrap_err();
    assert_eq!(error, "web/machine.toml: a definition has at most 65536 bytes");
    let long = "x".repeat(60_000);
    for text in [format!("{long} = 1"), format!("name = 'w'\nkernel = 'k'\ncpus = '{long}'")] {
        let error = parse(&text).unwrap_err();
        assert!(error.chars().count() < 300, "{error}");
    }
    let append = format!("name = 'w'\nkernel = 'k'\nappend = '{long}'");
    let error = parse(&append).unwrap_err();
    assert!(
        error.starts_with("web/machine.toml:3: \"append\": expected a command line"),
        "{error}"
    );
    assert!(parse(&format!("x = {}", "[".repeat(60_000))).unwrap_err().contains("not TOML"));
    assert!(parse(&format!("{}x = 1", "a.".repeat(30_000))).unwrap_err().contains("not TOML"));
}

#[test]
fn a_machine_has_no_more_disks_than_there_are_places() {
    let disks = |count: usize| -> String {
        (0..count).map(|index| format!("[[disk]]\npath = '{index}'\n")).collect()
    };
    let text = |count| format!("name = 'web'\nkernel = 'k'\n{}", disks(count));
    assert_eq!(parse(&text(DISKS_MAX)).unwrap().disks.len(), DISKS_MAX);
    let error = parse(&text(DISKS_MAX + 1)).unwrap_err();
    assert_eq!(error, r#"web/machine.toml:20: "disk": expected at most 8 of them, found one more"#);
}

#[test]
fn a_path_that_is_not_there_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("machine.toml");
    let folder = folder.path();
    std::fs::write(folder.join("vmlinuz"), "kernel").unwrap();
    let fifo = folder.join("fifo");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let at = |path: &str| folder.join(path).display().to_string();
    let table = [
        ("kernel = 'vmlinuz'", None),
        (
            "kernel = 'vmlinux'",
            Some((2, "kernel", format!("a file at {}, found nothing", at("vmlinux")), FILE_CODE)),
        ),
        (
            "kernel = 'no/vmlinux'",
            Some((
                2,
                "kernel",
                format!("a file at {}, found nothing", at("no/vmlinux")),
                PATH_CODE,
            )),
        ),
        (
            "kernel = 'vmlinuz'\ninitrd = '.'",
            Some((3, "initrd", format!("a file at {}, found a directory", at(".")), BAD_CODE)),
        ),
        (
            "kernel = 'vmlinuz'\n\ninitrd = 'fifo'",
            Some((
                4,
                "initrd",
                format!("a file at {}, found something else", at("fifo")),
                BAD_CODE,
            )),
        ),
        ("kernel = 'vmlinuz'\n[[disk]]\npath = 'vmlinuz'", None),
        (
            "kernel = 'vmlinuz'\n[[disk]]\npath = 'vmlinuz'\n[[disk]]\nreadonly = true\npath = 'a.img'",
            Some((
                7,
                "disk.path",
                format!("a file or a block device at {}, found nothing", at("a.img")),
                FILE_CODE,
            )),
        ),
        (
            "kernel = 'vmlinuz'\n[[disk]]\npath = 'fifo'",
            Some((
                4,
                "disk.path",
                format!("a file or a block device at {}, found something else", at("fifo")),
                BAD_CODE,
            )),
        ),
        ("kernel = 'vmlinuz'\nconsole = 'file=serial.txt'", None),
        (
            "kernel = 'vmlinuz'\nconsole = 'file=no/serial.txt'",
            Some((3, "console", format!("a directory at {}, found nothing", at("no")), FILE_CODE)),
        ),
    ];
    for (lines, fault) in table {
        let text = format!("name = 'web'\n{lines}");
        std::fs::write(&file, &text).unwrap();
        let checked = Definition::parse(&text, &file).unwrap().check_files(&file);
        match fault {
            None => checked.unwrap(),
            Some((line, key, rest, code)) => {
                let error = checked.unwrap_err();
                let file = file.display();
                assert_eq!(error.to_string(), format!("{file}:{line}: \"{key}\": expected {rest}"));
                assert_eq!(error.code(), code);
            }
        }
    }
}

const FILE_CODE: HResult = HResult::ERROR_FILE_NOT_FOUND;
const PATH_CODE: HResult = HResult::ERROR_PATH_NOT_FOUND;
const BAD_CODE: HResult = HResult::ERROR_BAD_PATHNAME;

#[test]
fn what_is_written_is_what_people_would_write() {
    let mut definition = Definition::new("web", "/boot/vmlinuz");
    definition.memory = 1536 << 20;
    let text = definition.to_toml().unwrap();
    let expected = "name = \"web\"\nkernel = \"/boot/vmlinuz\"\nmemory = \"1536M\"\ncpus = 1\n\
        kernel_entry = \"unpacked\"\nconsole = \"none\"\n\
        console_device = \"serial\"\n\n[integration]\nhost_time_sync = true\n\
        components = \"auto\"\n";
    assert_eq!(text, expected);
    let whole = parse(WHOLE).unwrap();
    assert_eq!(parse(&whole.to_toml().unwrap()).unwrap(), whole);
}

#[test]
fn a_path_that_toml_cannot_say_is_not_written() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"k\xff");
    let console = Definition { console: Some(odd.into()), ..Definition::new("web", "k") };
    for definition in [Definition::new("web", odd), console] {
        let error = definition.to_toml().unwrap_err();
        assert!(matches!(*error.fault, Fault::Unwritable(_)), "{error}");
    }
}

fn principal() -> impl Strategy<Value = Principal> {
    ("[a-z0-9][a-z0-9_.é-]{0,20}", any::<bool>()).prop_map(|(name, is_group)| {
        if is_group { Principal::Group(name) } else { Principal::User(name) }
    })
}

fn disks() -> impl Strategy<Value = Vec<Disk>> {
    let disk = ("[^\0]{1,40}", any::<bool>(), any::<bool>()).prop_map(|(path, readonly, qcow2)| {
        let format = if qcow2 { DiskFormat::Qcow2 } else { DiskFormat::Raw };
        Disk { path: path.into(), readonly, format }
    });
    prop::collection::vec(disk, 0..=DISKS_MAX)
        .prop_filter("each file once", |disks| check_disks(disks).is_ok())
}

prop_compose! {
    fn definition()(
        name in r#"[^*?:<>/\\|"\p{Cc}]{3,80}"#,
        paths in ["[^\0]{1,40}", "[^\0]{1,40}", "[^\0]{1,40}"],
        initrd in any::<bool>(),
        console in any::<bool>(),
        virtio in any::<bool>(),
        append in r"\P{Cc}{0,100}",
        notes in any::<String>(),
        pages in 4096..1_u64 << 48,
        hugepages in any::<bool>(),
        share_kernel in any::<bool>(),
        cpus in 1..=u8::MAX,
        bzimage in any::<bool>(),
        host_time_sync in any::<bool>(),
        components in any::<bool>(),
        read in prop::collection::vec(principal(), 0..4),
        execute in prop::collection::vec(principal(), 0..4),
        disks in disks(),
    ) -> Definition {
        let [kernel, initrd_path, console_path] = paths;
        Definition {
            id: Some(MachineId::random().unwrap()),
            initrd: initrd.then(|| initrd_path.into()),
            append,
            memory: pages * 4096,
            hugepages,
            share_kernel,
            cpus,
            kernel_entry: if bzimage { KernelEntry::Bzimage } else { KernelEntry::Unpacked },
            console: console.then(|| console_path.into()),
            console_device: if virtio { ConsoleDevice::Virtio } else { ConsoleDevice::Serial },
            notes,
            disks,
            access: AccessList { read, execute },
            integration: super::Integration { host_time_sync, components },
            ..Definition::new(name, kernel)
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(definition in definition()) {
        let text = definition.to_toml().unwrap();
        prop_assert_eq!(parse(&text).unwrap(), definition);
    }

    #[test]
    fn case_37_no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn case_37_no_damage_makes_the_reader_panic(
        place in 0..WHOLE.len(),
        removed in 0..20_usize,
        put in "\\PC{0,6}|[\\[\\]\"'=\n.#{}]{0,4}",
    ) {
        let mut text = WHOLE.to_owned();
        let end = (place + removed).min(text.len());
        text.replace_range(place..end, &put);
        if let Err(error) = parse(&text) {
            prop_assert!(error.starts_with(FILE));
        }
    }

    #[test]
    fn case_37_no_value_makes_the_reader_panic(
        key in "name|id|kernel|initrd|append|memory|hugepages|share_kernel|cpus|kernel_entry|console|console_device|notes|access|integration|access.read",
        value in "-?[0-9]{1,40}|0x[0-9a-f]{1,40}|\"[a-z0-9=@ MGTK-]{0,40}\"|\\[\\]|\\{\\}|\\[\"\\PC{0,5}\"\\]|true|-?[0-9]\\.[0-9]e[0-9]{1,4}|inf|nan",
    ) {
        let _ = parse(&format!("{key} = {value}\n{}", WHOLE.lines().nth(1).unwrap()));
        let _ = parse(&format!("kernel = 'k'\nname = 'w'\n{key} = {value}"));
    }
}
