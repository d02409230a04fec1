//! A disk as its owner describes it: which file, whether the guest may write, in which format.

use super::parts::take_parts;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The most disks that a machine may have: interrupt lines are left for the other devices.
pub const DISKS_MAX: usize = 8;

/// How a disk's contents lie in its file.
///
/// The format is what the owner says, and raw if nobody says anything: it is never guessed from
/// the contents, which the guest can write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFormat {
    /// As they are.
    #[default]
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

impl DiskFormat {
    /// What [`name`](Self::name) can give, as messages say it.
    pub const EXPECTED: &str = r#""raw" or "qcow2""#;

    /// The format's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The format of that name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Raw, Self::Qcow2].into_iter().find(|format| format.name() == name)
    }
}

/// A disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The file, or a block device of the host.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub readonly: bool,
    /// The format.
    pub format: DiskFormat,
}

impl Disk {
    /// A raw disk that the guest may write.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), readonly: false, format: DiskFormat::Raw }
    }
}

/// Why a description of a disk cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskTextError {
    /// There is no path, or an empty one.
    #[error("no path=FILE")]
    Path,
    /// A format that there is not.
    #[error("the format {0:?} is not known; raw and qcow2 are")]
    Format(String),
    /// Something else.
    #[error(
        "{0:?} is no part of a disk: path=FILE, readonly and format=raw|qcow2 are, each once and \
         with commas between them"
    )]
    Part(String),
}

/// Reads `path=FILE[,readonly][,format=raw|qcow2]`. A path that has a comma cannot be said so.
impl FromStr for Disk {
    type Err = DiskTextError;

    fn from_str(text: &str) -> Result<Self, DiskTextError> {
        let (mut path, mut readonly, mut format) = (None, None, None);
        let take = |key: &str, value: Option<&str>| match (key, value) {
            ("path", None | Some("")) => Err(DiskTextError::Path),
            ("path", Some(file)) => Ok(path.replace(PathBuf::from(file)).is_none()),
            ("format", name) => {
                let name = name.unwrap_or_default();
                let known = DiskFormat::of_name(name);
                let known = known.ok_or_else(|| DiskTextError::Format(name.to_owned()))?;
                Ok(format.replace(known).is_none())
            }
            ("readonly", None) => Ok(readonly.replace(true).is_none()),
            _ => Ok(false),
        };
        take_parts(text, take, DiskTextError::Part)?;
        Ok(Self {
            path: path.ok_or(DiskTextError::Path)?,
            readonly: readonly.unwrap_or(false),
            format: format.unwrap_or_default(),
        })
    }
}

/// What is wrong with a machine's disks taken together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisksError {
    /// There are too many.
    #[error("a machine can have {DISKS_MAX} disks, and this one has {0}")]
    TooMany(usize),
    /// A path that no file can have.
    #[error("the path of disk {0} is empty or has a NUL character")]
    Path(usize),
    /// Two disks would be the same file.
    #[error("two disks have the path {}", .0.display())]
    Twice(PathBuf),
}

/// Checks what can be checked of a machine's disks without opening them.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_disks(disks: &[Disk]) -> Result<(), DisksError> {
    if disks.len() > DISKS_MAX {
        return Err(DisksError::TooMany(disks.len()));
    }
    for (index, disk) in disks.iter().enumerate() {
        if !is_path(&disk.path) {
            return Err(DisksError::Path(index));
        }
        if disks.iter().take(index).any(|other| other.path == disk.path) {
            return Err(DisksError::Twice(disk.path.clone()));
        }
    }
    Ok(())
}

fn is_path(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    !bytes.is_empty() && !bytes.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_says_path_access_and_format_in_any_order() {
        let disk = |path: &str, readonly, format| Ok(Disk { path: path.into(), readonly, format });
        for (text, expected) in [
            ("path=a.img", disk("a.img", false, DiskFormat::Raw)),
            ("path=/x/a b,readonly", disk("/x/a b", true, DiskFormat::Raw)),
            ("format=qcow2,path=a=b", disk("a=b", false, DiskFormat::Qcow2)),
            ("readonly,format=raw,path=a", disk("a", true, DiskFormat::Raw)),
            ("", Err(DiskTextError::Part(String::new()))),
            ("readonly", Err(DiskTextError::Path)),
            ("path=", Err(DiskTextError::Path)),
            ("a.img", Err(DiskTextError::Part("a.img".into()))),
            ("path=a,path=b", Err(DiskTextError::Part("path=b".into()))),
            ("path=a,readonly=yes", Err(DiskTextError::Part("readonly=yes".into()))),
            ("path=a,readonly,readonly", Err(DiskTextError::Part("readonly".into()))),
            ("path=a,", Err(DiskTextError::Part(String::new()))),
            ("path=a,format=vhd", Err(DiskTextError::Format("vhd".into()))),
        ] {
            assert_eq!(text.parse::<Disk>(), expected, "{text}");
        }
    }

    #[test]
    fn a_machine_has_each_file_once_and_not_too_many() {
        let disks: Vec<Disk> = (0..=DISKS_MAX).map(|n| Disk::new(format!("{n}"))).collect();
        assert_eq!(check_disks(&disks[1..]), Ok(()));
        assert_eq!(check_disks(&disks), Err(DisksError::TooMany(DISKS_MAX + 1)));
        let readonly = Disk { readonly: true, ..Disk::new("1") };
        assert_eq!(
            check_disks(&[Disk::new("1"), readonly]),
            Err(DisksError::Twice("1".into())),
            "however they are opened"
        );
        for path in ["", "a\0b"] {
            assert_eq!(check_disks(&[Disk::new(path)]), Err(DisksError::Path(0)));
        }
    }
}
