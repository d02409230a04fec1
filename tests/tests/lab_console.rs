//! A stock kernel with its console on a virtio device.

use std::process::Command;
use tests::{Flavour, Machine, vmm_bin};

/// Numbers that are more than 1 MiB in words, with a line each.
const NUMBERS: u32 = 180_000;

#[test]
fn a_shell_on_a_virtio_console_is_typed_to_and_prints_a_mebibyte_whole() {
    let flavour = Flavour::BookwormCloud;
    let mut command = Command::new(vmm_bin());
    command.args(["run", "hvc", "--memory", "256M", "--append", "quiet logins=none"]);
    command.arg("--kernel").arg(flavour.kernel()).arg("--initrd").arg(flavour.initrd());
    command.args(["--console-device", "virtio"]);
    let mut machine = Machine::under("hvc", command, false);
    machine.wait_for_shell();
    assert_eq!(machine.console.run("cat /sys/class/tty/console/active"), "hvc0");

    let expected: String = (1..=NUMBERS).map(|number| format!("{number}\n")).collect();
    assert!(expected.len() > 1 << 20);
    // The terminal would write each line on its own, and its end as well.
    let print =
        format!("seq 1 {NUMBERS} > /run/numbers; stty -opost; cat /run/numbers; stty opost");
    let printed = machine.console.run(&print);
    assert_eq!(printed.len(), expected.len() - 1);
    assert!(printed == expected.trim_end(), "other text of the same length");

    // As long as a line of a terminal can nearly be, and more than a serial port has room for.
    let word = "x".repeat(3000);
    assert_eq!(machine.console.run(&format!("printf {word} | wc -c")), "3000");

    machine.console.type_line("reboot -f");
    machine.wait_for_shell();
    assert_eq!(machine.console.run("echo still here"), "still here");
    let (status, stderr) = machine.power_off();
    assert_eq!(status.code(), Some(0), "{stderr}");
}
