//! Guests that say that they are ready, and guests that say too much, too little, or never end.

use super::*;
use crate::events::{Notice, Subscription};
use crate::io::IoThread;
use crossbeam_channel::Sender;
use std::io::Write;
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(20);

/// A boot whose guest the test is.
struct World {
    readiness: Readiness,
    events: Subscription,
    accept: Sender<UnixStream>,
    bell: Arc<EventFd>,
    _io: IoThread,
}

impl World {
    fn new() -> Self {
        let events = Events::of("web");
        let heard = events.subscribe(Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()));
        let readiness = Readiness::new(events);
        readiness.boot_begins();
        let (service, listener) = service(readiness.clone()).unwrap();
        assert_eq!((service.port, service.privileged), (NOTIFY_PORT, false));
        let io = IoThread::spawn("io").unwrap();
        io.handle().add(Box::new(listener)).unwrap();
        let (accept, bell) = (service.accept, service.bell.unwrap());
        Self { readiness, events: heard, accept, bell, _io: io }
    }

    /// A connection, as the device makes it: refused when too many have not been taken yet.
    fn dial(&self) -> Option<UnixStream> {
        let (theirs, ours) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        self.accept.try_send(theirs).ok()?;
        self.bell.write(1).unwrap();
        Some(ours)
    }

    /// Sends a message as systemd does, and waits for the end as it does.
    fn say(&self, message: &[u8]) {
        let mut stream = self.dial().unwrap();
        stream.write_all(message).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is closed without a word");
    }

    fn told(&self) -> Told {
        self.readiness.told()
    }

    fn eventually(&self, holds: impl Fn(&Told) -> bool) {
        let limit = Instant::now() + LIMIT;
        while !holds(&self.told()) {
            assert!(Instant::now() < limit, "{:?}", self.told());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_guest_that_says_that_it_is_ready_is_ready_and_the_listeners_hear_of_it_once() {
    let world = World::new();
    assert_eq!(world.told().phase, Phase::Booting);
    world.say(b"X_SYSTEMD_UNIT_ACTIVE=basic.target\n");
    assert_eq!((world.told().phase, world.told().messages), (Phase::Booting, 1));
    assert_eq!(world.events.take(), None);
    world.say(b"READY=1\nSTATUS=Startup finished in 3s.");
    // A reload, and the end of it.
    world.say(b"RELOADING=1\nMONOTONIC_USEC=5\n");
    world.say(b"READY=1\n");
    let told = world.told();
    assert_eq!((told.phase, told.messages, told.dropped), (Phase::Ready, 4, 0));
    assert!(told.ready_ms.is_some_and(|time| time < LIMIT.as_millis() as u64));
    let Some(Notice::Event(event)) = world.events.take() else { panic!("no event") };
    assert_eq!((event.kind, event.number), (EventKind::GuestReady, 1000));
    assert_eq!(world.events.take(), None);
}

#[test]
fn the_exit_status_outlasts_the_machine_and_readiness_does_not_outlast_a_boot() {
    let world = World::new();
    world.say(b"READY=1\n");
    world.say(b"X_SYSTEMD_SHUTDOWN=poweroff\nEXIT_STATUS=42\n");
    world.say(b"EXIT_STATUS=256\n");
    world.say(b"EXIT_STATUS=-1\n");
    world.readiness.machine_ended();
    assert_eq!((world.told().phase, world.told().exit_status), (Phase::Off, Some(42)));
    world.say(b"READY=1\n");
    assert_eq!(world.told().phase, Phase::Off, "one that is off is not ready");
    world.readiness.boot_begins();
    assert_eq!(world.told(), Told { phase: Phase::Booting, ..Told::default() });
}

#[test]
fn what_is_no_message_is_dropped_and_counted() {
    let world = World::new();
    let junk: [&[u8]; 4] = [b"\n", b"READY", b"=1", b"READY=1\n\xff"];
    for (count, message) in (1..).zip(junk) {
        world.say(message);
        assert_eq!(world.told().dropped, count, "{message:?}");
    }
    for message in [&b"READY=0"[..], b"ready=1", b" READY=1", b"READY=11", b"EXIT_STATUS=x"] {
        world.say(message);
    }
    let told = world.told();
    assert_eq!((told.phase, told.messages, told.exit_status), (Phase::Booting, 5, None));
}

#[test]
fn a_connection_that_is_given_up_before_anything_is_said_is_no_message() {
    let world = World::new();
    world.say(b"");
    drop(world.dial().unwrap());
    // They are served one after the other.
    world.say(b"READY=1\n");
    let told = world.told();
    assert_eq!((told.phase, told.messages, told.dropped), (Phase::Ready, 1, 0));
}

#[test]
fn a_message_may_come_in_pieces_and_be_as_long_as_is_said_but_not_a_byte_longer() {
    let world = World::new();
    let mut stream = world.dial().unwrap();
    for byte in b"READY=1" {
        stream.write_all(&[*byte]).unwrap();
        assert_eq!(world.told().phase, Phase::Booting, "it is not whole");
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(world.told().phase, Phase::Ready);
    let longest = [b"STATUS=", "x".repeat(MESSAGE_MAX - 7).as_bytes()].concat();
    world.say(&longest);
    assert_eq!((world.told().messages, world.told().dropped), (2, 0));
    let mut stream = world.dial().unwrap();
    stream.write_all(&longest).unwrap();
    stream.write_all(b"x").unwrap();
    world.eventually(|told| told.dropped == 1);
}

#[test]
fn a_flood_is_cut_off_and_the_next_message_is_heard() {
    let world = World::new();
    let mut stream = world.dial().unwrap();
    let flood = vec![b'x'; 1 << 20];
    assert!(stream.write_all(&flood).is_err(), "nobody takes so much");
    world.eventually(|told| told.dropped == 1);
    world.say(b"READY=1\n");
    assert_eq!(world.told().phase, Phase::Ready);
}

#[test]
fn connections_that_never_end_make_room_for_others_the_oldest_first() {
    let world = World::new();
    let mut held = Vec::new();
    for _ in 0..1000 {
        let mut stream = loop {
            match world.dial() {
                Some(stream) => break stream,
                // They come faster than they are taken.
                None => thread::yield_now(),
            }
        };
        // Those that were ended already do not take it.
        let _ = stream.write_all(b"READY=1\n");
        held.push(stream);
    }
    world.eventually(|told| told.dropped == (1000 - CONNECTIONS_MAX) as u64);
    assert_eq!(world.told().phase, Phase::Booting, "no message was whole");
    world.say(b"EXIT_STATUS=1\n");
    assert_eq!((world.told().messages, world.told().exit_status), (1, Some(1)));
    // The last one is still listened to.
    let last = held.last_mut().unwrap();
    last.shutdown(Shutdown::Write).unwrap();
    assert_eq!(last.read(&mut [0]).unwrap(), 0);
    assert_eq!(world.told().phase, Phase::Ready);
}

#[test]
fn the_address_is_among_the_oem_strings_unless_the_user_gives_one_or_there_is_no_room() {
    let address = "io.systemd.credential:vmm.notify_socket=vsock-stream:2:22094";
    assert_eq!(with_address(&[]).as_ref(), [address]);
    let own = ["io.systemd.credential:motd=hello".to_owned()];
    assert_eq!(with_address(&own).as_ref(), [own[0].as_str(), address]);
    for taken in [
        "io.systemd.credential:vmm.notify_socket=vsock-stream:2:9999",
        "io.systemd.credential.binary:vmm.notify_socket=dnNvY2s6Mjox",
    ] {
        assert_eq!(with_address(&[taken.to_owned()]).as_ref(), [taken]);
    }
    let many = vec!["x".to_owned(); OEM_STRINGS_COUNT];
    assert_eq!(with_address(&many).len(), OEM_STRINGS_COUNT);
    assert_eq!(with_address(&many[1..]).len(), OEM_STRINGS_COUNT);
    let room = OEM_STRINGS_MAX - 1 - (address.len() + 1);
    assert_eq!(with_address(&["x".repeat(room)]).len(), 2);
    assert_eq!(with_address(&["x".repeat(room + 1)]).len(), 1);
}

#[test]
fn the_driver_is_loaded_by_a_drop_in_that_goes_with_the_boot() {
    let (name, text) = driver().split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let unit = "systemd-modules-load.service";
    assert_eq!(name, format!("io.systemd.credential.binary:systemd.unit-dropin.{unit}"));
    let mut decoder = Command::new("base64")
        .arg("-d")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    decoder.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let text = String::from_utf8(decoder.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(text, "[Unit]\nWants=modprobe@vmw_vsock_virtio_transport.service\n");
}
