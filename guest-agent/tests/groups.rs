//! What the logind backend makes of guests written out as files, with a login manager on a real bus.

mod files;
mod manager;
mod world;

use files::{Guest, NO_TTY, P, PTS0, TTY1, numbers, p, real, sorted};
use guest_agent::process::{Proc, Scope};
use guest_agent::sessions::Backend;
use guest_agent::sessions::logind::Logind;
use manager::{Logins, session};
use std::collections::HashSet;

const SHELL: &str = "0::/user.slice/user-1000.slice/session-1.scope";
const CRON: &str = "0::/user.slice/user-1000.slice/session-4.scope";
const USER: &str = "0::/user.slice/user-1000.slice/user@1000.service/init.scope";
const JOB: &str = "0::/user.slice/user-1000.slice/user@1000.service/session-1.scope";
const SYSTEM: &str = "0::/system.slice/cron.service";

fn backend(guest: &Guest, logins: &Logins) -> Logind {
    let proc = Proc::new(&guest.path("proc"), Scope::Everyone);
    let reader = proc.clone();
    Logind::with_cgroups(logins.root(), proc, move |pid| reader.cgroups(pid)).unwrap()
}

/// Sessions of class `user`, by their names, users and leaders.
fn add(logins: &Logins, sessions: &[(&str, u32, u32)]) {
    for (id, uid, leader) in sessions {
        logins.add(manager::Session { stuck: true, ..session(id, *uid, real(*leader)) });
    }
}

/// The counted sessions' processes, in the order in which their leaders started.
fn who(backend: &Logind) -> Vec<(String, Vec<u32>)> {
    let sessions = backend.list().unwrap().counted;
    let numbers = numbers(backend, &sessions, &HashSet::new());
    sessions.into_iter().map(|session| session.id).zip(numbers).collect()
}

fn debian() -> Vec<P> {
    vec![
        p(300, 1, 300, NO_TTY, "cron").group(SYSTEM),
        p(500, 1, 500, NO_TTY, "login").group(SHELL),
        p(510, 500, 510, TTY1, "bash").of(1000).group(SHELL),
        // A server without a terminal, whose parent has gone.
        p(520, 1, 520, NO_TTY, "tmux: server").of(1000).group(SHELL),
        p(530, 520, 530, PTS0, "bash").of(1000).group(SHELL),
        p(600, 1, 600, NO_TTY, "systemd").of(1000).group(USER),
        p(610, 600, 600, NO_TTY, "(sd-pam)").of(1000).group(USER),
        // A user may call a unit whatever they like.
        p(620, 600, 620, NO_TTY, "job").of(1000).group(JOB),
        p(700, 300, 300, NO_TTY, "cron").group(CRON),
        p(710, 700, 710, NO_TTY, "sh").of(1000).group(CRON),
        P { state: 'Z', ..p(800, 510, 510, TTY1, "gone").of(1000).group(SHELL) },
    ]
}

#[test]
fn on_systemd_a_session_is_its_scope_and_a_manager_its_service() {
    let Some(logins) = Logins::systemd() else { return };
    let guest = Guest::new(&debian());
    add(&logins, &[("1", 1000, 500)]);
    let cron = manager::Session { class: "background", ..session("4", 1000, real(700)) };
    logins.add(cron);
    let backend = backend(&guest, &logins);
    assert_eq!(who(&backend), [("1".to_owned(), vec![500, 510, 520, 530])]);
    let listing = backend.list().unwrap();
    assert_eq!(listing.ignored[0].id, "4");
    let managers = backend.managers(&[&listing.counted[0]]).unwrap();
    assert_eq!((managers.len(), managers[0].uid), (1, 1000));
    assert_eq!(sorted(&managers[0].members), [600, 610, 620]);
    assert_eq!(managers[0].keep.as_deref(), Some("background"));
}

#[test]
fn on_systemd_with_two_hierarchies_the_one_that_it_names_decides() {
    let Some(logins) = Logins::systemd() else { return };
    let one =
        "9:pids:/user.slice\n1:name=systemd:/user.slice/user-1000.slice/session-1.scope\n0::/";
    let other = "9:pids:/user.slice\n1:name=systemd:/system.slice/cron.service\n0::/";
    let guest = Guest::new(&[
        p(500, 1, 500, TTY1, "bash").of(1000).group(one),
        p(501, 1, 500, TTY1, "cron").of(1000).group(other),
    ]);
    add(&logins, &[("1", 1000, 500)]);
    assert_eq!(who(&backend(&guest, &logins)), [("1".to_owned(), vec![500])]);
}

#[test]
fn a_leader_outside_of_its_scope_counts_and_is_touched_unless_it_is_a_service() {
    let Some(logins) = Logins::systemd() else { return };
    let guest = Guest::new(&[
        p(500, 1, 500, NO_TTY, "sesman").group("0::/system.slice/xrdp.service"),
        p(600, 1, 600, TTY1, "bash").of(1000),
    ]);
    add(&logins, &[("1", 1000, 500), ("2", 1000, 600)]);
    let expected = [("1".to_owned(), vec![]), ("2".to_owned(), vec![600])];
    assert_eq!(who(&backend(&guest, &logins)), expected);
}

#[test]
fn on_elogind_the_group_and_the_looks_decide_and_roots_daemons_are_nobodys() {
    let Some(logins) = Logins::elogind() else { return };
    add(&logins, &[("1", 1000, 500), ("2", 0, 600)]);
    for (one, two) in [
        ("3:pids:/\n1:name=elogind:/1\n0::/", "3:pids:/\n1:name=elogind:/2\n0::/"),
        ("0::/1", "0::/2"),
    ] {
        let guest = Guest::new(&[
            p(500, 1, 500, NO_TTY, "login").group(one),
            p(510, 500, 510, TTY1, "bash").of(1000).group(one),
            p(520, 1, 520, NO_TTY, "tmux: server").of(1000).group(one),
            p(530, 510, 510, TTY1, "sudo").group(one),
            // Restarted by the user's sudo, and by root in root's own session.
            p(540, 1, 540, NO_TTY, "sshd").group(one),
            p(600, 1, 600, PTS0, "bash").group(two),
            p(610, 1, 610, NO_TTY, "cron").group(two),
        ]);
        let backend = backend(&guest, &logins);
        let expected = [("1".to_owned(), vec![500, 510, 520, 530]), ("2".to_owned(), vec![600])];
        assert_eq!(who(&backend), expected);
        let listing = backend.list().unwrap();
        assert!(backend.managers(&[&listing.counted[0]]).unwrap().is_empty());
    }
}

#[test]
fn on_elogind_without_control_groups_the_audit_session_decides() {
    let Some(logins) = Logins::elogind() else { return };
    let guest = Guest::new(&[
        p(500, 1, 500, NO_TTY, "login").audit(7).group(""),
        p(510, 500, 510, TTY1, "bash").of(1000).audit(7).group(""),
        p(520, 1, 520, NO_TTY, "tmux: server").of(1000).audit(7).group(""),
        p(530, 1, 530, NO_TTY, "sleep").of(1000).audit(8).group(""),
    ]);
    add(&logins, &[("7", 1000, 500)]);
    assert_eq!(who(&backend(&guest, &logins)), [("7".to_owned(), vec![500, 510, 520])]);
}

/// Writes out systemd's control groups of uid 1000 with these units, and who is in them.
fn write_tree(logins: &Logins, units: &[(&str, &[u32])]) {
    let users = logins.root().join("sys/fs/cgroup/user.slice");
    let list =
        |pids: &[u32]| pids.iter().map(|pid| format!("{}\n", real(*pid))).collect::<String>();
    std::fs::create_dir_all(&users).unwrap();
    std::fs::write(users.join("cgroup.procs"), "").unwrap();
    for (unit, pids) in units {
        let group = users.join("user-1000.slice").join(unit);
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(group.join("cgroup.procs"), list(pids)).unwrap();
    }
}

#[test]
fn the_lists_of_the_groups_are_enough_while_a_sessions_leader_is_in_its_scope_or_has_gone() {
    let Some(logins) = Logins::systemd() else { return };
    write_tree(
        &logins,
        &[
            ("session-1.scope", &[500, 510]),
            // What has a group of its own below the session's is the session's, too.
            ("session-1.scope/inner", &[520]),
            ("user@1000.service", &[]),
            ("user@1000.service/init.scope", &[600, 610]),
            ("user@1000.service/app.slice/job.service", &[620]),
        ],
    );
    let guest = Guest::new(&debian());
    add(&logins, &[("1", 1000, 500)]);
    let backend = backend(&guest, &logins);
    let listing = backend.list().unwrap();
    // 530 says that it is in the session's group, and is in no list: nobody has looked at it.
    let all = [("1".to_owned(), vec![500, 510, 520])];
    assert_eq!(who(&backend), all);
    let managers = backend.managers(&[&listing.counted[0]]).unwrap();
    assert_eq!(sorted(&managers[0].members), [600, 610, 620]);

    let mut left = debian();
    left.retain(|process| process.pid != 500);
    guest.show(&left);
    assert_eq!(numbers(&backend, &listing.counted, &HashSet::new()), [[510, 520]]);
    // Nobody of the list is there: who has come instead is looked for among all.
    left.retain(|process| process.pid != 510 && process.pid != 520);
    guest.show(&left);
    assert_eq!(numbers(&backend, &listing.counted, &HashSet::new()), [[530]]);
    left.retain(|process| process.pid != 530);
    guest.show(&left);
    assert_eq!(numbers(&backend, &listing.counted, &HashSet::new()), [Vec::<u32>::new()]);

    // Without them nobody could be told to be there.
    guest.show(&[]);
    std::fs::remove_dir_all(guest.path("proc")).unwrap();
    assert!(backend.list().is_err());
}

#[test]
fn every_process_is_looked_at_where_the_lists_of_the_groups_do_not_say_all() {
    let Some(logins) = Logins::systemd() else { return };
    write_tree(&logins, &[("session-1.scope", &[])]);
    // A leader that has not been put into its scope, and what it has started there.
    let outside = [
        p(500, 1, 500, TTY1, "login"),
        p(510, 500, 510, TTY1, "bash").of(1000),
        p(600, 1, 600, NO_TTY, "systemd").of(1000).group(USER),
    ];
    let guest = Guest::new(&outside);
    add(&logins, &[("1", 1000, 500)]);
    let backend = backend(&guest, &logins);
    assert_eq!(who(&backend), [("1".to_owned(), vec![500, 510])]);
    let listing = backend.list().unwrap();
    // Once they are known as such they are followed where they are, also when the leader has gone.
    guest.show(&outside[1..]);
    let seen = HashSet::from([guest_agent::process::Identity { pid: real(510), start: 510 }]);
    let known =
        guest_agent::sessions::Known { session: &listing.counted[0], seen: &seen, loose: &seen };
    assert_eq!(sorted(&backend.look(&[known]).unwrap()[0].members), [510]);
}

#[test]
fn who_moves_between_groups_while_they_are_read_is_found_all_the_same() {
    let Some(logins) = Logins::systemd() else { return };
    write_tree(
        &logins,
        &[("session-1.scope", &[500]), ("user@1000.service", &[]), ("user@1000.service/a", &[])],
    );
    let guest = Guest::new(&[
        p(500, 1, 500, TTY1, "bash").of(1000).group(SHELL),
        p(620, 1, 620, NO_TTY, "job").of(1000).group(JOB),
    ]);
    add(&logins, &[("1", 1000, 500)]);
    let backend = backend(&guest, &logins);
    let listing = backend.list().unwrap();
    let manager = || sorted(&backend.managers(&[&listing.counted[0]]).unwrap()[0].members);
    let unit = logins.root().join("sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service");
    // It was in no list when that was read; the group knows.
    std::fs::write(unit.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    assert_eq!(manager(), [620]);
    std::fs::write(unit.join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
    assert_eq!(manager(), Vec::<u32>::new(), "the groups are believed where they say that");
}

#[test]
fn every_process_is_looked_at_where_the_groups_are_too_many_or_cannot_be_read() {
    let Some(logins) = Logins::systemd() else { return };
    let guest = Guest::new(&debian());
    add(&logins, &[("1", 1000, 500)]);
    write_tree(&logins, &[]);
    let backend = backend(&guest, &logins);
    let all = [("1".to_owned(), vec![500, 510, 520, 530])];
    let scope = logins.root().join("sys/fs/cgroup/user.slice/user-1000.slice/session-1.scope");
    let spoil: [fn(&std::path::Path); 3] = [
        |scope| {
            for number in 0..1_024 {
                std::fs::create_dir_all(scope.join(format!("{number}"))).unwrap();
            }
        },
        |scope| std::fs::write(scope.join("cgroup.procs"), vec![b'\n'; 1 << 20]).unwrap(),
        // A directory can be read no more than the list of a threaded group.
        |scope| {
            std::fs::remove_file(scope.join("cgroup.procs")).unwrap();
            std::fs::create_dir(scope.join("cgroup.procs")).unwrap();
        },
    ];
    for spoil in spoil {
        write_tree(&logins, &[("session-1.scope", &[500, 510])]);
        assert_eq!(who(&backend), [("1".to_owned(), vec![500, 510])], "the lists are believed");
        spoil(&scope);
        assert_eq!(who(&backend), all);
        std::fs::remove_dir_all(&scope).unwrap();
    }
}
