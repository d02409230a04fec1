//! Stock kernels from exec to the agent's hello, and every way in which a machine ends.

use std::fs;
use tests::{Flavour, Machine, Recipe, memory, not_tested};

/// Boots to the agent's hello, sees the kernel, its processors and their timers from inside, powers
/// off.
fn boots(kernel: &str, recipe: &Recipe) {
    let mut machine = Machine::boot(recipe);
    let release = machine.console.run("uname -r");
    assert!(release.contains(kernel), "{release} is no {kernel} kernel");
    assert_eq!(machine.console.run("grep -c ^processor /proc/cpuinfo"), recipe.cpus.to_string());
    // A kernel whose timers end with its ticks wakes idle processors some hundred times a second.
    let exact = machine.console.run("grep -c 'hres_active *: 1' /proc/timer_list");
    assert_eq!(exact, recipe.cpus.to_string(), "processors with timers of high resolution");
    let (status, stderr) = machine.power_off();
    assert_eq!(status.code(), Some(0), "{stderr}");
}

fn recipe(name: &str, flavour: Flavour, cpus: u8) -> Recipe {
    Recipe { cpus, ..Recipe::new(name, flavour, "none") }
}

#[test]
fn debian_12_cloud_boots_with_one_cpu() {
    boots("cloud", &recipe("b12c1", Flavour::BookwormCloud, 1));
}

#[test]
fn debian_12_cloud_boots_with_two_cpus() {
    boots("cloud", &recipe("b12c2", Flavour::BookwormCloud, 2));
}

#[test]
fn debian_12_generic_boots_with_one_cpu() {
    boots("6.1", &recipe("b12g1", Flavour::Bookworm, 1));
}

#[test]
fn debian_12_generic_boots_with_two_cpus() {
    boots("6.1", &recipe("b12g2", Flavour::Bookworm, 2));
}

#[test]
fn debian_13_cloud_boots_with_one_cpu() {
    boots("6.12", &recipe("b13c1", Flavour::TrixieCloud, 1));
}

#[test]
fn debian_13_cloud_boots_with_two_cpus() {
    boots("6.12", &recipe("b13c2", Flavour::TrixieCloud, 2));
}

#[test]
fn an_extracted_vmlinux_boots_with_one_cpu() {
    let flavour = Flavour::BookwormCloud;
    boots("cloud", &Recipe { kernel: flavour.vmlinux(), ..recipe("elf1", flavour, 1) });
}

#[test]
fn an_extracted_vmlinux_boots_with_two_cpus() {
    let flavour = Flavour::BookwormCloud;
    boots("cloud", &Recipe { kernel: flavour.vmlinux(), ..recipe("elf2", flavour, 2) });
}

/// Huge pages of 2 MiB, as the host keeps account of them.
fn huge_pages(what: &str) -> u64 {
    let text = fs::read_to_string(format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{what}"));
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn a_machine_gets_reserved_huge_pages_for_its_ram_and_returns_them() {
    const PAGES: u64 = 128;
    let recipe = recipe("huge", Flavour::BookwormCloud, 1);
    let recipe = Recipe { hugepages: true, ..recipe };
    // Too few are refused before anything runs, with what is missing.
    if huge_pages("nr_hugepages") == 0 {
        let (status, stderr) = Machine::start(&recipe).wait();
        assert_eq!(status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("128 huge pages") && stderr.contains("echo 128 >"), "{stderr}");
    }
    let before = huge_pages("nr_hugepages");
    let all = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let reserved = fs::write(all, (before + PAGES).to_string());
    let available = || huge_pages("free_hugepages") - huge_pages("resv_hugepages");
    if reserved.is_err() || available() < PAGES {
        let _ = fs::write(all, before.to_string());
        not_tested("this host reserves no 128 huge pages");
        return;
    }
    let free = available();
    let mut machine = Machine::boot(&recipe);
    assert_eq!(free - available(), PAGES, "all of them from the start");
    machine.console.type_line("reboot -f");
    machine.wait_for_shell();
    machine.wait_for_agent();
    assert_eq!(free - available(), PAGES);
    let (status, stderr) = machine.power_off();
    assert_eq!((status.code(), available()), (Some(0), free), "{stderr}");
    fs::write(all, before.to_string()).expect("it was written before");
}

#[test]
fn machines_that_share_their_kernel_have_pages_of_it_in_common_also_after_a_reboot() {
    const LEAST_KIB: u64 = 8 << 10;
    let recipe = |name| recipe(name, Flavour::BookwormCloud, 1);
    let shared = |machine: &Machine| memory::of(machine.pid()).expect("it runs").shared;
    let alone = Machine::boot(&recipe("alone"));
    assert_eq!(shared(&alone), 0);
    assert_eq!(alone.power_off().0.code(), Some(0));
    let boot = |name| Machine::boot(&Recipe { share_kernel: true, ..recipe(name) });
    let (mut one, other) = (boot("share1"), boot("share2"));
    for machine in [&one, &other] {
        assert!(shared(machine) > LEAST_KIB, "{} KiB", shared(machine));
    }
    one.console.type_line("reboot -f");
    one.wait_for_shell();
    one.wait_for_agent();
    assert!(shared(&one) > LEAST_KIB, "{} KiB", shared(&one));
    for machine in [one, other] {
        let (status, stderr) = machine.power_off();
        assert_eq!(status.code(), Some(0), "{stderr}");
    }
}

#[test]
fn a_reboot_boots_again_and_the_agent_comes_back() {
    let mut machine = Machine::boot(&recipe("again", Flavour::BookwormCloud, 1));
    let first = machine.console.run("cat /proc/sys/kernel/random/boot_id");
    machine.console.type_line("reboot -f");
    machine.wait_for_shell();
    machine.wait_for_agent();
    let second = machine.console.run("cat /proc/sys/kernel/random/boot_id");
    assert_ne!(first, second);
    let (status, stderr) = machine.power_off();
    assert_eq!(status.code(), Some(0), "{stderr}");
}

#[test]
fn a_machine_that_logs_more_than_warnings_is_confined_and_runs() {
    let recipe = recipe("talks", Flavour::BookwormCloud, 1);
    let mut command = recipe.command("run");
    command.env("VMM_LOG", "debug");
    let mut machine = Machine::under(&recipe.name, command, recipe.echo);
    machine.wait_for_shell();
    let (status, stderr) = machine.power_off();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("boot begins"), "{stderr}");
}

#[test]
fn a_kernel_panic_ends_the_machine_with_its_own_code_and_the_kernels_words() {
    let mut machine = Machine::start(&recipe("panic", Flavour::BookwormCloud, 1));
    machine.wait_for_shell();
    machine.console.type_line("echo c > /proc/sysrq-trigger");
    let (status, stderr) = machine.wait();
    assert_eq!(status.code(), Some(10), "{stderr}");
    assert!(stderr.contains("panic") && stderr.contains("sysrq triggered crash"), "{stderr}");
}

#[test]
fn a_kernel_without_a_root_file_system_ends_with_the_panics_code() {
    let recipe =
        recipe("noroot", Flavour::BookwormCloud, 1).append("rdinit=/nothing root=/dev/nothing");
    let (status, stderr) = Machine::start(&recipe).wait();
    assert_eq!(status.code(), Some(10), "{stderr}");
    assert!(stderr.contains("panic"), "{stderr}");
}

#[test]
fn a_triple_fault_ends_the_machine_with_its_own_code() {
    // `reboot=t` makes the kernel reset by a triple fault instead of the ACPI register.
    let recipe = recipe("triple", Flavour::BookwormCloud, 1).append("reboot=t");
    let mut machine = Machine::start(&recipe);
    machine.wait_for_shell();
    machine.console.type_line("reboot -f");
    let (status, stderr) = machine.wait();
    assert_eq!(status.code(), Some(11), "{stderr}");
    assert!(stderr.contains("triple fault"), "{stderr}");
}
