//! What the host is: `IVMHostInfo`.

use crate::config::host_memory;
use serde::Serialize;
use std::fs;
use std::thread::available_parallelism;

/// Where the host tells how its memory is used.
pub(crate) const MEMINFO: &str = "/proc/meminfo";

/// What the host is. What it does not tell is empty, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostInfo {
    /// Processors that this process may run on, each thread of a core counted.
    pub logical_processor_count: usize,
    /// The processors' name.
    pub processor: String,
    /// RAM in bytes.
    pub memory_total: u64,
    /// RAM in bytes that could be used without swapping.
    pub memory_available: Option<u64>,
    /// The operating system's full name.
    pub operating_system: String,
    /// Its kernel's release.
    pub os_version: String,
}

impl HostInfo {
    pub(crate) fn now() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let kernel = rustix::system::uname();
        Self {
            logical_processor_count: available_parallelism().map_or(1, usize::from),
            processor: value(&cpuinfo, "model name", ':').unwrap_or_default(),
            memory_total: host_memory(),
            memory_available: meminfo("MemAvailable"),
            operating_system: value(&os_release, "PRETTY_NAME", '=')
                .unwrap_or_else(|| kernel.sysname().to_string_lossy().into_owned()),
            os_version: kernel.release().to_string_lossy().into_owned(),
        }
    }
}

/// A field of [`MEMINFO`], where the host tells; what it has in kilobytes is given in bytes.
pub(crate) fn meminfo(field: &str) -> Option<u64> {
    let value = value(&fs::read_to_string(MEMINFO).ok()?, field, ':')?;
    let Some(kib) = value.strip_suffix("kB") else { return value.parse().ok() };
    kib.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

/// The value in the first line of `text` that begins with `key`, without quotes.
fn value(text: &str, key: &str, separator: char) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(separator));
    let (_, value) = lines.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_says_what_it_has_as_its_own_tools_do() {
        let info = HostInfo::now();
        let tool = |name: &str, argument: &str| {
            let output = std::process::Command::new(name).arg(argument).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(info.os_version, tool("uname", "-r"));
        assert_eq!(info.logical_processor_count.to_string(), tool("nproc", "--all"));
        let (total, available) = (info.memory_total, info.memory_available.unwrap());
        assert!(available > 0 && available < total, "{info:?}");
    }

    #[test]
    fn values_are_found_by_their_whole_name_and_lose_their_quotes() {
        let text = "NAME_X=no\nPRETTY_NAME=\"Debian 12\"\nNAME='x'\n";
        assert_eq!(value(text, "PRETTY_NAME", '=').as_deref(), Some("Debian 12"));
        assert_eq!(value(text, "NAME", '=').as_deref(), Some("'x'"));
        assert_eq!(value("model name\t: A CPU\n", "model name", ':').as_deref(), Some("A CPU"));
        assert_eq!(value(text, "ID", '='), None);
    }
}
