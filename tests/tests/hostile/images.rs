//! Cases 31 to 38: kernels, initrds, command lines, sizes, definitions and disks that come from
//! anywhere.
//!
//! What is refused is refused by the command with a documented code, and leaves nothing behind.

use crate::subject::{READABLE, WRITABLE};
use crate::world::World;
use crate::{VMM, answers};
use flate2::{Compress, Compression, FlushCompress, Status};
use std::fs::{self, File};
use std::path::Path;
use std::rc::Rc;
use tests::micro::{self, BASE, POWER_OFF, SPIN};
use tests::puppet::{Descriptor, Driver, Puppet, Setting, linked, register};

/// Where a kernel finds its boot parameters, and in them address and size of its initrd.
const INITRD: u64 = 0x7000 + 0x218;
const SECTOR: usize = 512;

/// The command refuses to run a machine with these options: gives the code's number and the words.
fn refused(world: &World, options: &[&str], exit: i32) -> (String, String) {
    let arguments = [&["--memory", "32M"][..], options].concat();
    let (found, code, text) = world.refused(&arguments);
    assert_eq!(found, Some(exit), "{code} {text}");
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
    (code, text)
}

fn refuses_kernel(world: &World, kernel: &[u8], what: &str) -> String {
    let path = world.file("hostile", kernel);
    let (code, text) = refused(world, &["--kernel", &path], 1);
    assert!(text.contains(&path), "{what}: {text}");
    assert!(code.starts_with("0x"), "{what}: {code}");
    text
}

/// The guest runs, powers off, and the machine is gone.
fn runs(world: &World, kernel: &[u8]) {
    let path = world.file("sound", kernel);
    let run = ["run", "web", "--console", "none", "--memory", "32M", "--kernel", &path];
    let answer = world.vmm(&run);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    world.holds_nothing();
}

fn patched(file: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn case_31_a_kernel_that_is_cut_anywhere_is_refused_by_the_command() {
    let world = World::new();
    let elf = micro::elf(POWER_OFF);
    runs(&world, &elf);
    for length in 0..elf.len() {
        refuses_kernel(&world, &elf[..length], "an ELF file");
    }
    let image = bzimage(&gzip(&elf));
    runs(&world, &image);
    for length in (0..image.len() - 16).step_by(61) {
        refuses_kernel(&world, &image[..length], "a bzImage");
    }
}

#[test]
fn case_31_of_an_initrd_that_is_cut_the_guest_has_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let initrd = folder.path().join("initrd");
    let whole: Vec<u8> = (0..12_288_u32).map(|number| number.to_le_bytes()[0] | 1).collect();
    for length in [1, 2, 511, 4095, 4096, 4097, 12_287, 12_288] {
        fs::write(&initrd, &whole[..length]).unwrap();
        let puppet = with_initrd(&initrd);
        let size = puppet.peek32(INITRD + 4) as usize;
        assert_eq!(size, length);
        let at = u64::from(puppet.peek32(INITRD));
        assert_eq!(puppet.peek(at, length), whole[..length]);
        let behind = length.next_multiple_of(4096) - length;
        assert_eq!(puppet.peek(at + length as u64, behind), vec![0; behind], "of nobody's");
        answers(&puppet);
    }
}

fn with_initrd(initrd: &Path) -> Rc<Puppet> {
    let words = ["--initrd", initrd.to_str().unwrap()];
    Rc::new(Puppet::start(&Setting::new(VMM).with(&words)))
}

#[test]
fn case_32_an_elf_file_that_lies_about_itself_is_refused() {
    let world = World::new();
    let sound = micro::elf(POWER_OFF);
    // Places in the header, and in the only program header.
    let (entry, table, entry_size, entries) = (24, 32, 54, 56);
    let (offset, address, in_file, in_memory) = (64 + 8, 64 + 24, 64 + 32, 64 + 40);
    let long = |value: u64| value.to_le_bytes().to_vec();
    let half = |value: u16| value.to_le_bytes().to_vec();
    for (at, bytes) in [
        (entries, half(0)),
        (entries, half(2)),
        (entries, half(0xffff)),
        (entry_size, half(0)),
        (entry_size, half(0xffff)),
        (table, long(sound.len() as u64)),
        (table, long(1 << 40)),
        (table, long(u64::MAX)),
        (table, long(u64::MAX - 55)),
        (offset, long(1 << 40)),
        (offset, long(u64::MAX)),
        (in_file, long(1 << 40)),
        (in_file, long(u64::MAX)),
        (in_memory, long(0)),
        (in_memory, long(1)),
        (in_memory, long((1 << 63) - 1)),
        (in_memory, long(1 << 63)),
        (in_memory, long(u64::MAX)),
        (in_memory, long(u64::MAX - BASE)),
        (in_memory, long(32 << 20)),
        // The boot data, the hole, the end of RAM, of what is mapped, and of all.
        (address, long(0)),
        (address, long(0x7000)),
        (address, long(0x2_0000)),
        (address, long(BASE - 1)),
        (address, long((32 << 20) - 1)),
        (address, long(0xc000_0000)),
        (address, long(1 << 32)),
        (address, long(u64::MAX)),
        (entry, long(0)),
        (entry, long(BASE - 1)),
        (entry, long(BASE + POWER_OFF.len() as u64)),
        (entry, long(0x7000)),
        (entry, long(u64::MAX)),
        (4, vec![1]),
        (5, vec![2]),
        (18, vec![3]),
    ] {
        refuses_kernel(&world, &patched(&sound, at, &bytes), &format!("{at}: {bytes:x?}"));
    }
    // Two segments at one place.
    let (header, code) = sound.split_at(120);
    let mut twice = patched(header, entries, &half(2));
    twice.extend(&header[64..]);
    twice[offset..offset + 8].copy_from_slice(&long(176));
    twice[56 + offset..56 + offset + 8].copy_from_slice(&long(176));
    twice.extend(code);
    let said = refuses_kernel(&world, &twice, "two segments at one place");
    assert!(said.contains("overlap"), "{said}");
    runs(&world, &sound);
}

/// A bzImage of one sector of set-up and some code around `payload`.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    const CODE: usize = 0x400;
    let mut image = vec![0; 2 * SECTOR + CODE];
    image.extend(payload);
    image.resize(image.len().next_multiple_of(16), 0);
    let paragraphs = (image.len() - 2 * SECTOR) / 16;
    for (at, bytes) in [
        (0x1f1, &[1][..]),
        (0x1f4, &(paragraphs as u32).to_le_bytes()),
        (0x1fe, &[0x55, 0xaa]),
        // The jump over a header that ends at 0x268.
        (0x200, &[0xeb, 0x66]),
        (0x202, b"HdrS"),
        (0x206, &0x20f_u16.to_le_bytes()),
        (0x22c, &0x7fff_ffff_u32.to_le_bytes()),
        (0x236, &1_u16.to_le_bytes()),
        (0x238, &2047_u32.to_le_bytes()),
        (0x248, &(CODE as u32).to_le_bytes()),
        (0x24c, &(payload.len() as u32).to_le_bytes()),
        (0x258, &0x20_0000_u64.to_le_bytes()),
        (0x260, &0x1_0000_u32.to_le_bytes()),
    ] {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    image
}

/// `content` as gzip packs it, which ends with its size: what a bzImage has behind every payload.
fn gzip(content: &[u8]) -> Vec<u8> {
    let mut checksum = flate2::Crc::new();
    checksum.update(content);
    let packed = deflated(content, FlushCompress::Finish);
    gzip_of(&packed, checksum.sum(), content.len() as u32)
}

fn gzip_of(packed: &[u8], checksum: u32, size: u32) -> Vec<u8> {
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    [&header[..], packed, &checksum.to_le_bytes(), &size.to_le_bytes()].concat()
}

fn deflated(content: &[u8], flush: FlushCompress) -> Vec<u8> {
    let mut packed = Vec::with_capacity(content.len() + 1024);
    let mut deflate = Compress::new(Compression::best(), false);
    let status = deflate.compress_vec(content, &mut packed, flush).unwrap();
    assert!(status == Status::StreamEnd || flush == FlushCompress::Full);
    packed
}

#[test]
fn case_33_a_bzimage_that_lies_about_itself_is_refused() {
    let world = World::new();
    let sound = bzimage(&gzip(&micro::elf(POWER_OFF)));
    let last = |value: u32| (0x24c_usize, value.to_le_bytes().to_vec());
    for (at, bytes) in [
        // Sectors of set-up: 4 are meant by 0, and this file has neither so many nor 255.
        (0x1f1, vec![0]),
        (0x1f1, vec![255]),
        (0x1fe, vec![0, 0]),
        (0x202, b"HdrX".to_vec()),
        (0x206, vec![0, 2]),
        (0x206, vec![0, 0]),
        (0x248, vec![0xff; 4]),
        (0x248, vec![0xff, 0xff, 0xff, 0x7f]),
        last(0),
        last(1),
        last(7),
        last(u32::MAX),
        last(1 << 20),
        (0x200, vec![0xeb, 0]),
        (2 * SECTOR + 0x400, b"\0\0\0\0".to_vec()),
        (2 * SECTOR + 0x400 + 10, vec![0xff; 8]),
    ] {
        refuses_kernel(&world, &patched(&sound, at, &bytes), &format!("{at:#x}: {bytes:x?}"));
    }
    // One that unpacks itself, to where there is no RAM.
    for (at, bytes) in [
        (0x258, u64::MAX.to_le_bytes().to_vec()),
        (0x258, (1_u64 << 40).to_le_bytes().to_vec()),
        (0x260, vec![0xff; 4]),
        (0x236, vec![0, 0]),
        (0x1f4, vec![0xff; 4]),
    ] {
        let path = world.file("hostile", &patched(&sound, at, &bytes));
        refused(&world, &["--kernel", &path, "--kernel-entry", "bzimage"], 1);
    }
    runs(&world, &sound);
}

#[test]
fn case_33_a_kernel_that_unpacks_to_more_than_it_says_costs_no_memory() {
    let world = World::new();
    let bombs: [(&str, Bomb); 3] = [("gzip", gzip_bomb), ("xz", xz_bomb), ("zstd", zstd_bomb)];
    // It says so; it says that it is as large as is allowed; it says that it is small.
    for said in [1 << 30, 512 << 20, 4096] {
        for (format, bomb) in bombs {
            let path = world.file("bomb", &bzimage(&bomb(said)));
            let mut command = world.command("sh");
            // Memory of its own: that of the guest, and of some threads, and a kernel that is believed.
            let room = if said == 512 << 20 { 700 << 10 } else { 128 << 10 };
            let script = format!("ulimit -d {room} && exec \"$0\" \"$@\"");
            command.args(["-c", &script, VMM, "run", "web", "--console", "none"]);
            command.args(["--memory", "32M", "--format", "json", "--kernel", &path]);
            let (exit, code, text) = crate::world::answer(&mut command).refusal();
            assert_eq!(exit, Some(1), "{format} of {said}: {code} {text}");
            assert!(text.contains("unpacks to"), "{format} of {said}: {text}");
            world.holds_nothing();
        }
    }
}

/// A payload that unpacks to a gigabyte of zeros, and says that it does to so many bytes.
type Bomb = fn(said: u32) -> Vec<u8>;
const MEBIBYTES: usize = 1 << 10;

fn gzip_bomb(said: u32) -> Vec<u8> {
    let mebibyte = deflated(&vec![0; 1 << 20], FlushCompress::Full);
    gzip_of(&[mebibyte.repeat(MEBIBYTES), vec![3, 0]].concat(), 0, said)
}

/// Each chunk but the first one goes on with its dictionary, and with nothing else.
fn xz_bomb(said: u32) -> Vec<u8> {
    // A mebibyte of zeros, packed by `xz --check=crc32 --lzma2=dict=1MiB`: the headers, then the chunk.
    const ZEROS: &[u8] = include_bytes!("zeros.xz");
    const HEADERS: usize = 24;
    const CHUNK: usize = 224;
    const WITH_NEW_STATE: u8 = 0xc0;
    let chunk = &ZEROS[HEADERS..HEADERS + CHUNK];
    let mut next = chunk.to_vec();
    next[0] = WITH_NEW_STATE | chunk[0] & 0x1f;
    [&ZEROS[..HEADERS], chunk, &next.repeat(MEBIBYTES - 1), &said.to_le_bytes()].concat()
}

fn zstd_bomb(said: u32) -> Vec<u8> {
    // A frame of unknown size with a window of 1 MiB, whose blocks repeat a byte 128 Ki times.
    const FRAME: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
    const REPEAT: u32 = 1 << 1;
    let header = (REPEAT | (128 << 10) << 3).to_le_bytes();
    let block = [header[0], header[1], header[2], 0];
    [&FRAME[..], &block.repeat(8 * MEBIBYTES), &said.to_le_bytes()].concat()
}

#[test]
fn case_34_an_initrd_that_is_no_plain_file_or_too_large_is_refused_at_once() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let folder = world.folder.path();
    let fifo = folder.join("fifo");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let socket = folder.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let large = folder.join("large");
    let file = File::create(&large).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let others = ["/dev/zero".into(), "/dev/kvm".into(), "/proc/kmsg".into(), text(folder)];
    for path in others.into_iter().chain([text(&fifo), text(&socket), text(&folder.join("none"))]) {
        for words in
            [["--kernel", &kernel, "--initrd", &path], ["--initrd", &kernel, "--kernel", &path]]
        {
            let (_, said) = refused(&world, &words, 1);
            assert!(said.contains(&path), "{said}");
        }
    }
    for size in [32 << 20, (32 << 20) + 1, 1 << 32, 1 << 40] {
        file.set_len(size).unwrap();
        let (_, said) = refused(&world, &["--kernel", &kernel, "--initrd", &text(&large)], 1);
        assert!(said.contains("leaves only"), "{said}");
    }
    file.set_len(0).unwrap();
    refused(&world, &["--kernel", &kernel, "--initrd", &text(&large)], 1);
}

#[test]
fn case_34_files_that_shrink_under_a_running_machine_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (initrd, disk) = (folder.path().join("initrd"), folder.path().join("disk"));
    fs::write(&initrd, [7; 20_000]).unwrap();
    fs::write(&disk, [9; 8192]).unwrap();
    let words = ["--initrd", initrd.to_str().unwrap(), "--disk"];
    let setting = Setting::new(VMM).with(&words).with(&[&format!("path={}", disk.display())]);
    let puppet = Rc::new(Puppet::start(&setting));
    for path in [&initrd, &disk] {
        File::options().write(true).open(path).unwrap().set_len(0).unwrap();
    }
    let at = u64::from(puppet.peek32(INITRD));
    assert_eq!(puppet.peek(at, 20_000), [7; 20_000]);
    // What the disk does not have any more is an error of the guest's, or nothing.
    let driver = Driver::of(&puppet, 2);
    driver.bring_up(0);
    let status = read_sector(&puppet, &driver);
    assert!(status == 1 || puppet.peek(WRITABLE, SECTOR) == [0; SECTOR], "{status}");
    puppet.mark();
    let mut client = crate::client(&puppet);
    client.work(vmm::control::wire::Request::Reset).unwrap();
    // It was loaded from files, and is from nothing else.
    puppet.wait_until("its end", || !puppet.lives());
    let end = puppet.end();
    assert_eq!(end.status.code(), Some(crate::FAILED), "{end:?}");
}

/// Reads the first sector to [`WRITABLE`], and gives the status.
fn read_sector(puppet: &Puppet, driver: &Driver) -> u8 {
    puppet.poke(READABLE, &[0; 16]);
    let chain = [Descriptor::readable(READABLE, 16), Descriptor::writable(WRITABLE, 513)];
    driver.submit(0, &linked(&chain, 0));
    puppet.peek(WRITABLE + 512, 1)[0]
}

#[test]
fn case_35_command_lines_that_no_kernel_can_read_are_refused() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let long = "x".repeat(2048);
    for append in ["a\nb", "a\u{7f}", long.as_str()] {
        refused(&world, &["--kernel", &kernel, "--append", append], 2);
    }
    // Only a file can have a NUL in it.
    for append in ["a\\u0000b", "a\\nb", "\\u0000", long.as_str()] {
        let text = format!("name = 'web'\nkernel = '{kernel}'\nappend = \"{append}\"\n");
        let file = world.file("web.toml", text.as_bytes());
        let (exit, code, said) = world.json(&["register", &file]).refusal();
        assert_eq!(exit, Some(1), "{code} {said}");
        assert!(said.contains("command line") || said.contains("one line"), "{said}");
    }
    assert_eq!(world.json(&["ls"]).json(), serde_json::json!({ "machines": [] }));
}

#[test]
fn case_36_memory_and_processors_that_no_machine_can_have_are_refused() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    for memory in
        ["0", "1", "4096", "16777215", "33554433", "4000T", "18446744073709551615", "16E", "-1"]
    {
        let run = ["run", "web", "--console", "none", "--kernel", &kernel, "--memory", memory];
        let (exit, _, said) = world.json(&run).refusal();
        assert_eq!(exit, Some(2), "{memory}: {said}");
        world.holds_nothing();
    }
    for cpus in ["0", "256", "1024", "65537", "4294967297", "-1", "1.5"] {
        refused(&world, &["--kernel", &kernel, "--cpus", cpus], 2);
    }
}

#[test]
fn case_36_as_many_processors_as_can_be_said_run_or_are_refused_with_a_code() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let start = || {
        let mut command = world.command(VMM);
        command.args(["run", "web", "--console", "none", "--memory", "32M", "--cpus", "255"]);
        command.args(["--format", "json", "--kernel", &kernel]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        crate::world::Machine { child: command.spawn().unwrap() }
    };
    let mut machine = start();
    let mut refused = false;
    crate::world::eventually("it neither runs nor ends", || {
        refused = machine.child.try_wait().unwrap().is_some();
        refused || world.listed("web")["state"] == "Running"
    });
    if !refused {
        machine.signal(rustix::process::Signal::TERM);
    }
    let (status, stdout, stderr) = machine.end();
    assert_eq!(status.code(), Some(i32::from(refused)), "{stdout} {stderr}");
    if refused {
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let code = document["error"]["code"].clone();
        let code: protocol::HResult = serde_json::from_value(code).unwrap();
        assert!(code.is_failure() && code.symbol().is_some(), "{stdout}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    world.holds_nothing();
}

#[test]
fn case_36_memory_on_both_sides_of_the_gap_is_all_there() {
    let setting = Setting { memory: 4 << 30, ..Setting::new(VMM) };
    let puppet = Rc::new(Puppet::start(&setting));
    for (address, there) in
        [((3_u64 << 30) - 4, true), (3 << 30, false), ((4 << 30) - 4096 - 0x1000_0000, false)]
    {
        puppet.write32(address, 0x1234_5678);
        let found = puppet.read32(address);
        assert_eq!(found == 0x1234_5678, there, "{address:#x}: {found:#x}");
    }
    answers(&puppet);
}

/// What is behind the gap is the guest's, and is the same memory for its processor and its devices.
#[test]
fn case_36_memory_behind_the_gap_is_there_for_the_processor_and_for_devices() {
    /// The fifth and the sixth gibibyte in the table of the third level, which the monitor has left
    /// empty; and tables of the second level for them.
    const ENTRIES: u64 = 0xa000 + 4 * 8;
    const TABLES: u64 = 0x150_0000;
    const GIB: u64 = 1 << 30;
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::write(&disk, [9; 8192]).unwrap();
    let setting = Setting { memory: 4 * GIB, ..Setting::new(VMM) };
    let setting = setting.with(&["--disk", &format!("path={}", disk.display())]);
    let puppet = Rc::new(Puppet::start(&setting));
    for table in 0..2 {
        let at = TABLES + table * 4096;
        // Present, writable; and pages of 2 MiB.
        let pages = (0..512).map(|page| ((4 + table) * GIB + (page << 21)) | 0x83);
        puppet.poke(at, &pages.flat_map(u64::to_le_bytes).collect::<Vec<u8>>());
        puppet.poke(ENTRIES + table * 8, &(at | 3).to_le_bytes());
    }
    let ends = [4 * GIB, 4 * GIB + 0x1234_5678, 5 * GIB - 4];
    for address in ends {
        puppet.write32(address, address as u32 ^ 0x5a5a_5a5a);
    }
    for address in ends {
        assert_eq!(puppet.read32(address), address as u32 ^ 0x5a5a_5a5a, "{address:#x}");
    }
    puppet.write32(5 * GIB, 0);
    assert_eq!(puppet.read32(5 * GIB), u32::MAX, "behind the end");
    let driver = Driver::of(&puppet, 2);
    driver.bring_up(0);
    puppet.poke(READABLE, &[0; 16]);
    for address in [4 * GIB, 5 * GIB - 512] {
        let data = Descriptor::writable(address, 512);
        let chain = [Descriptor::readable(READABLE, 16), data, Descriptor::writable(WRITABLE, 1)];
        assert_eq!(driver.submit(0, &linked(&chain, 0)), 513, "{address:#x}");
        assert_eq!(puppet.peek(WRITABLE, 1), [0], "{address:#x}");
        for at in [address, address + 508] {
            assert_eq!(puppet.read32(at), 0x0909_0909, "{at:#x}");
        }
    }
    answers(&puppet);
}

#[test]
fn case_37_definitions_that_make_no_sense_are_refused_and_leave_the_catalog_as_it_was() {
    let world = World::new();
    world.create("good", SPIN);
    let kernel = world.kernel(SPIN);
    let whole = |more: &str| format!("name = 'web'\nkernel = '{kernel}'\n{more}");
    let before = fs::read(world.data().join("good/machine.toml")).unwrap();
    let deep = format!("x = {}", "[".repeat(50_000));
    let dotted = format!("{}x = 1", "a.".repeat(20_000));
    let disks = "[[disk]]\npath = 'd'\n".repeat(1_000);
    let texts = [
        String::new(),
        "\0".into(),
        "name = 'web'".into(),
        format!("kernel = '{kernel}'"),
        whole("colour = 'red'"),
        whole("nmae = 'web'"),
        whole("name = 'twice'"),
        whole("memory = '99999999999999999999G'"),
        whole("memory = '18014398509481984K'"),
        whole("memory = 18446744073709551616"),
        whole("memory = -1"),
        whole("memory = '0'"),
        whole("memory = nan"),
        whole("cpus = 0"),
        whole("cpus = 256"),
        whole("cpus = 4294967297"),
        whole("cpus = 1e3"),
        whole("append = [1]"),
        whole("initrd = '/nonexistent/initrd'"),
        whole("initrd = '/dev/zero'"),
        whole("console = 'file='"),
        whole(&disks),
        whole("[[disk]]\npath = '/dev/../dev/zero'"),
        whole("[access]\nread = [1]"),
        whole("[access]\nowner = 'me'"),
        whole(&deep),
        whole(&dotted),
        whole(&format!("#{}", "x".repeat(70_000))),
    ];
    for text in &texts {
        let file = world.file("hostile.toml", text.as_bytes());
        let (exit, code, said) = world.json(&["register", &file]).refusal();
        assert_eq!(exit, Some(1), "{text:.80}: {code} {said}");
        assert!(said.len() < 2_000, "{said}");
    }
    for name in ["..", ".", "a/b", "/etc", "../good", "", "a\\u0000", "a\\n", "a\\u001b[2J"] {
        let text = format!("name = \"{name}\"\nkernel = '{kernel}'\n");
        let file = world.file("hostile.toml", text.as_bytes());
        let (exit, _, said) = world.json(&["register", &file]).refusal();
        assert_eq!(exit, Some(1), "{name}: {said}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
    for name in ["GOOD", "good"] {
        let text = format!("name = '{name}'\nkernel = '{kernel}'\n");
        let file = world.file("again.toml", text.as_bytes());
        let (_, code, _) = world.json(&["register", &file]).refusal();
        assert_eq!(code, "0xA0040403", "a name that is taken");
    }
    let listed = world.json(&["ls"]).json();
    assert_eq!(listed["machines"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(fs::read(world.data().join("good/machine.toml")).unwrap(), before);
}

#[test]
fn case_38_a_raw_disk_into_which_the_guest_writes_a_qcow2_header_is_still_raw() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, secret) = (folder.path().join("disk"), folder.path().join("secret"));
    fs::write(&secret, [0x5e; 4096]).unwrap();
    fs::write(&disk, [0; 1 << 16]).unwrap();
    // Version 2, 1 GiB, and the contents of another file where it has none of its own.
    let name = secret.to_str().unwrap().as_bytes();
    let mut header = b"QFI\xfb\0\0\0\x02".to_vec();
    header.extend(0x60_u64.to_be_bytes());
    header.extend((name.len() as u32).to_be_bytes());
    header.extend(16_u32.to_be_bytes());
    header.extend((1_u64 << 30).to_be_bytes());
    header.resize(0x60, 0);
    header.extend(name);
    header.resize(SECTOR, 0);
    for boot in 0..3 {
        let words = ["--disk", &format!("path={}", disk.display())];
        let puppet = Rc::new(Puppet::start(&Setting::new(VMM).with(&words)));
        let driver = Driver::of(&puppet, 2);
        assert_eq!(driver.get(register::CONFIG), (1 << 16) / 512, "sectors");
        driver.bring_up(0);
        assert_eq!(read_sector(&puppet, &driver), 0);
        let found = puppet.peek(WRITABLE, SECTOR);
        assert!(found == if boot == 0 { vec![0; SECTOR] } else { header.clone() }, "{boot}");
        // Write the header where it is.
        puppet.poke(READABLE, &[&1_u64.to_le_bytes()[..], &[0; 8], &header].concat());
        let chain = [Descriptor::readable(READABLE, 528), Descriptor::writable(WRITABLE, 1)];
        driver.submit(0, &linked(&chain, 0));
        assert_eq!(puppet.peek(WRITABLE, 1), [0]);
        answers(&puppet);
        drop(puppet);
        assert_eq!(fs::read(&disk).unwrap()[..SECTOR], header[..]);
        assert_eq!(fs::metadata(&disk).unwrap().len(), 1 << 16);
    }
}
