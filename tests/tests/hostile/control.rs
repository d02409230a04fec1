//! Cases 39 to 41 and 43: clients of the control socket, and what is where it should be.

use crate::VMM;
use crate::world::{Machine, World, answer, eventually};
use protocol::HResult;
use protocol::frame::{self, MAX_FRAME};
use protocol::task::LogoffOptions;
use rustix::fs::{CWD, FileType, Mode};
use rustix::process::{Signal, Uid};
use rustix::thread::set_thread_res_uid;
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tests::micro::{DOTS, SPIN};
use tests::puppet::Usage;
use vmm::control::client::Client;
use vmm::control::wire::{Answers, Call, Property, Request, Response, VERSION};
use vmm::runtime::Runtime;

#[path = "../../../vmm/src/control/every_verb.rs"]
mod every_verb;

use every_verb::every_verb;

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(30);
const NOBODY: u32 = 65534;
/// Bytes of a socket's path.
const SOCKET_PATH: usize = 108;

/// A world, and a machine that runs in it.
fn start(code: &[u8]) -> (World, Machine) {
    let world = World::new();
    let kernel = world.kernel(code);
    let machine = world.start(&["--kernel", &kernel]);
    (world, machine)
}

fn socket(world: &World) -> PathBuf {
    world.runtime().join("web/control.sock")
}

/// A connection that does as it likes.
fn raw(world: &World) -> UnixStream {
    let stream = UnixStream::connect(socket(world)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

fn client(world: &World) -> Client {
    Client::connect(&Runtime::at(world.runtime()), "web").unwrap()
}

/// The machine answers, and sooner than anybody is waited for.
fn answers(world: &World) {
    let begun = Instant::now();
    assert_eq!(client(world).machine().unwrap().name, "Web");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

fn ask(stream: &mut UnixStream, request: Request) {
    // Whoever is turned away may be so before having asked.
    let _ = frame::write(stream, &Call { version: VERSION, request, follow: false });
}

fn refusal(stream: &mut UnixStream) -> Option<HResult> {
    match Answers::default().read(stream) {
        Ok(Some(Response::Refused { code, .. })) => Some(code),
        Ok(None) | Err(_) => None,
        Ok(Some(other)) => panic!("no refusal: {other:?}"),
    }
}

fn framed(document: &[u8]) -> Vec<u8> {
    [&(document.len() as u32).to_le_bytes(), document].concat()
}

/// The process has no more of the host than `before`, but for what an allocator keeps.
fn is_flat(machine: &Machine, before: &Usage) {
    eventually("it has more of the host than before", || {
        let after = Usage::of(machine.child.id());
        after.threads <= before.threads
            && after.descriptors <= before.descriptors
            && after.memory < before.memory + 1024
    });
}

#[test]
fn case_39_whoever_dribbles_or_announces_gigabytes_costs_nothing_and_delays_nobody() {
    let (world, machine) = start(SPIN);
    answers(&world);
    let before = Usage::of(machine.child.id());
    let mut slow: Vec<UnixStream> = (0..50).map(|_| raw(&world)).collect();
    let whole = framed(br#"{"version":1,"request":{"verb":"tasks"}}"#);
    for byte in &whole[..whole.len() - 1] {
        for stream in &mut slow {
            stream.write_all(&[*byte]).unwrap();
        }
        answers(&world);
    }
    for stream in &mut slow {
        stream.write_all(&whole[whole.len() - 1..]).unwrap();
        let answer = Answers::default().read(stream).unwrap();
        assert!(matches!(answer, Some(Response::Tasks { .. })), "{answer:?}");
    }
    for announced in [0, MAX_FRAME as u32 + 1, 1 << 30, 1 << 31, u32::MAX] {
        for _ in 0..20 {
            let mut liar = raw(&world);
            liar.write_all(&announced.to_le_bytes()).unwrap();
            assert!(matches!(liar.read(&mut [0]), Ok(0)), "the connection ends");
        }
        // Those who never say what they have announced.
        let mut silent = raw(&world);
        silent.write_all(&(MAX_FRAME as u32).to_le_bytes()).unwrap();
        answers(&world);
    }
    drop(slow);
    is_flat(&machine, &before);
}

#[test]
fn case_39_documents_that_are_no_requests_are_refused_and_the_next_is_answered() {
    let (world, machine) = start(SPIN);
    let before = Usage::of(machine.child.id());
    let mut stream = raw(&world);
    let deep = |open: &str, close: &str| {
        let depth = 20_000 / open.len();
        format!("{}{}", open.repeat(depth), close.repeat(depth))
    };
    let request = |text: &str| format!(r#"{{"version":1,"request":{text}}}"#);
    let documents = [
        "[".repeat(MAX_FRAME),
        deep("[", "]"),
        deep("{\"a\":", "}"),
        request(&deep("[", "]")),
        format!(r#"{{"version":1,"x":{}}}"#, deep("[", "]")),
        String::from("\0"),
        "null".into(),
        "{}".into(),
        " ".repeat(MAX_FRAME),
        r#"{"version":1,"version":1,"request":{"verb":"tasks"}}"#.into(),
        request(r#"{"verb":"tasks"},"request":{"verb":"turn_off"}"#),
        request(r#"{"verb":"explode"}"#),
        request(r#"{"verb":"task"}"#),
        request(r#"{"verb":"task","id":-1}"#),
        request(r#"{"verb":"task","id":4294967296}"#),
        request(r#"{"verb":"task","id":1e99}"#),
        request(r#"{"verb":"task","id":NaN}"#),
        request(r#"{"verb":"task","id":"1"}"#),
        request(r#"{"verb":"wait","id":1.5}"#),
        request(r#"{"verb":"set_balloon","bytes":18446744073709551616}"#),
        request(r#"{"verb":"logoff","options":{"grace_ms":-1,"notice_ms":0,"deadline_ms":0}}"#),
        r#"{"version":-1,"request":{"verb":"tasks"}}"#.into(),
        r#"{"version":1e999,"request":{"verb":"tasks"}}"#.into(),
    ];
    for text in &documents {
        stream.write_all(&framed(text.as_bytes())).unwrap();
        assert_eq!(refusal(&mut stream), Some(HResult::E_INVALIDARG), "{text:.80}");
    }
    stream.write_all(&framed(b"\xff\xfe\"")).unwrap();
    assert_eq!(refusal(&mut stream), Some(HResult::E_INVALIDARG));
    let more = request(r#"{"verb":"tasks","by":"name"}"#);
    stream.write_all(&framed(more.as_bytes())).unwrap();
    let answer = Answers::default().read(&mut stream).unwrap();
    assert!(matches!(answer, Some(Response::Tasks { .. })), "{answer:?}");
    drop(stream);
    is_flat(&machine, &before);
}

#[test]
fn case_40_clients_that_die_in_the_middle_of_an_answer_leave_nothing_behind() {
    let (world, machine) = start(DOTS);
    answers(&world);
    // From the first request that may have to wait on, a thread is kept for the next one.
    let refused = client(&world).sessions().unwrap_err();
    assert_eq!(refused.code, HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
    let before = Usage::of(machine.child.id());
    for read in [0, 1, 5] {
        for _ in 0..100 {
            for request in [
                Request::Machine,
                Request::Tasks,
                Request::Task { id: 1 },
                Request::Wait { id: 1 },
                Request::Events,
                Request::Pause,
                Request::Resume,
                Request::Sessions,
            ] {
                let mut dying = raw(&world);
                ask(&mut dying, request);
                if read > 0 {
                    // It may have nothing to say.
                    dying.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                    let _ = dying.read(&mut vec![0; read]);
                }
            }
        }
        answers(&world);
    }
    is_flat(&machine, &before);
    machine.signal(Signal::TERM);
    let (status, _, stderr) = machine.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    world.holds_nothing();
}

#[test]
fn case_41_what_is_in_the_sockets_place_is_replaced_or_refused_and_never_followed() {
    type Put = fn(&Path, &Path);
    let things: [(&str, Put); 6] = [
        ("a socket that nobody listens on", |path, _| drop(UnixListener::bind(path).unwrap())),
        ("a file", |path, _| fs::write(path, "text").unwrap()),
        ("a link to a file", |path, precious| symlink(precious, path).unwrap()),
        ("a link to nothing", |path, _| symlink("/nonexistent/socket", path).unwrap()),
        ("a pipe", |path, _| {
            rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        }),
        ("a directory", |path, _| fs::create_dir(path).unwrap()),
    ];
    for name in ["control.sock", "vsock.sock", "lock"] {
        for (what, put) in things {
            let world = World::new();
            let kernel = world.kernel(SPIN);
            let folder = world.runtime().join("web");
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(world.runtime(), Permissions::from_mode(0o700)).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
            let precious = world.folder.path().join("precious");
            fs::write(&precious, "text").unwrap();
            put(&folder.join(name), &precious);
            // No link is followed to a lock, and nothing else than a file is one.
            let bad = what == "a directory" || name == "lock" && what != "a file";
            if bad {
                let run = ["run", "Web", "--memory", "32M", "--console", "none", "--kernel"];
                let (exit, _, said) = world.json(&[&run[..], &[&kernel]].concat()).refusal();
                assert_eq!(exit, Some(1), "{what} as {name}");
                assert!(said.contains(name), "{what} as {name}: {said}");
                let stays = what == "a pipe" || fs::symlink_metadata(folder.join(name)).is_ok();
                assert!(stays, "{what} as {name}");
            } else {
                let machine = world.start(&["--kernel", &kernel]);
                answers(&world);
                let found = fs::symlink_metadata(folder.join("control.sock")).unwrap();
                assert!(found.file_type().is_socket(), "{what} as {name}");
                let mode = fs::symlink_metadata(&folder).unwrap().permissions().mode();
                assert_eq!(mode & 0o077, 0, "{what} as {name}");
                machine.signal(Signal::TERM);
                assert_eq!(machine.end().0.code(), Some(0), "{what} as {name}");
                world.holds_nothing();
            }
            assert_eq!(fs::read_to_string(&precious).unwrap(), "text", "{what} as {name}");
        }
    }
}

#[test]
fn case_41_a_path_that_no_socket_can_have_is_refused_and_one_byte_less_runs() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let (mut ran, mut refused) = (0, 0);
    let longest = "web/vsock.sock_4294967295".len() + 1;
    for total in SOCKET_PATH - 4..=SOCKET_PATH + 4 {
        let room = total - longest - world.folder.path().as_os_str().len() - 1;
        let base = world.folder.path().join("x".repeat(room));
        assert_eq!(base.join("web/vsock.sock_4294967295").as_os_str().len() + 1, total + 1);
        let mut command = world.command(crate::VMM);
        command.env("VMM_RUNTIME_DIR", &base);
        command.args(["run", "web", "--memory", "32M", "--console", "none", "--kernel", &kernel]);
        if total < SOCKET_PATH {
            let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
            let runtime = Runtime::at(&base);
            eventually("it never runs", || {
                let asked =
                    Client::connect(&runtime, "web").and_then(|mut client| client.machine());
                asked.is_ok_and(|machine| machine.state == vmm::state::VmState::Running)
            });
            rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM)
                .unwrap();
            assert_eq!(crate::world::wait(&mut child).code(), Some(0));
            ran += 1;
        } else {
            let answer = crate::world::answer(command.args(["--format", "json"]));
            let (exit, code, said) = answer.refusal();
            assert_eq!((exit, code.as_str()), (Some(1), "0x8007006F"), "{said}");
            refused += 1;
        }
    }
    assert_eq!((ran, refused), (4, 5));
}

#[test]
fn case_41_a_place_of_another_owner_or_that_others_can_write_to_is_refused() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let folder = world.runtime().join("web");
    fs::create_dir_all(&folder).unwrap();
    let run = ["run", "web", "--memory", "32M", "--console", "none", "--kernel", &kernel];
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let refused = |what: &str| {
        let (exit, code, said) = world.json(&run).refusal();
        assert_eq!((exit, code.as_str()), (Some(1), "0x800700A1"), "{what}: {said}");
        assert!(fs::read_dir(&folder).unwrap().next().is_none(), "{what}");
    };
    for path in [world.runtime(), folder.clone()] {
        for mode in [0o777, 0o770, 0o702] {
            set(&world.runtime(), 0o700);
            set(&folder, 0o700);
            set(&path, mode);
            refused(&format!("{mode:o}"));
        }
    }
    set(&world.runtime(), 0o700);
    set(&folder, 0o700);
    if rustix::process::geteuid().is_root() {
        for path in [world.runtime(), folder.clone()] {
            chown(&path, Some(NOBODY), None).unwrap();
            refused("another owner");
            chown(&path, Some(0), None).unwrap();
        }
    } else {
        tests::not_tested("only root can give a directory to somebody else");
    }
    let machine = world.start(&["--kernel", &kernel]);
    machine.signal(Signal::TERM);
    assert_eq!(machine.end().0.code(), Some(0));
}

/// Even where somebody opens the place to everybody: it is the process that asks who is there.
#[test]
fn case_43_to_another_user_who_gets_at_the_socket_no_verb_tells_or_does_anything() {
    if !rustix::process::geteuid().is_root() {
        tests::not_tested("only root can connect as another user");
        return;
    }
    let (world, machine) = start(SPIN);
    let path = socket(&world);
    for (path, mode) in [
        (world.folder.path(), 0o711),
        (&world.runtime(), 0o711),
        (path.parent().unwrap(), 0o711),
        (&path, 0o666),
    ] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let stranger = thread::spawn(move || {
        let user = Uid::from_raw(NOBODY);
        set_thread_res_uid(user, user, user).unwrap();
        let mut requests = every_verb();
        requests.extend([Request::Console, Request::Events, Request::InstallIntegrationComponents]);
        for request in requests {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            ask(&mut stream, request.clone());
            assert_eq!(refusal(&mut stream), Some(HResult::VM_E_VM_UNKNOWN), "{request:?}");
        }
    });
    stranger.join().unwrap();
    answers(&world);
    assert_eq!(world.listed("Web")["state"], "Running");
    drop(machine);
}

/// The vsock socket leads to every port of the guest, and nobody is asked there who he is.
#[test]
fn case_43_who_may_reach_the_control_socket_does_not_reach_the_guests_ports_whatever_the_umask() {
    if !rustix::process::geteuid().is_root() {
        tests::not_tested("only root can connect as another user");
        return;
    }
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let stranger = NOBODY.to_string();
    let created = ["create", "web", "--kernel", &kernel, "--memory", "32M", "--read", &stranger];
    assert_eq!(world.vmm(&created).code, Some(0));
    let mut start = world.command("sh");
    start.args(["-c", "umask 0; exec \"$0\" start web", VMM]);
    assert_eq!(answer(&mut start).code, Some(0));
    fs::set_permissions(world.folder.path(), Permissions::from_mode(0o711)).unwrap();
    let control = socket(&world);
    let vsock = control.with_file_name("vsock.sock");
    assert_eq!(fs::metadata(&vsock).unwrap().permissions().mode() & 0o777, 0o600);
    let stranger = thread::spawn(move || {
        let user = Uid::from_raw(NOBODY);
        set_thread_res_uid(user, user, user).unwrap();
        UnixStream::connect(&control).unwrap();
        UnixStream::connect(&vsock).map(drop).map_err(|error| error.kind())
    });
    assert_eq!(stranger.join().unwrap(), Err(ErrorKind::PermissionDenied));
}
