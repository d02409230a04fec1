//! Clients that ask for much and do not read it.

use super::*;
use crate::control::unsent::ROOM;
use protocol::task::LogoffReport;

/// A task whose document is longer than a socket takes, and of which two do not fit the room.
fn long_task(world: &World) -> u32 {
    let (task, work) = world.vm.tasks().start_committed("say much");
    let session = SessionReport {
        session: SessionSummary { user: "x".repeat(700), ..SessionSummary::default() },
        ..row(0, None)
    };
    let report = LogoffReport { sessions: vec![session; 720], ..LogoffReport::default() };
    work.report(Arc::new(report));
    work.finish(TaskResult::Success, HResult::S_OK, "");
    let mut bytes = Vec::new();
    let task = crate::control::serve::document(&task);
    wire::answer(&mut bytes, &task).unwrap();
    assert!((ROOM / 2..ROOM).contains(&bytes.len()), "{}", bytes.len());
    world.client().tasks().unwrap()[0].id
}

/// A client that has asked for the task, and whose answer has begun: so all of it is waiting.
fn asking(world: &World, id: u32) -> UnixStream {
    let mut stream = world.raw();
    ask(&mut stream, Request::Task { id });
    let begun = rustix::net::recv(&stream, &mut [0], rustix::net::RecvFlags::PEEK).unwrap();
    assert_eq!(begun, (1, 1));
    stream
}

#[test]
fn who_asks_while_too_much_is_unread_is_refused_until_it_is_read() {
    let world = World::new();
    let id = long_task(&world);
    let mut first = asking(&world, id);
    let mut second = world.raw();
    ask(&mut second, Request::Task { id });
    let Some(Response::Refused { code, text }) = answer_to(&mut second) else { panic!("taken") };
    assert_eq!(code, HResult::VM_E_OUT_OF_RESOURCE);
    assert!(text.contains("do not read"), "{text}");
    // Short answers need no room.
    ask(&mut second, Request::Machine);
    assert!(matches!(answer_to(&mut second), Some(Response::Machine(_))));
    assert!(matches!(answer_to(&mut first), Some(Response::Task(_))));
    ask(&mut second, Request::Task { id });
    assert!(matches!(answer_to(&mut second), Some(Response::Task(_))));
}

#[test]
fn who_reads_nothing_or_only_a_little_now_and_then_makes_room_for_others() {
    let world = World::new();
    let id = long_task(&world);
    let nothing: fn(&mut UnixStream) = |_| ();
    let little: fn(&mut UnixStream) = |stream| {
        // Enough for the socket to take more.
        stream.read_exact(&mut [0; 8192]).unwrap_or_default();
    };
    for read in [nothing, little] {
        let mut slow = asking(&world, id);
        let deadline = Instant::now() + LIMIT;
        loop {
            assert!(Instant::now() < deadline, "it is waited for, for ever");
            read(&mut slow);
            let mut next = world.raw();
            ask(&mut next, Request::Task { id });
            match answer_to(&mut next) {
                Some(Response::Task(_)) => break,
                Some(Response::Refused { code: HResult::VM_E_OUT_OF_RESOURCE, .. }) => {}
                other => panic!("{other:?}"),
            }
            thread::sleep(Duration::from_millis(100));
        }
        drop(slow);
        world.wait_for_seats(0);
    }
}

#[test]
fn case_40_who_dies_in_the_middle_of_a_long_answer_leaves_nothing_behind() {
    let world = World::new();
    let id = long_task(&world);
    for _ in 0..50 {
        let mut stream = asking(&world, id);
        // So much has come, and the rest never will.
        stream.read_exact(&mut [0]).unwrap();
        drop(stream);
        world.wait_for_seats(0);
        // Its share of the room is free for the next one.
        let mut next = world.raw();
        ask(&mut next, Request::Task { id });
        assert!(matches!(answer_to(&mut next), Some(Response::Task(_))));
        drop(next);
        world.wait_for_seats(0);
    }
}
