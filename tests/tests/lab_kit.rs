//! The integration disk in a guest whose image has no agent that runs: mounted by its label, and
//! installed from by hand.
//!
//! The judge is the guest: its own kernel reads the disk, its own init starts the agent, and its
//! `who` says who is logged on.

use std::env;
use std::fs;
use std::process::Command;
use tests::{Flavour, Machine, Recipe};

const FLAVOUR: Flavour = Flavour::BookwormCloud;

/// A guest in which alice is logged on, which can use disks, and whose agent keeps away.
fn machine_without_agent(name: &str, folder: &std::path::Path) -> Machine {
    let initrd = folder.join("initrd");
    let parts = [FLAVOUR.initrd(), FLAVOUR.disk_tools()].map(|part| fs::read(part).unwrap());
    fs::write(&initrd, parts.concat()).unwrap();
    let mut machine = Machine::start(&Recipe { initrd, ..Recipe::new(name, FLAVOUR, "alice") });
    machine.wait_for_shell();
    machine.console.run("touch /run/no-agent; killall vmm-agent");
    wait_until_gone(&machine);
    machine.wait_for_who(1);
    machine
}

fn wait_until_gone(machine: &Machine) {
    machine.wait_for_users("an agent is still there", |answer| answer.code == Some(5));
}

/// What the host's own program makes of the agent.
fn digest_here() -> String {
    let agent = env::var_os("VMM_AGENT").expect("`cargo xtask test` says where the agent is");
    let output = Command::new("sha256sum").arg(agent).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn an_agent_installed_from_the_disk_logs_users_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = machine_without_agent("kit", folder.path());
    let mut run = |command: &str| machine.console.run(command);
    run("use-disks vda");
    assert_eq!(run("cat /sys/block/vda/serial; echo; cat /sys/block/vda/ro"), "VMM-IC\n1");
    assert_eq!(run("/sbin/blkid -o value -s TYPE -s LABEL /dev/vda"), "VMM-IC\nromfs");
    assert_eq!(run("mount -r -t romfs \"$(/sbin/blkid -L VMM-IC)\" /mnt && echo in"), "in");
    let names = "README install vmm-agent vmm-agent.openrc vmm-agent.service vmm-agent.sysvinit";
    assert_eq!(run("cd /mnt; echo *; cd /"), names);
    let digest = run("sha256sum /mnt/vmm-agent");
    assert_eq!(digest.split(' ').next().unwrap(), digest_here());
    let refused = run("echo x > /mnt/README && echo written");
    assert!(!refused.contains("written"), "{refused}");
    let refused = run("su alice -c /mnt/install; echo ended with $?");
    assert!(refused.contains("by root") && refused.ends_with("ended with 1"), "{refused}");

    let version = run("/mnt/vmm-agent --version");
    let said = run("/mnt/install; echo ended with $?");
    assert!(said.contains(&format!("{version} is installed (busybox)")), "{said}");
    assert!(said.ends_with("ended with 0"), "{said}");
    machine.wait_for_agent();
    let before = machine.console.run("pidof vmm-agent");
    let again = machine.console.run("/mnt/install; grep -c usr/sbin/vmm-agent /etc/inittab");
    assert!(again.ends_with("\n1"), "{again}");
    machine.wait_for_agent();
    assert_ne!(machine.console.run("sleep 2; pidof vmm-agent"), before);
    machine.wait_for_agent();

    let answer = machine.logoff(&[]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(answer.json()["report"]["sessions"][0]["user"], "alice", "{answer:?}");
    assert_eq!(machine.who(), [""; 0]);

    let said = machine.console.run("/mnt/install --uninstall; echo ended with $?");
    assert!(said.ends_with("ended with 0"), "{said}");
    wait_until_gone(&machine);
    let left = machine.console.run("ls /usr/sbin/vmm-agent* ; grep vmm-agent /etc/inittab");
    assert!(left.contains("No such file") && !left.contains("respawn"), "{left}");

    // Without an agent the host cannot, and says what to do; with the image's own it can.
    let answer = machine.vmm(&["integration", "install"], &[]);
    assert_eq!(answer.code, Some(5), "{answer:?}");
    assert!(answer.stdout.contains("/mnt/install"), "{answer:?}");
    machine.console.run("umount /mnt; rm /run/no-agent");
    machine.wait_for_agent();
    let there = machine.console.run("readlink /proc/$(pidof vmm-agent)/exe");
    assert_eq!(there, "/bin/vmm-agent");
    let shown = machine.vmm(&["integration", "show"], &[]).json();
    let version = version.trim_start_matches("vmm-agent ");
    assert_eq!(shown["disk"]["version"], version, "{shown}");
    assert_eq!(shown["agent"]["version"], version, "{shown}");
    assert_eq!(shown["newer"], false, "{shown}");
    let answer = machine.vmm(&["integration", "install"], &[]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(answer.json()["task"]["percent_completed"], 100, "{answer:?}");
    machine.wait_for_agent();
    let there = machine.console.run("readlink /proc/$(pidof vmm-agent)/exe; mount | grep romfs");
    assert_eq!(there, "/usr/sbin/vmm-agent");
    assert_eq!(machine.logoff(&[]).code, Some(8), "nobody is logged on");
    let (status, stderr) = machine.power_off();
    assert_eq!(status.code(), Some(0), "{stderr}");
}
