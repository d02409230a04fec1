//! What a machine is made of: the configuration, and the checks it must pass.

mod components;
mod console;
mod disk;
mod net;
mod parts;
mod size;

pub use components::Components;
pub use console::{Console, ConsoleDevice};
pub use disk::{DISKS_MAX, Disk, DiskFormat, DiskTextError, DisksError, check_disks};
pub use net::{Mac, MacError, Net, NetTextError, NetsError, check_nets, is_tap_name};
pub use size::{Size, parse_size};

use crate::memory::HUGE_PAGE;
use crate::x86::layout::{CMDLINE_MAX, VIRTIO_MAX};
use crate::x86::smbios::{OEM_STRINGS_COUNT, OEM_STRINGS_MAX};
use protocol::HResult;
use std::path::PathBuf;

/// The longest name, in characters.
pub const NAME_MAX: usize = 80;
/// Characters that no name may have.
pub const NAME_FORBIDDEN: &str = r#"*?:<>/\|""#;
/// The least RAM, in bytes: a kernel alone needs more than this.
pub const MEMORY_MIN: u64 = 16 << 20;
/// RAM that a machine gets if nobody says otherwise, in bytes.
pub const MEMORY_DEFAULT: u64 = 512 << 20;

/// Virtio devices that every machine has: vsock, the source of randomness, and the balloon.
pub const DEVICES_OF_EVERY_MACHINE: usize = 3;
/// Disks and network interfaces that a machine may have together, and a virtio console if there is
/// one: there is an interrupt line for each.
pub const DEVICES_MAX: usize = VIRTIO_MAX - DEVICES_OF_EVERY_MACHINE;

/// Which entry of a bzImage is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelEntry {
    /// The kernel is unpacked by the monitor and entered where it was linked to run.
    #[default]
    Unpacked,
    /// The guest unpacks itself, and chooses its own address.
    Bzimage,
}

/// A machine that can be started.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The machine's name: 1 to [`NAME_MAX`] characters, none of [`NAME_FORBIDDEN`], no control
    /// character.
    pub name: String,
    /// The kernel: an ELF `vmlinux` or a `bzImage`.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Words put after the monitor's own on the kernel command line.
    pub append: String,
    /// RAM in bytes: a multiple of 4,096.
    pub memory: u64,
    /// Whether RAM is [huge pages](crate::memory::map_huge) that the host has reserved.
    pub hugepages: bool,
    /// Whether machines on the same kernel have those of its pages in common that they leave as they are. Not
    /// with huge pages, and not with a kernel that unpacks itself.
    pub share_kernel: bool,
    /// Virtual CPUs: 1 to 255.
    pub cpus: u8,
    /// Disks: `/dev/vda` and so on in Linux guests, in this order.
    pub disks: Vec<Disk>,
    /// Network interfaces, in this order.
    pub nets: Vec<Net>,
    /// The machine's UUID, which its guest finds in the SMBIOS tables, in the order of its text.
    pub uuid: Option<[u8; 16]>,
    /// Words for the guest's programs, in the SMBIOS tables: at most [`OEM_STRINGS_COUNT`], and
    /// [`OEM_STRINGS_MAX`] bytes with a NUL behind each.
    pub oem_strings: Vec<String>,
    /// What the monitor brings along for the guest.
    pub integration: Components,
    /// The console.
    pub console: Console,
    /// The device that it is on in the guest.
    pub console_device: ConsoleDevice,
    /// The entry of a bzImage.
    pub kernel_entry: KernelEntry,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no name.
    #[error("the machine's name is empty")]
    NameEmpty,
    /// The name is too long.
    #[error("the machine's name has {0} characters, {NAME_MAX} are allowed")]
    NameTooLong(usize),
    /// The name has a character that names may not have.
    #[error(
        "the machine's name has the character {0:?}; control characters and {NAME_FORBIDDEN} are \
         not allowed, and it may not be . or .."
    )]
    NameCharacter(char),
    /// RAM is too little, or not whole pages.
    #[error("{0} bytes of RAM: it must be a multiple of 4096, and at least {least}", least = Size(MEMORY_MIN))]
    Memory(u64),
    /// RAM is not whole huge pages.
    #[error("{0} bytes of RAM: with huge pages it must be a multiple of 2 MiB")]
    HugePages(u64),
    /// The kernel's pages would be parts of huge ones.
    #[error("a kernel's pages cannot be shared where RAM is huge pages: they are small ones")]
    ShareHugePages,
    /// The kernel's pages are the guest's own.
    #[error("a kernel that unpacks itself has no pages that could be shared: enter it unpacked")]
    ShareBzimage,
    /// The host has less.
    #[error("{} of RAM were asked for, but this host has {}", Size(*asked), Size(*host))]
    MemoryOfHost {
        /// What the machine is to have, in bytes.
        asked: u64,
        /// What the host has, in bytes.
        host: u64,
    },
    /// No processors.
    #[error("a machine needs at least one processor")]
    Cpus,
    /// The disks.
    #[error(transparent)]
    Disks(#[from] DisksError),
    /// The network interfaces.
    #[error(transparent)]
    Nets(#[from] NetsError),
    /// There are more devices than interrupt lines for them.
    #[error(
        "this machine can have {most} disks and network interfaces together, and is to have {disks} and \
         {nets}"
    )]
    Devices {
        /// How many disks.
        disks: usize,
        /// How many network interfaces.
        nets: usize,
        /// How many they may be together.
        most: usize,
    },
    /// The OEM strings are too many or too long together.
    #[error(
        "there are {count} OEM strings of {bytes} bytes; {OEM_STRINGS_COUNT} of together \
         {OEM_STRINGS_MAX} bytes are allowed"
    )]
    OemStrings {
        /// How many there are.
        count: usize,
        /// Their bytes, with a NUL behind each.
        bytes: usize,
    },
    /// An OEM string is empty or has a NUL.
    #[error("OEM string {0} is empty, or has a NUL")]
    OemString(usize),
    /// The command line has a character that no command line can have.
    #[error("the kernel command line has the control character {0:?}")]
    CmdlineCharacter(char),
    /// The command line is too long.
    #[error("the kernel command line has {0} bytes, {max} are allowed", max = CMDLINE_MAX - 1)]
    CmdlineTooLong(usize),
}

impl ConfigError {
    /// The documented code of this error.
    #[must_use]
    pub fn code(&self) -> HResult {
        match self {
            Self::NameEmpty => HResult::VM_E_CONFIG_NO_NAME,
            Self::NameTooLong(_) => HResult::VM_E_CONFIG_NAME_TOO_LONG,
            Self::NameCharacter(_) => HResult::VM_E_CONFIG_NAME_INVALID_CHAR,
            Self::MemoryOfHost { .. } => HResult::VM_E_OUT_OF_RESOURCE,
            _ => HResult::E_INVALIDARG,
        }
    }
}

impl MachineConfig {
    /// A machine of one processor, [`MEMORY_DEFAULT`] of RAM, no disk and no console.
    #[must_use]
    pub fn new(name: impl Into<String>, kernel: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            kernel: kernel.into(),
            initrd: None,
            append: String::new(),
            memory: MEMORY_DEFAULT,
            hugepages: false,
            share_kernel: false,
            cpus: 1,
            disks: Vec::new(),
            nets: Vec::new(),
            uuid: None,
            oem_strings: Vec::new(),
            integration: Components::Auto,
            console: Console::None,
            console_device: ConsoleDevice::default(),
            kernel_entry: KernelEntry::Unpacked,
        }
    }

    /// The kernel command line: the monitor's words, then those of the configuration, so that the
    /// latter win.
    ///
    /// A kernel that panics is to reboot at once (`panic=-1`): the monitor takes a reset after the
    /// words of a panic for the end of the machine. And it is to reboot through ACPI (`reboot=a`):
    /// with hardware-reduced tables Linux would try EFI first, and then hang in a BIOS call. There is
    /// no PCI here (`pci=off`): looking for it costs some 70 port exits. Linux still says that it
    /// found none. And there is one serial port (`8250.nr_uarts=1`): looking for three more costs 18.
    ///
    /// Nor need it try its implementations of ciphers at every boot (`cryptomgr.notests`): Linux does
    /// not unless its distributor says so, as Debian's does, and then that is half of a boot's
    /// instructions. Whoever wants it says `cryptomgr.notests=0`; with `fips=1` it is done anyway.
    #[must_use]
    pub fn cmdline(&self) -> String {
        let console = match self.console {
            Console::None => String::new(),
            Console::Stdio | Console::File(_) | Console::Attach => {
                format!("console={} ", self.console_device.terminal())
            }
        };
        const WORDS: &str = "panic=-1 reboot=a pci=off 8250.nr_uarts=1 cryptomgr.notests";
        format!("{console}{WORDS} {}", self.append).trim_end().to_owned()
    }

    /// The address of network interface `index`, which it is given or has from the machine's
    /// identity.
    #[must_use]
    pub fn mac(&self, index: usize) -> Mac {
        let given = self.nets.get(index).and_then(|net| net.mac);
        given.unwrap_or_else(|| Mac::derived(self.uuid, &self.name, index))
    }

    /// How many of [`DEVICES_MAX`] devices it has.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.disks.len() + self.nets.len() + self.console_device.virtio_devices()
    }

    /// Checks everything that can be checked without opening a file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_name(&self.name)?;
        if self.memory < MEMORY_MIN || !self.memory.is_multiple_of(crate::memory::PAGE_SIZE) {
            return Err(ConfigError::Memory(self.memory));
        }
        if self.hugepages && !self.memory.is_multiple_of(HUGE_PAGE) {
            return Err(ConfigError::HugePages(self.memory));
        }
        if self.share_kernel && self.hugepages {
            return Err(ConfigError::ShareHugePages);
        }
        if self.share_kernel && self.kernel_entry == KernelEntry::Bzimage {
            return Err(ConfigError::ShareBzimage);
        }
        let host = host_memory();
        if host < self.memory {
            return Err(ConfigError::MemoryOfHost { asked: self.memory, host });
        }
        if self.cpus == 0 {
            return Err(ConfigError::Cpus);
        }
        check_disks(&self.disks)?;
        check_nets(&self.nets)?;
        let (disks, nets) = (self.disks.len(), self.nets.len());
        if self.devices() > DEVICES_MAX {
            let most = DEVICES_MAX - self.console_device.virtio_devices();
            return Err(ConfigError::Devices { disks, nets, most });
        }
        check_oem_strings(&self.oem_strings)?;
        let cmdline = self.cmdline();
        if let Some(character) = cmdline.chars().find(|c| c.is_control()) {
            return Err(ConfigError::CmdlineCharacter(character));
        }
        if cmdline.len() >= CMDLINE_MAX {
            return Err(ConfigError::CmdlineTooLong(cmdline.len()));
        }
        Ok(())
    }
}

/// Checks a machine's name, which becomes the name of a directory.
///
/// # Errors
/// It is empty, too long, or has a character that is not allowed.
pub fn check_name(name: &str) -> Result<(), ConfigError> {
    let length = name.chars().count();
    if length == 0 {
        return Err(ConfigError::NameEmpty);
    }
    if length > NAME_MAX {
        return Err(ConfigError::NameTooLong(length));
    }
    let bad = |c: &char| c.is_control() || NAME_FORBIDDEN.contains(*c);
    if let Some(character) = name.chars().find(bad) {
        return Err(ConfigError::NameCharacter(character));
    }
    if matches!(name, "." | "..") {
        return Err(ConfigError::NameCharacter('.'));
    }
    Ok(())
}

fn check_oem_strings(strings: &[String]) -> Result<(), ConfigError> {
    let (count, bytes) = (strings.len(), strings.iter().map(|string| string.len() + 1).sum());
    if count > OEM_STRINGS_COUNT || bytes > OEM_STRINGS_MAX {
        return Err(ConfigError::OemStrings { count, bytes });
    }
    match strings.iter().position(|string| string.is_empty() || string.contains('\0')) {
        Some(index) => Err(ConfigError::OemString(index + 1)),
        None => Ok(()),
    }
}

/// The host's RAM in bytes.
pub(crate) fn host_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut MachineConfig)) -> Result<(), ConfigError> {
        let mut config = MachineConfig::new("web", "/boot/vmlinuz");
        change(&mut config);
        config.validate()
    }

    #[test]
    fn oem_strings_that_no_table_can_have_are_refused() {
        let strings = |strings: Vec<String>| with(|config| config.oem_strings = strings);
        assert_eq!(strings(vec!["x".repeat(OEM_STRINGS_MAX - 1)]), Ok(()));
        assert_eq!(strings(vec!["x".into(); OEM_STRINGS_COUNT]), Ok(()));
        for bad in [vec!["x".repeat(OEM_STRINGS_MAX)], vec!["x".into(); OEM_STRINGS_COUNT + 1]] {
            assert!(matches!(strings(bad), Err(ConfigError::OemStrings { .. })));
        }
        for bad in ["", "a\0b"] {
            assert_eq!(strings(vec!["x".into(), bad.into()]), Err(ConfigError::OemString(2)));
        }
    }

    #[test]
    fn a_plain_machine_is_valid() {
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|config| config.name = "é".repeat(NAME_MAX)), Ok(()));
    }

    #[test]
    fn names_follow_the_documented_rules() {
        assert_eq!(with(|config| config.name.clear()), Err(ConfigError::NameEmpty));
        let long = with(|config| config.name = "x".repeat(81)).unwrap_err();
        assert_eq!(long.code(), HResult::VM_E_CONFIG_NAME_TOO_LONG);
        for character in NAME_FORBIDDEN.chars().chain(['\0', '\n', '\x7f']) {
            let error = with(|config| config.name = format!("a{character}b")).unwrap_err();
            assert_eq!(error, ConfigError::NameCharacter(character));
            assert_eq!(error.code(), HResult::VM_E_CONFIG_NAME_INVALID_CHAR);
        }
        assert!(check_name(".").is_err() && check_name("..").is_err());
        assert!(check_name("...").is_ok());
    }

    #[test]
    fn the_kernel_is_told_what_its_console_is_on() {
        let mut config = MachineConfig::new("web", "");
        assert!(!config.cmdline().contains("console="), "nobody would see it");
        config.console = Console::Attach;
        assert!(config.cmdline().starts_with("console=ttyS0 "));
        config.console_device = ConsoleDevice::Virtio;
        assert!(config.cmdline().starts_with("console=hvc0 "));
    }

    #[test]
    fn case_36_ram_must_be_whole_pages_and_within_the_host() {
        for memory in [0, 4096, MEMORY_MIN - 1, MEMORY_MIN + 1] {
            assert_eq!(with(|config| config.memory = memory), Err(ConfigError::Memory(memory)));
        }
        let huge = |memory| with(|config| (config.memory, config.hugepages) = (memory, true));
        assert_eq!(huge(32 << 20), Ok(()));
        assert_eq!(huge((32 << 20) + 4096), Err(ConfigError::HugePages((32 << 20) + 4096)));
        let error = with(|config| config.memory = 1 << 60).unwrap_err();
        assert!(matches!(error, ConfigError::MemoryOfHost { asked, .. } if asked == 1 << 60));
    }

    #[test]
    fn a_machine_has_no_more_devices_than_interrupt_lines() {
        let disks = || (0..DISKS_MAX).map(|n| Disk::new(n.to_string())).collect();
        let nets = |count: usize| (0..count).map(|n| Net::new(n.to_string())).collect();
        let machine = |count| with(|config| (config.disks, config.nets) = (disks(), nets(count)));
        let most = VIRTIO_MAX - DEVICES_OF_EVERY_MACHINE - DISKS_MAX;
        assert_eq!(machine(most), Ok(()));
        let too_many = |nets, most| ConfigError::Devices { disks: DISKS_MAX, nets, most };
        assert_eq!(machine(most + 1), Err(too_many(most + 1, DEVICES_MAX)));
        let with_console = with(|config| {
            (config.disks, config.nets) = (disks(), nets(most));
            config.console_device = ConsoleDevice::Virtio;
        });
        assert_eq!(with_console, Err(too_many(most, DEVICES_MAX - 1)));
        let mut config = MachineConfig::new("web", "");
        config.nets = vec![Net::new("a"), "tap=b,mac=02:00:00:00:00:01".parse().unwrap()];
        assert_eq!(config.mac(0), Mac::derived(None, "web", 0));
        assert_eq!(config.mac(1).bytes(), [2, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn case_35_command_lines_that_no_kernel_could_read_are_refused() {
        assert_eq!(
            with(|config| config.append = "a\0b".into()),
            Err(ConfigError::CmdlineCharacter('\0'))
        );
        assert!(with(|config| config.append = "a\nb".into()).is_err());
        let ours = MachineConfig::new("web", "").cmdline().len() + 1;
        let longest = CMDLINE_MAX - 1 - ours;
        assert_eq!(with(|config| config.append = "x".repeat(longest)), Ok(()));
        assert_eq!(
            with(|config| config.append = "x".repeat(longest + 1)),
            Err(ConfigError::CmdlineTooLong(CMDLINE_MAX))
        );
    }
}
