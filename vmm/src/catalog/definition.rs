//! The definition of a machine: the TOML file that says what it is made of.
//!
//! ```toml
//! name = "web"
//! id = "0b3c9a52-8d5e-4f7a-9c1d-2e3f4a5b6c7d"
//! kernel = "/boot/vmlinuz"        # paths may be relative to the file's directory
//! initrd = "initrd.img"
//! append = "root=/dev/vda"
//! memory = "512M"                 # or a number of bytes
//! hugepages = false               # or true: RAM is huge pages that the host has reserved
//! share_kernel = false            # or true: machines on the same kernel have pages of it in common
//! cpus = 2
//! kernel_entry = "unpacked"       # or "bzimage"
//! console = "none"                # or "file=PATH"
//! console_device = "serial"       # or "virtio"
//! notes = "the web server"
//! oem_strings = ["io.systemd.credential:motd=hello"]
//!
//! [[disk]]
//! path = "root.img"
//! readonly = false
//! format = "raw"                  # or "qcow2"
//!
//! [[net]]
//! tap = "tap0"
//!
//! [access]
//! read = ["bob"]
//! execute = ["@staff"]
//!
//! [integration]
//! host_time_sync = true
//! components = "auto"             # or "off": the machine gets no integration disk
//! ```
//!
//! Name and kernel must be there. What is not known is an error, never ignored.

use super::access::{AccessList, EXPECTED_PRINCIPAL, Principal};
use super::disks::{self, DISK};
use super::fault::{DefinitionError, Fault};
use super::id::MachineId;
use super::nets::{self, NET};
use super::reader::{self, Known, Section, integer};
use crate::config::{
    Components, Console, ConsoleDevice, Disk, KernelEntry, MEMORY_DEFAULT, MEMORY_MIN,
    MachineConfig, Net, check_name, parse_size,
};
use crate::memory::PAGE_SIZE;
use crate::x86::layout::CMDLINE_MAX;
use serde::{Serialize, Serializer};
use std::path::{Path, PathBuf};
use toml::de::DeValue;

/// The most bytes that a definition may have.
pub const FILE_MAX: usize = 64 << 10;

static TOP: Known = Known {
    table: "",
    keys: &[
        "name",
        "id",
        "kernel",
        "initrd",
        "append",
        "memory",
        "hugepages",
        "share_kernel",
        "cpus",
        "kernel_entry",
        "console",
        "console_device",
        "notes",
        "oem_strings",
        "disk",
        "net",
        "access",
        "integration",
    ],
};
static ACCESS: Known = Known { table: "access", keys: &["read", "execute"] };
static INTEGRATION: Known = Known { table: "integration", keys: &["host_time_sync", "components"] };

pub(super) const PATH: &str = "the path of a file";
const NAME: &str = r#"1 to 80 characters, none of *?:<>/\|" and no control character"#;
const ID: &str = "a UUID: 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12";
const BOOLEAN: &str = "true or false";
const OEM_STRING: &str = "text, not empty and without NUL";
const MEMORY: &str = r#"a size such as "512M", at least 16 MiB and a multiple of 4096 bytes"#;

/// What a machine is made of, as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The machine's name: see [`check_name`].
    pub name: String,
    /// Its identity. Whatever is created has one; a definition written by hand may have none.
    pub id: Option<MachineId>,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Words put after the monitor's own on the kernel command line.
    pub append: String,
    /// RAM in bytes.
    pub memory: u64,
    /// Whether RAM is huge pages that the host has reserved.
    pub hugepages: bool,
    /// Whether machines on the same kernel have pages of it in common.
    pub share_kernel: bool,
    /// Virtual CPUs.
    pub cpus: u8,
    /// The entry of a bzImage.
    pub kernel_entry: KernelEntry,
    /// The file that the console's output goes to.
    pub console: Option<PathBuf>,
    /// The device that the console is on in the guest.
    pub console_device: ConsoleDevice,
    /// Whatever its owner wants to remember.
    pub notes: String,
    /// Words for the guest's programs, in its SMBIOS tables: see [`MachineConfig::oem_strings`].
    pub oem_strings: Vec<String>,
    /// Its disks, in the order in which the guest sees them.
    pub disks: Vec<Disk>,
    /// Its network interfaces, in the order in which the guest sees them.
    pub nets: Vec<Net>,
    /// Who else may use it.
    pub access: AccessList,
    /// What the guest's agent is asked to do unbidden.
    pub integration: Integration,
}

/// What the guest's agent is asked to do unbidden, and whether it is brought along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Integration {
    /// Whether the guest's clock follows the host's.
    pub host_time_sync: bool,
    /// Whether the machine gets an integration disk, if there is an agent for it.
    #[serde(serialize_with = "components_name")]
    pub components: bool,
}

impl Default for Integration {
    fn default() -> Self {
        Self { host_time_sync: true, components: true }
    }
}

/// As the file says it.
fn components_name<S: Serializer>(wanted: &bool, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(if *wanted { "auto" } else { "off" })
}

impl Definition {
    /// A machine as [`MachineConfig::new`] makes it.
    #[must_use]
    pub fn new(name: impl Into<String>, kernel: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            id: None,
            kernel: kernel.into(),
            initrd: None,
            append: String::new(),
            memory: MEMORY_DEFAULT,
            hugepages: false,
            share_kernel: false,
            cpus: 1,
            kernel_entry: KernelEntry::default(),
            console: None,
            console_device: ConsoleDevice::default(),
            notes: String::new(),
            oem_strings: Vec::new(),
            disks: Vec::new(),
            nets: Vec::new(),
            access: AccessList::default(),
            integration: Integration::default(),
        }
    }

    /// Reads a definition; `path` is where it comes from, for messages. Looks at no other file.
    ///
    /// # Errors
    /// What is wrong with it: the first unknown key, else the first value.
    pub fn parse(text: &str, path: &Path) -> Result<Self, DefinitionError> {
        if text.len() > FILE_MAX {
            return Err(DefinitionError::new(path, None, Fault::TooLarge));
        }
        let table = reader::parse(text, path)?;
        let top = Section { file: path, text, known: &TOP, table: &table, begin: None };
        let disks = top.sections("disk", &DISK)?;
        let nets = top.sections("net", &NET)?;
        let access = top.section("access", &ACCESS)?;
        let integration = top.section("integration", &INTEGRATION)?;
        let one_each = [Some(top), access, integration].into_iter().flatten();
        for section in one_each.chain(disks.iter().chain(&nets).copied()) {
            section.refuse_unknown(&[&TOP, &DISK, &NET, &ACCESS, &INTEGRATION])?;
        }
        let mut definition = Self {
            name: top.need("name", NAME, name)?,
            id: top.get("id", ID, |value| value.as_str()?.parse().ok())?,
            kernel: top.need("kernel", PATH, file)?,
            initrd: top.get("initrd", PATH, file)?,
            append: top.get("append", "text on one line", one_line)?.unwrap_or_default(),
            memory: top.get("memory", MEMORY, memory)?.unwrap_or(MEMORY_DEFAULT),
            hugepages: top.get("hugepages", BOOLEAN, |value| value.as_bool())?.unwrap_or_default(),
            share_kernel: top
                .get("share_kernel", BOOLEAN, |value| value.as_bool())?
                .unwrap_or_default(),
            cpus: top.get("cpus", "a number from 1 to 255", cpus)?.unwrap_or(1),
            kernel_entry: top
                .get("kernel_entry", r#""unpacked" or "bzimage""#, kernel_entry)?
                .unwrap_or_default(),
            console: top.get("console", r#""none" or "file=PATH""#, console)?.flatten(),
            console_device: top
                .get("console_device", r#""serial" or "virtio""#, |value| {
                    value.as_str()?.parse().ok()
                })?
                .unwrap_or_default(),
            notes: top.get("notes", "text", text_of)?.unwrap_or_default(),
            oem_strings: top.list("oem_strings", OEM_STRING, oem_string)?,
            disks: disks::read(&disks, file)?,
            nets: Vec::new(),
            access: access.map(access_list).transpose()?.unwrap_or_default(),
            integration: integration.map(integration_of).transpose()?.unwrap_or_default(),
        };
        definition.nets = nets::read(&nets, disks.len(), definition.console_device)?;
        let length = definition.config(Path::new("/")).cmdline().len();
        if length >= CMDLINE_MAX {
            let fault = Fault::Value {
                key: "append".into(),
                expected: format!("a command line of at most {} bytes", CMDLINE_MAX - 1),
                found: format!("one of {length}"),
            };
            return Err(top.error(top.span("append"), fault));
        }
        Ok(definition)
    }

    /// The definition as TOML, which [`Definition::parse`] reads if all values are allowed ones.
    ///
    /// # Errors
    /// A path is not UTF-8, which TOML cannot say.
    pub fn to_toml(&self) -> Result<String, DefinitionError> {
        let file = File {
            name: &self.name,
            id: self.id.map(|id| id.to_string()),
            kernel: &self.kernel,
            initrd: self.initrd.as_deref(),
            append: &self.append,
            memory: size(self.memory),
            hugepages: self.hugepages,
            share_kernel: self.share_kernel,
            cpus: self.cpus,
            kernel_entry: match self.kernel_entry {
                KernelEntry::Unpacked => "unpacked",
                KernelEntry::Bzimage => "bzimage",
            },
            console: match self.console.as_ref().map(|path| path.to_str()) {
                None => "none".into(),
                Some(Some(path)) => format!("file={path}"),
                Some(None) => return Err(unwritable("the console's path is not UTF-8")),
            },
            console_device: self.console_device.name(),
            notes: &self.notes,
            oem_strings: &self.oem_strings,
            disk: self.disks.iter().map(disks::Written::from).collect(),
            net: self.nets.iter().map(nets::Written::from).collect(),
            access: Access { read: &self.access.read, execute: &self.access.execute },
            integration: self.integration,
        };
        toml::to_string(&file).map_err(|error| unwritable(error.to_string()))
    }

    /// The machine that is started from this definition, if that is in `directory`.
    #[must_use]
    pub fn config(&self, directory: &Path) -> MachineConfig {
        let at = |path: &PathBuf| directory.join(path);
        MachineConfig {
            name: self.name.clone(),
            kernel: at(&self.kernel),
            initrd: self.initrd.as_ref().map(at),
            append: self.append.clone(),
            memory: self.memory,
            hugepages: self.hugepages,
            share_kernel: self.share_kernel,
            cpus: self.cpus,
            disks: self
                .disks
                .iter()
                .map(|disk| Disk { path: at(&disk.path), ..disk.clone() })
                .collect(),
            nets: self.nets.clone(),
            uuid: self.id.map(MachineId::to_bytes),
            oem_strings: self.oem_strings.clone(),
            console: self.console.as_ref().map_or(Console::None, |path| Console::File(at(path))),
            console_device: self.console_device,
            kernel_entry: self.kernel_entry,
            integration: match self.integration.components {
                true => Components::Auto,
                false => Components::Off,
            },
        }
    }
}

/// The file as it is written. The order is that in which people read it.
#[derive(Serialize)]
struct File<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    kernel: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    initrd: Option<&'a Path>,
    #[serde(skip_serializing_if = "str::is_empty")]
    append: &'a str,
    memory: String,
    #[serde(skip_serializing_if = "is_false")]
    hugepages: bool,
    #[serde(skip_serializing_if = "is_false")]
    share_kernel: bool,
    cpus: u8,
    kernel_entry: &'a str,
    console: String,
    console_device: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    notes: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    oem_strings: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disk: Vec<disks::Written<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    net: Vec<nets::Written<'a>>,
    #[serde(skip_serializing_if = "Access::is_empty")]
    access: Access<'a>,
    integration: Integration,
}

#[derive(Serialize)]
struct Access<'a> {
    read: &'a [Principal],
    execute: &'a [Principal],
}

impl Access<'_> {
    fn is_empty(&self) -> bool {
        self.read.is_empty() && self.execute.is_empty()
    }
}

// As `skip_serializing_if` calls it.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !*value
}

fn unwritable(why: impl Into<String>) -> DefinitionError {
    DefinitionError::new(Path::new(super::DEFINITION), None, Fault::Unwritable(why.into()))
}

/// A number of bytes, in the largest unit that says it exactly.
fn size(bytes: u64) -> String {
    match bytes.trailing_zeros() {
        0..10 | 64 => bytes.to_string(),
        10..20 => format!("{}K", bytes >> 10),
        20..30 => format!("{}M", bytes >> 20),
        30.. => format!("{}G", bytes >> 30),
    }
}

fn text_of(value: &DeValue<'_>) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn one_line(value: &DeValue<'_>) -> Option<String> {
    text_of(value).filter(|text| !text.contains(char::is_control))
}

fn name(value: &DeValue<'_>) -> Option<String> {
    text_of(value).filter(|name| check_name(name).is_ok())
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| text.into())
}

fn file(value: &DeValue<'_>) -> Option<PathBuf> {
    path(value.as_str()?)
}

fn memory(value: &DeValue<'_>) -> Option<u64> {
    let bytes = match value.as_str() {
        Some(text) => parse_size(text).ok(),
        None => integer(value).and_then(|bytes| bytes.try_into().ok()),
    };
    bytes.filter(|bytes| *bytes >= MEMORY_MIN && bytes.is_multiple_of(PAGE_SIZE))
}

fn cpus(value: &DeValue<'_>) -> Option<u8> {
    integer(value)?.try_into().ok().filter(|cpus| *cpus > 0)
}

fn kernel_entry(value: &DeValue<'_>) -> Option<KernelEntry> {
    match value.as_str()? {
        "unpacked" => Some(KernelEntry::Unpacked),
        "bzimage" => Some(KernelEntry::Bzimage),
        _ => None,
    }
}

fn console(value: &DeValue<'_>) -> Option<Option<PathBuf>> {
    match value.as_str()? {
        "none" => Some(None),
        text => Some(Some(path(text.strip_prefix("file=")?)?)),
    }
}

fn oem_string(text: &str) -> Option<String> {
    (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
}

fn access_list(section: Section<'_>) -> Result<AccessList, DefinitionError> {
    let list = |key| section.list(key, EXPECTED_PRINCIPAL, |text| text.parse().ok());
    Ok(AccessList { read: list("read")?, execute: list("execute")? })
}

fn integration_of(section: Section<'_>) -> Result<Integration, DefinitionError> {
    let default = Integration::default();
    let host_time_sync = section.get("host_time_sync", BOOLEAN, |value| value.as_bool())?;
    let components = section.get("components", r#""auto" or "off""#, components)?;
    Ok(Integration {
        host_time_sync: host_time_sync.unwrap_or(default.host_time_sync),
        components: components.unwrap_or(default.components),
    })
}

fn components(value: &DeValue<'_>) -> Option<bool> {
    match value.as_str()? {
        "auto" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}
