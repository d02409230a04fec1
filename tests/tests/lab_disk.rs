//! A stock kernel's file systems on disks: reboots, read-only disks, power cuts.
//!
//! The judge is the guest: its own mount, checksums and e2fsck; of qcow2 images also QEMU's tool.

use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatCreateBuilder};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::{Flavour, Machine, Recipe};
use vmm::config::{Disk, DiskFormat};
use vmm::disk::Image;

const FLAVOUR: Flavour = Flavour::BookwormCloud;
const MIB: u64 = 1 << 20;
/// Power cuts in the core of the tests. `VMM_POWER_CUTS` says how many there are to be instead: the
/// monitor is killed fifty times under other load in the tests that need no kernel.
const CUTS: u32 = 3;
/// The longest that some files may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Makes an image with `size` bytes of zeroes, and says how `--disk` takes it.
fn image(path: &Path, format: DiskFormat, size: u64) -> String {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    match format {
        DiskFormat::Raw => file.set_len(size).unwrap(),
        DiskFormat::Qcow2 => {
            let storage = Storage::try_from(file).unwrap();
            let builder = Qcow2::<Storage, FormatAccess<Storage>>::create_builder(storage);
            builder.size(size).create().unwrap();
        }
    }
    format!("path={},format={}", path.display(), format.name())
}

/// A guest that can have file systems on disks, its user space in `folder`.
fn recipe(name: &str, folder: &Path, disks: Vec<String>) -> Recipe {
    let initrd: PathBuf = folder.join("initrd");
    let parts = [FLAVOUR.initrd(), FLAVOUR.disk_tools()].map(|part| fs::read(part).unwrap());
    fs::write(&initrd, parts.concat()).unwrap();
    Recipe { initrd, disks, ..Recipe::new(name, FLAVOUR, "none") }
}

/// Mounts `disk`, whose file system is made if `fresh`.
fn mount(machine: &mut Machine, disk: &str, fresh: bool) {
    if fresh {
        let made =
            machine.console.run(&format!("/sbin/mke2fs -q -t ext4 /dev/{disk} && echo made"));
        assert!(made.ends_with("made"), "{made}");
    }
    let command = format!("mkdir -p /mnt/{disk}; mount -t ext4 /dev/{disk} /mnt/{disk} && echo in");
    let mounted = machine.console.run(&command);
    assert!(mounted.ends_with("in"), "{mounted}");
}

/// Looks whether the image is one that can be written, and what QEMU finds wrong with it: after a
/// `cut`, space may be lost.
fn is_whole(path: &Path, format: DiskFormat, cut: bool) {
    drop(Image::open(&Disk { format, ..Disk::new(path) }).unwrap());
    if format == DiskFormat::Qcow2 {
        let check = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(path).output();
        let found = check.expect("qemu-img runs; it is in the package qemu-utils");
        // 0: all is well; 3: space is lost; all else is damage.
        let code = found.status.code();
        assert!(code == Some(0) || cut && code == Some(3), "{found:?}");
    }
}

#[test]
fn file_systems_on_raw_and_qcow2_disks_survive_a_reboot() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let disks = vec![
        image(&at("raw"), DiskFormat::Raw, 64 * MIB),
        image(&at("qcow2"), DiskFormat::Qcow2, 64 * MIB),
        image(&at("only-read"), DiskFormat::Raw, MIB) + ",readonly",
    ];
    let mut machine = Machine::start(&recipe("disks", folder.path(), disks));
    machine.wait_for_shell();
    machine.console.run("use-disks vda vdb vdc");
    assert_eq!(machine.console.run("cat /sys/block/vd[abc]/size"), "131072\n131072\n2048");
    assert_eq!(machine.console.run("cat /sys/block/vd[abc]/ro"), "0\n0\n1");
    assert_eq!(machine.console.run("cat /sys/block/vd[abc]/serial"), "disk-0disk-1disk-2");
    assert_eq!(machine.console.run("cat /sys/block/vda/queue/write_cache"), "write back");
    let refused = machine.console.run("echo x > /dev/vdc && echo written");
    assert!(!refused.contains("written"), "{refused}");
    for disk in ["vda", "vdb"] {
        mount(&mut machine, disk, true);
        // Several hundred files, and a large one.
        machine.console.run(&format!("cp -r /bin /lib /mnt/{disk}"));
        machine.console.run(&format!("head -c 8000000 /dev/urandom > /mnt/{disk}/large"));
        machine.console.run(&format!("fstrim /mnt/{disk}"));
    }
    let sums = "cd /mnt; find vda vdb -type f | sort | xargs md5sum | md5sum; cd /";
    let before = machine.console.run(sums);
    machine.console.run("sync");
    machine.console.type_line("reboot -f");
    machine.wait_for_shell();
    machine.console.run("use-disks vda vdb vdc");
    for disk in ["vda", "vdb"] {
        mount(&mut machine, disk, false);
    }
    assert_eq!(machine.console.run(sums), before);
    for disk in ["vda", "vdb"] {
        machine.console.run(&format!("umount /mnt/{disk}"));
        let found =
            machine.console.run(&format!("/sbin/e2fsck -f -n /dev/{disk}; echo ended with $?"));
        assert!(found.ends_with("ended with 0"), "{found}");
    }
    let (status, stderr) = machine.power_off();
    assert_eq!(status.code(), Some(0), "{stderr}");
    is_whole(&at("raw"), DiskFormat::Raw, false);
    is_whole(&at("qcow2"), DiskFormat::Qcow2, false);
}

/// Writes files and syncs each until the monitor is killed, again and again.
fn survives_power_cuts(name: &str, format: DiskFormat) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let recipe = recipe(name, folder.path(), vec![image(&path, format, 64 * MIB)]);
    let cuts = std::env::var("VMM_POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let mut safe = 0;
    for cut in 0..=cuts {
        let mut machine = Machine::start(&recipe);
        machine.wait_for_shell();
        machine.console.run("use-disks vda");
        mount(&mut machine, "vda", cut == 0);
        // In the guest, file by file: the console takes long for each line.
        let look = format!(
            "whole=0; n=0; while [ $n -lt {safe} ]; do n=$((n + 1)); file=/mnt/vda/$n; read line < $file; \
             [ \"$line\" = \"number $n\" ] && [ $(wc -c < $file) = 20000 ] && \
             whole=$((whole + 1)) || echo \"lost $n: $line\"; done; \
             echo whole: $whole"
        );
        let found = machine.console.run(&look);
        assert_eq!(found, format!("whole: {safe}"), "after {cut} cuts");
        if cut == cuts {
            // The journal was played when it was mounted; nothing else may have to be mended.
            machine.console.run("umount /mnt/vda");
            let found = machine.console.run("/sbin/e2fsck -f -n /dev/vda; echo ended with $?");
            assert!(found.ends_with("ended with 0"), "{found}");
            let (status, stderr) = machine.power_off();
            assert_eq!(status.code(), Some(0), "{stderr}");
            break;
        }
        // A file and its name are safe when their number is said.
        let line = format!(
            "n={safe}; while n=$((n + 1)); do \
             (echo number $n; head -c 20000 /dev/zero) | head -c 20000 | \
             dd of=/mnt/vda/$n conv=fsync 2> /dev/null && echo safe:$n:; done"
        );
        machine.console.type_line(&line);
        let target = safe + 4 + cut % 3;
        for number in safe + 1..=target {
            machine.console.expect(&format!("safe:{number}:"), LIMIT);
        }
        safe = target;
        // In the midst of the next.
        drop(machine);
        is_whole(&path, format, true);
    }
    is_whole(&path, format, true);
}

#[test]
fn a_file_system_on_a_raw_disk_survives_power_cuts() {
    survives_power_cuts("cutraw", DiskFormat::Raw);
}

#[test]
fn a_file_system_on_a_qcow2_disk_survives_power_cuts() {
    survives_power_cuts("cutqcow2", DiskFormat::Qcow2);
}
