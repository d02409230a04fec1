//! Whole loads: files on a disk, good and bad, into the RAM of a machine.

use super::*;
use crate::memory;
use crate::x86::layout::CMDLINE_MAX;
use linux_loader::loader::bootparam::boot_params;
use std::error::Error as _;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Where the kernel of these tests is loaded, and where it ends.
const KERNEL: u64 = 2 * MIB;
const KERNEL_END: u64 = KERNEL + 0x1000;

/// A folder for files, a machine that is to boot from them, and a cache.
struct Bench {
    folder: TempDir,
    config: MachineConfig,
    cache: Cache,
}

impl Bench {
    fn new(kernel: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        fs::write(&path, kernel).unwrap();
        // Whatever this process' umask is.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let cache = Cache::at(folder.path().join("cache"));
        Self { config: MachineConfig::new("bench", path), cache, folder }
    }

    fn with_initrd(kernel: &[u8], initrd: &[u8]) -> Self {
        let mut bench = Self::new(kernel);
        let path = bench.folder.path().join("initrd");
        fs::write(&path, initrd).unwrap();
        bench.config.initrd = Some(path);
        bench
    }

    /// Loads into 16 MiB of RAM.
    fn load(&self) -> Result<(Entry, GuestRam), BootError> {
        self.load_into(16 * MIB)
    }

    fn load_into(&self, memory: u64) -> Result<(Entry, GuestRam), BootError> {
        let ram = memory::map(memory).unwrap();
        load_with(&ram, &self.config, Some(&self.cache)).map(|entry| (entry, ram))
    }

    /// What is said of a load that fails, with all its causes.
    fn complaint(&self) -> String {
        let error = self.load().map(|(entry, _)| entry).unwrap_err();
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    }

    /// Waits until the kernel's file is old enough for what it unpacks to to be kept.
    fn settle(&self) {
        while Image::open(&self.config.kernel).unwrap().key(&[]).is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn kept(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("cache"));
        entries.map(|all| all.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
    }
}

/// An ELF file of one segment: the numbers from 0 to 63, and then zeros.
fn vmlinux() -> Vec<u8> {
    elf::tests::file(KERNEL, &[[120, KERNEL, 64, KERNEL_END - KERNEL]])
}

/// `content` as gzip packs it.
fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn vmlinuz() -> Vec<u8> {
    bzimage::tests::image(&gzip(&vmlinux()))
}

fn bytes(ram: &GuestRam, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; length];
    ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn zero_page(ram: &GuestRam) -> boot_params {
    ram.read_obj(GuestAddress(BOOT_PARAMS)).unwrap()
}

#[test]
fn a_vmlinux_and_the_bzimage_around_it_load_alike() {
    for kernel in [vmlinux(), vmlinuz()] {
        let mut bench = Bench::new(&kernel);
        bench.config.append = "quiet".into();
        let (entry, ram) = bench.load().unwrap();
        assert_eq!(entry, Entry { rip: KERNEL, boot_params: BOOT_PARAMS });
        assert_eq!(bytes(&ram, KERNEL, 64), (0..64).collect::<Vec<u8>>());
        assert_eq!(bytes(&ram, KERNEL + 64, 64), [0; 64]);
        let cmdline = [bench.config.cmdline().as_bytes(), b"\0"].concat();
        assert_eq!(bytes(&ram, CMDLINE, cmdline.len()), cmdline);
        let params = zero_page(&ram);
        let (flag, magic, line) =
            (params.hdr.boot_flag, params.hdr.header, params.hdr.cmd_line_ptr);
        assert_eq!((flag, &magic.to_le_bytes(), u64::from(line)), (0xaa55, b"HdrS", CMDLINE));
        assert_eq!({ params.hdr.type_of_loader }, 0xff);
        assert_eq!({ params.hdr.ramdisk_size }, 0);
    }
}

#[test]
fn case_31_every_truncated_prefix_of_a_kernel_is_refused() {
    for kernel in [vmlinux(), vmlinuz()] {
        let bench = Bench::new(&kernel);
        bench.settle();
        bench.load().unwrap();
        let packed = BzImage::parse(&kernel, kernel.len()).map(|bzimage| bzimage.payload.end);
        // What is behind the payload is padding.
        for length in 0..packed.unwrap_or(kernel.len()) {
            fs::write(&bench.config.kernel, &kernel[..length]).unwrap();
            assert!(bench.load().is_err(), "{length} bytes");
        }
        assert!(bench.kept().len() <= 1, "what is damaged is not kept");
    }
}

#[test]
fn case_31_every_flipped_byte_of_a_kernel_is_refused_or_harmless() {
    for kernel in [vmlinux(), vmlinuz()] {
        let mut bench = Bench::new(&kernel);
        for entry in [KernelEntry::Unpacked, KernelEntry::Bzimage] {
            bench.config.kernel_entry = entry;
            // The setup sectors and the code of these bzImages are zeros that nobody looks at.
            let looked_at: Vec<usize> = match BzImage::parse(&kernel, kernel.len()) {
                Ok(bzimage) => {
                    (0..bzimage::HEADER_END).skip(0x1f1).chain(bzimage.payload).collect()
                }
                Err(_) => (0..kernel.len()).collect(),
            };
            for at in looked_at {
                let mut flipped = kernel.clone();
                flipped[at] ^= 0xff;
                fs::write(&bench.config.kernel, &flipped).unwrap();
                let ram = memory::map(16 * MIB).unwrap();
                let _ = load_with(&ram, &bench.config, None);
            }
        }
    }
}

#[test]
fn files_that_are_no_kernels_are_named_as_such() {
    for content in [&b""[..], b"#!/bin/sh\n", b"\x7fEL", &[0; 4096]] {
        let complaint = Bench::new(content).complaint();
        assert!(complaint.ends_with("is not a kernel: neither an ELF file nor a bzImage"));
    }
    // A file of a terabyte is not read to find that out.
    let bench = Bench::new(b"large");
    fs::OpenOptions::new()
        .write(true)
        .open(&bench.config.kernel)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert!(matches!(bench.load(), Err(BootError::NotAKernel(_))));
}

#[test]
fn case_34_what_is_no_regular_file_is_refused_without_waiting_for_it() {
    let mut bench = Bench::with_initrd(&vmlinux(), b"initrd");
    let fifo = bench.folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let socket = bench.folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let kernel = bench.config.kernel.clone();
    let others = [
        (fifo, "not a regular file"),
        (socket, "not a regular file"),
        ("/dev/zero".into(), "not a regular file"),
        (bench.folder.path().to_owned(), "is a directory"),
        (bench.folder.path().join("missing"), "No such file"),
    ];
    for (path, reason) in &others {
        bench.config.kernel.clone_from(path);
        let complaint = bench.complaint();
        assert!(complaint.contains(&format!("cannot read {}: ", path.display())), "{complaint}");
        assert!(complaint.contains(reason), "{complaint}");
        bench.config.kernel.clone_from(&kernel);
        let initrd = bench.config.initrd.replace(path.clone());
        let complaint = bench.complaint();
        assert!(complaint.contains(&format!("cannot read {}: ", path.display())), "{complaint}");
        assert!(complaint.contains(reason), "{complaint}");
        bench.config.initrd = initrd;
    }
    bench.load().unwrap();
}

#[test]
fn case_34_a_file_that_shrinks_while_it_is_read_is_reported_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, [7; 8192]).unwrap();
    let image = Image::open(&path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let ram = memory::map(MIB).unwrap();
    for error in [image.copy_to(&ram, 0, 0, 8192).unwrap_err(), image.into_bytes().unwrap_err()] {
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("became shorter"), "{error}");
    }
}

#[test]
fn an_initrd_lies_whole_at_the_top_of_ram_and_the_kernel_is_told() {
    let initrd: Vec<u8> = (0..10_000_u32).map(|number| number as u8).collect();
    for kernel in [vmlinux(), vmlinuz()] {
        let (_, ram) = Bench::with_initrd(&kernel, &initrd).load().unwrap();
        let header = zero_page(&ram).hdr;
        let (address, size) = (u64::from(header.ramdisk_image), header.ramdisk_size);
        assert_eq!((address, size), (16 * MIB - 3 * PAGE_SIZE, 10_000));
        assert_eq!(bytes(&ram, address, initrd.len()), initrd);
    }
}

#[test]
fn an_initrd_is_below_what_the_kernel_can_reach_and_below_the_gap() {
    for (reach, top) in [(7 * MIB - 1, 7 * MIB), (0x7fff_ffff, 2 << 30), (0xffff_ffff, 3 << 30)] {
        let payload = gzip(&vmlinux());
        let mut header = bzimage::tests::sound_header(&payload);
        header.initrd_addr_max = reach as u32;
        let bench = Bench::with_initrd(&bzimage::tests::image_with(header, &payload), b"initrd");
        let ram = memory::map(5 << 30).unwrap();
        load_with(&ram, &bench.config, None).unwrap();
        assert_eq!(u64::from(zero_page(&ram).hdr.ramdisk_image), top - PAGE_SIZE, "{reach:#x}");
    }
}

#[test]
fn case_34_an_initrd_that_does_not_fit_is_refused_with_both_sizes() {
    let bench = Bench::with_initrd(&vmlinux(), b"initrd");
    let initrd = bench.config.initrd.clone().unwrap();
    let file = fs::OpenOptions::new().write(true).open(initrd).unwrap();
    let room = 16 * MIB - KERNEL_END;
    file.set_len(room).unwrap();
    bench.load().unwrap();
    for size in [room + 1, 16 * MIB, 1 << 40] {
        file.set_len(size).unwrap();
        let complaint = bench.complaint();
        let sizes = [format!("has {}", Size(size)), format!("leaves only {} ", Size(room))];
        assert!(sizes.iter().all(|text| complaint.contains(text)), "{complaint}");
    }
    file.set_len(0).unwrap();
    assert!(bench.complaint().ends_with("is empty"));
}

#[test]
fn case_35_a_command_line_that_the_kernel_would_cut_is_refused() {
    let payload = gzip(&vmlinux());
    let mut header = bzimage::tests::sound_header(&payload);
    header.cmdline_size = 255;
    let mut bench = Bench::new(&bzimage::tests::image_with(header, &payload));
    bench.load().unwrap();
    bench.config.append = "x".repeat(255);
    let size = bench.config.cmdline().len();
    assert!(matches!(
        bench.load(),
        Err(BootError::Cmdline { size: found, allowed: 255 }) if found == size
    ));
    // The longest that a configuration may have fits every kernel of today.
    for kernel in [vmlinux(), vmlinuz()] {
        let mut bench = Bench::new(&kernel);
        let ours = bench.config.cmdline().len() + 1;
        bench.config.append = "x".repeat(CMDLINE_MAX - 1 - ours);
        bench.config.validate().unwrap();
        bench.load().unwrap();
    }
}

#[test]
fn a_kernel_that_unpacks_itself_is_loaded_packed_and_entered_at_its_64_bit_entry() {
    let image = vmlinuz();
    let mut bench = Bench::new(&image);
    bench.config.kernel_entry = KernelEntry::Bzimage;
    let (entry, ram) = bench.load().unwrap();
    assert_eq!(entry.rip, 0x20_0200);
    let code = &image[1024..];
    assert_eq!(bytes(&ram, 0x20_0000, code.len()), code);
    assert!(bench.kept().is_empty(), "nothing was unpacked");
    fs::write(&bench.config.kernel, &image[..image.len() - 1]).unwrap();
    assert!(bench.complaint().contains("is it cut short?"));
}

#[test]
fn case_33_a_kernel_that_unpacks_itself_where_there_is_no_ram_is_refused() {
    let payload = gzip(&vmlinux());
    let sound = bzimage::tests::sound_header(&payload);
    for (preferred, size) in [
        (u64::MAX, 0),
        (u64::MAX - 0x200, u32::MAX),
        (16 * MIB, 0),
        (0, u32::MAX),
        (0xc000_0000, 1),
        // RAM of a larger machine, but not mapped when the kernel is entered.
        (MAPPED_END, 1),
    ] {
        let header = setup_header { pref_address: preferred, init_size: size, ..sound };
        let mut bench = Bench::new(&bzimage::tests::image_with(header, &payload));
        bench.config.kernel_entry = KernelEntry::Bzimage;
        let memory = if preferred == MAPPED_END { 5 << 30 } else { 16 * MIB };
        let outcome = bench.load_into(memory).map(|(entry, _)| entry);
        assert!(matches!(outcome, Err(BootError::KernelSize { .. })), "{preferred:#x}");
    }
}

#[test]
fn a_kernel_is_unpacked_once_and_then_taken_from_the_cache() {
    let bench = Bench::new(&vmlinuz());
    bench.load().unwrap();
    bench.settle();
    bench.load().unwrap();
    let [kept] = &bench.kept()[..] else { panic!("one kernel is kept: {:?}", bench.kept()) };
    assert_eq!(fs::read(kept).unwrap(), vmlinux());
    assert_eq!(fs::metadata(kept).unwrap().permissions().mode() & 0o777, 0o600);
    let folder = fs::metadata(bench.folder.path().join("cache")).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    // A mark in what is kept shows that it is what is loaded.
    let mut marked = vmlinux();
    *marked.last_mut().unwrap() = 0xaa;
    fs::write(kept, marked).unwrap();
    let (_, ram) = bench.load().unwrap();
    assert_eq!(bytes(&ram, KERNEL + 63, 1), [0xaa]);
}

#[test]
fn a_torn_or_foreign_file_in_the_cache_is_replaced() {
    let bench = Bench::new(&vmlinuz());
    bench.settle();
    bench.load().unwrap();
    let kept = bench.kept().remove(0);
    let sound = vmlinux();
    for bad in [&sound[..sound.len() - 1], b"", &vec![0; sound.len()]] {
        fs::write(&kept, bad).unwrap();
        let (entry, ram) = bench.load().unwrap();
        assert_eq!((entry.rip, bytes(&ram, KERNEL + 63, 1)), (KERNEL, vec![63]));
        assert_eq!(fs::read(&kept).unwrap(), sound);
    }
    fs::remove_file(&kept).unwrap();
    fs::create_dir(&kept).unwrap();
    bench.load().unwrap();
    assert_eq!(bench.kept(), [kept], "no draft is left");
}

#[test]
fn without_a_cache_or_with_one_that_cannot_be_written_kernels_still_load() {
    let mut bench = Bench::new(&vmlinuz());
    let ram = memory::map(16 * MIB).unwrap();
    load_with(&ram, &bench.config, None).unwrap();
    // A file is where its directory would be, which stops root as well.
    bench.cache = Cache::at(bench.config.kernel.join("cache"));
    bench.load().unwrap();
}

#[test]
fn a_bzimage_of_something_else_than_an_elf_file_is_refused_and_not_kept() {
    let bench = Bench::new(&bzimage::tests::image(&gzip(&[7; 4096])));
    assert!(bench.complaint().contains("not an ELF file for x86-64"));
    assert!(bench.kept().is_empty());
}

#[test]
fn a_kernel_larger_than_ram_is_refused() {
    let file = elf::tests::file(KERNEL, &[[120, KERNEL, 64, 15 * MIB]]);
    for kernel in [bzimage::tests::image(&gzip(&file)), file] {
        let complaint = Bench::new(&kernel).complaint();
        assert!(complaint.contains("some 18 MiB; the machine has 16 MiB"), "{complaint}");
    }
}

#[test]
fn a_kernel_that_has_changed_is_not_taken_from_the_cache() {
    // As they are: so both files have the same length.
    let image = |kernel: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(kernel).unwrap();
        bzimage::tests::image(&encoder.finish().unwrap())
    };
    let bench = Bench::new(&image(&vmlinux()));
    bench.settle();
    bench.load().unwrap();
    let mut other = vmlinux();
    *other.last_mut().unwrap() = 0xaa;
    fs::write(&bench.config.kernel, image(&other)).unwrap();
    let (_, ram) = bench.load().unwrap();
    assert_eq!(bytes(&ram, KERNEL + 63, 1), [0xaa]);
    assert_eq!(bench.kept().len(), 1, "it was kept when it was old enough");
}

#[test]
fn a_files_holes_are_read_as_the_zeros_that_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let file = fs::File::create_new(&path).unwrap();
    file.set_len(MIB).unwrap();
    // At the start, in the middle of a page, and before the hole at the end.
    let written = [(0, 5000), (300_001, 70_000), (700_000, 10)];
    let mut content = vec![0; MIB as usize];
    for (at, length) in written {
        content[at..at + length].fill(at as u8 | 1);
        file.write_all_at(&content[at..at + length], at as u64).unwrap();
    }
    let image = Image::open(&path).unwrap();
    for (offset, length) in [(0, MIB), (4097, 300_000), (299_999, 3), (800_000, 1), (5, 0)] {
        let ram = memory::map(2 * MIB).unwrap();
        image.copy_to(&ram, 77, offset, length).unwrap();
        let (offset, length) = (offset as usize, length as usize);
        assert_eq!(bytes(&ram, 77, length), content[offset..offset + length], "{offset}");
        assert_eq!(bytes(&ram, 77 + length as u64, 1), [0], "no byte more than was asked for");
    }
    let ram = memory::map(2 * MIB).unwrap();
    file.set_len(MIB - 1).unwrap();
    let error = image.copy_to(&ram, 0, 800_000, MIB - 800_000).unwrap_err();
    assert!(error.to_string().contains("became shorter"), "within the hole at the end: {error}");
}

#[test]
fn zeros_of_a_kept_kernel_take_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path());
    let mut kernel = vec![0; 4 * MIB as usize];
    kernel[5000] = 1;
    *kernel.last_mut().unwrap() = 2;
    cache.put("key", &kernel).unwrap();
    let kept = directory.path().join("key");
    assert_eq!(fs::read(&kept).unwrap(), kernel);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&kept).unwrap());
    assert!(blocks * 512 < MIB, "{blocks} blocks");
}

/// The bytes of a kernel whose pages can be shared: in the file, and from `LARGE` on in RAM.
const LARGE: u64 = 3 * MIB;
const LARGE_SIZE: u64 = 8 * MIB + 100;

/// A kernel of one segment with the flags of its program header `flags`, all whose pages differ. In RAM it
/// has three whole blocks of 2 MiB, and zeros behind them. The second of the blocks has a gap.
fn large(flags: u32) -> Vec<u8> {
    let headers = [[PAGE_SIZE, LARGE, LARGE_SIZE, LARGE_SIZE + 3 * PAGE_SIZE]];
    let mut file = elf::tests::file(LARGE, &headers);
    file[68..72].copy_from_slice(&flags.to_le_bytes());
    file.resize(PAGE_SIZE as usize, 0);
    file.extend((0..LARGE_SIZE).map(|at| (at / PAGE_SIZE % 251) as u8 + 1));
    let gap = (PAGE_SIZE + 4 * MIB) as usize;
    file[gap..gap + PAGE_SIZE as usize].fill(0);
    file
}

/// Bytes of this process' memory that are pages of files in `folder`.
fn mapped(folder: &Path) -> u64 {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let number = |text| u64::from_str_radix(text, 16).unwrap();
    let sizes = maps.lines().filter(|line| line.contains(folder.to_str().unwrap())).map(|line| {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        number(to) - number(from)
    });
    sizes.sum()
}

#[test]
#[cfg_attr(miri, ignore = "it maps no files")]
fn a_shared_kernel_is_in_ram_as_a_copied_one_is_but_its_blocks_are_the_files() {
    let kernel = large(0);
    let packed = bzimage::tests::image(&gzip(&kernel));
    for file in [&kernel, &packed] {
        let mut bench = Bench::new(file);
        bench.settle();
        bench.load().unwrap();
        assert_eq!(mapped(bench.folder.path()), 0, "nobody has asked for it");
        bench.config.share_kernel = true;
        // One that is not kept yet is mapped, too, and so is one for a reboot.
        for path in bench.kept() {
            fs::remove_file(path).unwrap();
        }
        for _ in 0..2 {
            let (entry, ram) = bench.load().unwrap();
            assert_eq!(entry.rip, LARGE);
            assert_eq!(
                mapped(bench.folder.path()),
                4 * MIB,
                "two blocks, without that with the gap"
            );
            let all = bytes(&ram, LARGE, LARGE_SIZE as usize);
            assert!(all == kernel[PAGE_SIZE as usize..]);
            assert_eq!(bytes(&ram, LARGE + LARGE_SIZE, 3 * 4096), [0; 3 * 4096]);
            ram.write_slice(&vec![0xee; LARGE_SIZE as usize], GuestAddress(LARGE)).unwrap();
        }
        assert!(fs::read(&bench.config.kernel).unwrap() == *file);
        assert!(bench.kept().iter().all(|path| fs::read(path).unwrap() == kernel));
    }
}

#[test]
#[cfg_attr(miri, ignore = "it maps no files")]
fn a_kernel_whose_pages_cannot_be_shared_is_copied() {
    const EXECUTED: u32 = 1;
    const WRITTEN: u32 = 2;
    let loads = |kernel: &[u8], mode: u32, cache: bool| {
        let mut bench = Bench::new(kernel);
        bench.settle();
        bench.config.share_kernel = true;
        fs::set_permissions(&bench.config.kernel, fs::Permissions::from_mode(mode)).unwrap();
        bench.settle();
        let ram = memory::map(16 * MIB).unwrap();
        load_with(&ram, &bench.config, cache.then_some(&bench.cache)).unwrap();
        assert!(bytes(&ram, LARGE, LARGE_SIZE as usize) == large(0)[PAGE_SIZE as usize..]);
        mapped(bench.folder.path())
    };
    assert_eq!(loads(&large(WRITTEN), 0o644, false), 4 * MIB, "data that no boot has written to");
    assert_eq!(loads(&large(0), 0o664, false), 0, "others can write to it");
    assert_eq!(loads(&large(EXECUTED), 0o644, false), 0, "all may be code");
    assert_eq!(loads(&large(EXECUTED | WRITTEN), 0o644, false), 0, "it is freed");
    let packed = bzimage::tests::image(&gzip(&large(0)));
    assert_eq!(loads(&packed, 0o644, false), 0, "it is not kept");
    assert_eq!(loads(&packed, 0o666, true), 4 * MIB, "what is kept is this user's alone");
}

#[test]
fn who_shares_a_file_has_it_on_this_host() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel");
    fs::write(&path, large(0)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Image::open(&path).unwrap().is_steady());
    // Root's, and nobody can write to it, but no disk has it.
    assert!(!Image::open("/proc/version".as_ref()).unwrap().is_steady());
}

#[test]
#[cfg_attr(miri, ignore = "it maps no files")]
fn code_is_what_section_headers_say() {
    let mut kernel = large(1);
    let table = kernel.len() as u64;
    // In the first block there is code, in the third there is none.
    let sections =
        [(2 | 4, PAGE_SIZE, 2 * MIB), (2, PAGE_SIZE + 2 * MIB, 6 * MIB), (4, 0, u64::MAX)];
    for (flags, offset, size) in sections {
        let fields = [0, flags, 0, offset, size, 0, 0, 0];
        kernel.extend(fields.into_iter().flat_map(u64::to_le_bytes));
    }
    let shared = |table: u64, size: u16, count: u16| {
        let mut kernel = kernel.clone();
        kernel[40..48].copy_from_slice(&table.to_le_bytes());
        kernel[58..60].copy_from_slice(&size.to_le_bytes());
        kernel[60..62].copy_from_slice(&count.to_le_bytes());
        let mut bench = Bench::new(&kernel);
        bench.config.share_kernel = true;
        let _ram = bench.load().unwrap();
        mapped(bench.folder.path())
    };
    assert_eq!(shared(table, 64, 3), 2 * MIB);
    for (table, size, count) in
        [(table, 64, 0), (table, 64, 4), (table, 63, 3), (u64::MAX, 64, 3), (0, 64, u16::MAX)]
    {
        assert_eq!(shared(table, size, count), 0, "{table:#x} {size} {count}");
    }
}

#[test]
fn a_kernel_that_cannot_be_mapped_into_ram_is_refused() {
    let image = Image::Bytes(large(0));
    let outcome = elf::load(&image, &memory::map(16 * MIB).unwrap(), true);
    assert!(matches!(outcome, Err(ElfError::Share(_))), "{outcome:?}");
}
