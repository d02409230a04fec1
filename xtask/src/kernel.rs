//! Debian's kernels: the image as it is packed, the same unpacked, and modules.
//!
//! Where the payload of a bzImage is, is said by its header: boot protocol 2.08, "The Real-Mode
//! Kernel Header" of Documentation/arch/x86/boot.rst. It is unpacked by common tools here and not by
//! the monitor's code, which is tested with the result.

use crate::debian::{self, Suite};
use crate::run::say;
use crate::tools::{self, LZ4, XZ, ZSTD};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sectors of the setup code; the payload's place after them, and its length.
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// How the packed forms begin.
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
const XZ_STREAM: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD_FRAME: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// An unpacked kernel package.
pub(crate) struct Kernel {
    /// The package's name and version.
    pub(crate) name: String,
    /// The image as Debian packs it.
    pub(crate) vmlinuz: PathBuf,
    /// The folder of its modules.
    modules: PathBuf,
}

/// A kernel module: its name, and its file's bytes, unpacked.
pub(crate) type Module = (String, Vec<u8>);

impl Kernel {
    /// The kernel that the meta package `meta` of `suite` stands for.
    pub(crate) fn get(suite: Suite, meta: &str) -> Result<Self> {
        let package = debian::kernel(suite, meta)?;
        let vmlinuz = only(&package.root.join("boot"), "vmlinuz-")?;
        // Debian 13 has everything below /usr.
        let modules = only(&package.root.join("lib/modules"), "")
            .or_else(|_| only(&package.root.join("usr/lib/modules"), ""))?;
        Ok(Self { name: package.name, vmlinuz, modules })
    }

    /// The kernel as an ELF file, kept beside the packed one.
    pub(crate) fn vmlinux(&self) -> Result<PathBuf> {
        let vmlinux = self.vmlinuz.with_file_name("vmlinux");
        if !vmlinux.is_file() {
            say(&format!("unpacking {}", self.name));
            let image = fs::read(&self.vmlinuz)?;
            let elf = unpack(payload(&image).context("the kernel image is cut off")?)?;
            ensure!(elf.starts_with(b"\x7fELF"), "no ELF file comes out of {}", self.name);
            write_whole(&vmlinux, &elf)?;
        }
        Ok(vmlinux)
    }

    /// The modules `names`, without those that the kernel has built in.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let built_in = fs::read_to_string(self.modules.join("modules.builtin"))?;
        let order = fs::read_to_string(self.modules.join("modules.order"))?;
        let mut modules = Vec::new();
        for name in names {
            if built_in.lines().any(|line| stem(line) == *name) {
                continue;
            }
            let line = order.lines().find(|line| stem(line) == *name);
            let line = line.with_context(|| format!("{} has no module {name}", self.name))?;
            modules.push(((*name).to_owned(), self.module(line)?));
        }
        Ok(modules)
    }

    fn module(&self, line: &str) -> Result<Vec<u8>> {
        // Debian 12 lists files, Debian 13 what they are made of; only the latter packs them.
        let plain = self.modules.join(line).with_extension("ko");
        let packed = plain.with_extension("ko.xz");
        if plain.is_file() {
            Ok(fs::read(plain)?)
        } else {
            unpack(&fs::read(&packed).with_context(|| format!("no {}", packed.display()))?)
        }
    }
}

/// A module's name in a line such as `kernel/net/vmw_vsock/vsock.ko`.
fn stem(line: &str) -> &str {
    let file = line.rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default()
}

/// The packed kernel in a bzImage.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let field = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let start = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * 512 + field(PAYLOAD_OFFSET)?;
    // The last four bytes are the size unpacked, which is not part of the packed form.
    image.get(start..start + field(PAYLOAD_LENGTH)?.checked_sub(4)?)
}

/// Unpacks LZ4, xz or Zstandard.
fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let (program, tool) = match packed {
        packed if packed.starts_with(LZ4_LEGACY) => ("lz4", LZ4),
        packed if packed.starts_with(XZ_STREAM) => ("xz", XZ),
        packed if packed.starts_with(ZSTD_FRAME) => ("zstd", ZSTD),
        _ => bail!("packed in a way that is not known here"),
    };
    tools::need(&[tool])?;
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(packed)?;
    let output = Command::new(program).arg("-dc").arg(file.path()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}: {said}", output.status);
    Ok(output.stdout)
}

/// Writes a file that is there as a whole or not at all, for others may be reading it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file is in a folder")?;
    let readable = fs::Permissions::from_mode(0o644);
    let mut draft = tempfile::Builder::new().permissions(readable).tempfile_in(folder)?;
    draft.write_all(bytes)?;
    draft.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// The one entry of `folder` whose name begins with `prefix`.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let begins = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(begins)
        .with_context(|| format!("no {prefix}* in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::{payload, stem};

    #[test]
    fn a_payload_is_found_where_the_header_says_and_never_outside_the_image() {
        let mut image = vec![0; 2048];
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&12_u32.to_le_bytes());
        image[1040..1048].copy_from_slice(b"contents");
        assert_eq!(payload(&image), Some(&b"contents"[..]));
        assert_eq!(payload(&image[..1040]), None);
        image[0x24c..0x250].copy_from_slice(&3_u32.to_le_bytes());
        assert_eq!(payload(&image), None);
    }

    #[test]
    fn a_module_is_known_by_its_name_alone() {
        assert_eq!(stem("kernel/drivers/char/hw_random/virtio-rng.ko"), "virtio-rng");
        assert_eq!(stem("kernel/net/vmw_vsock/vsock.o"), "vsock");
    }
}
