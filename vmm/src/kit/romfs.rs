//! A romfs image: the smallest file system that kernels of distributions can mount.
//!
//! The specification is `Documentation/filesystems/romfs.rst` of the Linux kernel. All numbers are
//! big-endian, and everything begins at a multiple of 16 bytes.
//!
//! ```text
//! image   "-rom1fs-"  size  checksum  volume name, NUL   then the headers of the files
//! header  next, kind  spec  size      checksum  name, NUL, then the contents
//! ```
//!
//! `next` is where the next header of the directory is, or 0, and has the kind of the file in its
//! low four bits. A directory's `spec` is where its first header is, that of a hard link where its
//! file's header is. The first header of all is the root directory's own `.`, with which that
//! directory begins. A checksum makes all words that it covers sum up to 0: it covers the first 512
//! bytes of the image, and a file's header with its name. Files have no owner, times or
//! permissions: root owns all, all may read, and programs can be run.

const MAGIC: &[u8; 8] = b"-rom1fs-";
const ALIGNMENT: usize = 16;
/// Bytes of the superblock and of a file's header, without the name.
const HEADER: usize = 16;
/// Where the checksum is in either of them.
const CHECKSUM: usize = 12;
/// What the superblock's checksum covers.
const CHECKED: usize = 512;
/// Bytes of the image are a multiple of this, as disks have it.
const BLOCK: usize = 4096;

const HARD_LINK: u32 = 0;
const DIRECTORY: u32 = 1;
const REGULAR: u32 = 2;
const EXECUTABLE: u32 = 8;

/// A file of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct File<'a> {
    /// Its name: not empty, without `/` and NUL.
    pub(super) name: &'a str,
    /// What is in it.
    pub(super) contents: &'a [u8],
    /// Whether it is a program.
    pub(super) executable: bool,
}

/// The image of a file system called `volume` with `files` in its only directory; nothing if it
/// would be too large to say so in 32 bits.
pub(super) fn image(volume: &str, files: &[File<'_>]) -> Option<Vec<u8>> {
    let mut image = MAGIC.to_vec();
    image.resize(HEADER, 0);
    name(&mut image, volume);
    let root = image.len();
    header(&mut image, root, DIRECTORY | EXECUTABLE, root, 0, ".")?;
    let mut last = root;
    let mut add = |image: &mut Vec<u8>, kind, spec, size, name: &str| {
        let at = image.len();
        header(image, at, kind, spec, size, name)?;
        point(image, last, at)?;
        last = at;
        Some(())
    };
    add(&mut image, HARD_LINK, root, 0, "..")?;
    for file in files {
        let kind = REGULAR | if file.executable { EXECUTABLE } else { 0 };
        add(&mut image, kind, 0, file.contents.len(), file.name)?;
        image.extend(file.contents);
        pad(&mut image, ALIGNMENT);
    }
    let size = u32::try_from(image.len()).ok()?;
    put(&mut image, 8, size);
    pad(&mut image, BLOCK);
    seal(&mut image, 0, CHECKED);
    Some(image)
}

/// Appends a file's header to the image, which ends at `at`.
fn header(
    image: &mut Vec<u8>,
    at: usize,
    kind: u32,
    spec: usize,
    size: usize,
    called: &str,
) -> Option<()> {
    image.extend(kind.to_be_bytes());
    image.extend(u32::try_from(spec).ok()?.to_be_bytes());
    image.extend(u32::try_from(size).ok()?.to_be_bytes());
    image.extend([0; 4]);
    name(image, called);
    let length = image.len() - at;
    seal(image, at, length);
    Some(())
}

/// Lets the header at `from` say that the next one is at `to`.
fn point(image: &mut [u8], from: usize, to: usize) -> Option<()> {
    let next = u32::try_from(to).ok()?;
    // `to` is a multiple of 16, so the kind stays what it is, and the checksum falls by as much.
    put(image, from, word(image, from) | next);
    put(image, from + CHECKSUM, word(image, from + CHECKSUM).wrapping_sub(next));
    Some(())
}

fn name(image: &mut Vec<u8>, name: &str) {
    image.extend(name.as_bytes());
    image.push(0);
    pad(image, ALIGNMENT);
}

fn pad(image: &mut Vec<u8>, multiple: usize) {
    image.resize(image.len().next_multiple_of(multiple), 0);
}

fn word(image: &[u8], at: usize) -> u32 {
    image[at..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn put(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Writes the checksum of the `length` bytes at `at`.
fn seal(image: &mut [u8], at: usize, length: usize) {
    let sum =
        (at..at + length).step_by(4).fold(0, |sum: u32, at| sum.wrapping_add(word(image, at)));
    put(image, at + CHECKSUM, sum.wrapping_neg());
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn sum(bytes: &[u8]) -> u32 {
        bytes
            .chunks(4)
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
            .fold(0, u32::wrapping_add)
    }

    fn text(image: &[u8], at: usize) -> (String, usize) {
        let length = image[at..].iter().position(|byte| *byte == 0).unwrap();
        let text = String::from_utf8(image[at..at + length].to_vec()).unwrap();
        (text, (at + length + 1).next_multiple_of(16))
    }

    /// The volume's name and its files (contents, and whether they are programs), as the
    /// specification has it, with everything checked that can be.
    pub(in crate::kit) fn read(image: &[u8]) -> (String, BTreeMap<String, (Vec<u8>, bool)>) {
        let number = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(&image[..8], MAGIC);
        assert!(number(8) <= image.len() && image.len().is_multiple_of(512));
        assert_eq!(sum(&image[..512]), 0);
        let (volume, root) = text(image, 16);
        let mut files = BTreeMap::new();
        let (mut at, mut names) = (root, Vec::new());
        while at != 0 {
            assert!(at.is_multiple_of(16) && at < number(8));
            let (name, contents) = text(image, at + 16);
            assert_eq!(sum(&image[at..contents]), 0, "{name}");
            match number(at) & 7 {
                0 | 1 => assert_eq!(number(at + 4), root, "{name}"),
                2 => {
                    let bytes = image[contents..contents + number(at + 8)].to_vec();
                    let executable = number(at) & 8 != 0;
                    assert!(files.insert(name.clone(), (bytes, executable)).is_none());
                }
                kind => panic!("{name} is of kind {kind}"),
            }
            names.push(name);
            at = number(at) & !15;
        }
        assert_eq!(names[..2], [".", ".."]);
        assert_eq!(number(root) & 15, 9, "the root is a directory that can be entered");
        (volume, files)
    }

    #[test]
    fn another_reader_finds_what_was_put_in() {
        let long = vec![7; 100_001];
        let file = |name, contents, executable| File { name, contents, executable };
        let image = image(
            "a volume of many letters",
            &[
                file("program", &long, true),
                file("empty", b"", false),
                file("exactly-16-bytes", b"0123456789abcdef", false),
            ],
        );
        let (volume, files) = read(&image.unwrap());
        assert_eq!(volume, "a volume of many letters");
        assert_eq!(files.len(), 3);
        assert_eq!(files["program"], (long, true));
        assert_eq!(files["empty"], (vec![], false));
        assert_eq!(files["exactly-16-bytes"], (b"0123456789abcdef".to_vec(), false));
    }

    #[test]
    fn an_image_without_files_is_a_file_system_too() {
        assert!(read(&image("", &[]).unwrap()).1.is_empty());
    }
}
