//! Which scenes of a logoff are played on which guests, and why not where they are not.

use crate::guest::Debian;
use std::fmt::Write;

/// Whether a scene is played on a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// In every run of the tests.
    Core,
    /// Where all scenes are asked for.
    Played,
    /// By this test, which has a guest of its own.
    Elsewhere(&'static str),
    /// It cannot be, for this reason.
    Not(&'static str),
}

use Cell::{Core, Elsewhere, Not, Played};

/// A scene.
#[derive(Debug)]
pub struct Scene {
    /// Its name.
    pub name: &'static str,
    /// Debian 12, Debian 13, sysvinit with elogind, busybox.
    cells: [Cell; 4],
}

impl Scene {
    /// Whether it is played on `debian`.
    #[must_use]
    pub fn on(&self, debian: Debian) -> Cell {
        match debian {
            Debian::Twelve => self.cells[0],
            Debian::Thirteen => self.cells[1],
            Debian::Sysvinit => self.cells[2],
        }
    }
}

const GUESTS: [&str; 4] = ["debian12", "debian13", "sysvinit", "busybox"];
const MANAGERS: &str = "users have service managers only under systemd";
const CLOSING: &str = "a session that is closing exists only where a login manager keeps sessions";
const FORGOTTEN: &str = "elogind forgets a session when its leader has gone";
const STUCK: &str = "these login managers drop such a session at once when they are well; played with one of \
                     the agent's tests that does not";
const CLASSES: &str = "sessions have classes only where a login manager keeps them";
const CRON: &str = "busybox' guest has no cron; a daemon of the same user survives there";
const TOO_OLD: &str = "played without a guest, by an agent of the test's against the monitor";
const TMUX: &str = "busybox' guest has no tmux";

const fn scene(name: &'static str, cells: [Cell; 4]) -> Scene {
    Scene { name, cells }
}

/// All of them, in the order in which a guest plays them.
pub const SCENES: [Scene; 25] = [
    scene(
        "nobody_is_logged_on",
        [
            Core,
            Core,
            Core,
            Elsewhere("three_users_are_logged_off_and_a_second_logoff_finds_nobody"),
        ],
    ),
    scene(
        "one_terminal_login",
        [
            Played,
            Core,
            Played,
            Elsewhere("without_an_agent_the_refusal_says_when_it_was_last_heard"),
        ],
    ),
    scene(
        "several_users_one_of_them_twice",
        [Core, Core, Core, Elsewhere("a_user_who_is_there_twice_is_logged_off_twice")],
    ),
    scene(
        "a_shell_that_ignores_hup_and_term",
        [
            Core,
            Played,
            Core,
            Elsewhere("who_ignores_hup_and_term_is_killed_after_the_grace_and_a_daemon_survives"),
        ],
    ),
    scene("tmux_in_the_session", [Played, Played, Core, Not(TMUX)]),
    scene("a_process_of_the_manager", [Core, Played, Not(MANAGERS), Not(MANAGERS)]),
    scene("a_process_of_the_manager_with_linger", [Played, Core, Not(MANAGERS), Not(MANAGERS)]),
    scene("a_closing_session_with_leftovers", [Core, Played, Not(FORGOTTEN), Not(CLOSING)]),
    scene("a_stuck_and_empty_closing_session", [Not(STUCK), Not(STUCK), Not(STUCK), Not(CLOSING)]),
    scene(
        "an_autologin_that_comes_straight_back",
        [Played, Core, Played, Elsewhere("an_autologin_that_comes_straight_back_is_left_alone")],
    ),
    scene("a_cron_job_of_the_same_user", [Core, Played, Played, Not(CRON)]),
    scene(
        "a_user_who_logs_in_during_the_work",
        [Played, Played, Played, Elsewhere("a_user_who_logs_in_during_the_work_is_left_alone")],
    ),
    scene("greeters_and_background_sessions_stay", [Played, Played, Played, Not(CLASSES)]),
    scene(
        "a_frozen_process",
        [Core, Played, Played, Elsewhere("a_frozen_process_ends_in_a_time_out_that_names_it")],
    ),
    scene(
        "the_agent_killed_during_the_grace",
        [
            Played,
            Core,
            Played,
            Elsewhere("an_agent_killed_during_the_grace_comes_back_and_finishes"),
        ],
    ),
    scene(
        "the_agent_upgraded_during_the_grace",
        [Played, Played, Core, Not("its agent is part of its image")],
    ),
    scene(
        "two_callers",
        [Played, Played, Played, Elsewhere("two_callers_share_one_logoff_and_its_end")],
    ),
    scene(
        "cancel_before_the_commit",
        [Played, Played, Played, Elsewhere("a_logoff_is_cancelable_until_it_is_committed")],
    ),
    scene(
        "cancel_after_the_commit",
        [
            Played,
            Played,
            Played,
            Elsewhere("an_interrupt_before_the_commit_cancels_and_one_after_it_only_leaves"),
        ],
    ),
    scene(
        "no_agent",
        [
            Played,
            Played,
            Played,
            Elsewhere("without_an_agent_the_refusal_says_when_it_was_last_heard"),
        ],
    ),
    scene("an_agent_that_is_too_old", [Not(TOO_OLD); 4]),
    scene(
        "a_paused_machine",
        [
            Played,
            Played,
            Played,
            Elsewhere("a_logoff_that_is_paused_goes_on_when_the_machine_does"),
        ],
    ),
    scene(
        "paused_for_a_minute_during_the_grace",
        [
            Played,
            Played,
            Played,
            Elsewhere("a_logoff_that_is_paused_goes_on_when_the_machine_does"),
        ],
    ),
    scene(
        "the_guest_reboots_during_the_grace",
        [Played, Played, Played, Elsewhere("a_reboot_during_the_grace_ends_the_task_with_a_text")],
    ),
    scene(
        "reset_during_the_grace",
        [Played, Played, Played, Elsewhere("a_reset_during_the_grace_ends_the_task_with_a_text")],
    ),
];

/// The table of scenes by guests, in Markdown. With the tests that have `passed` it says which have;
/// without, which are played.
#[must_use]
pub fn table(passed: Option<&[String]>) -> String {
    let mut text = format!("| scene | {} |\n|---|---|---|---|---|\n", GUESTS.join(" | "));
    let mut reasons: Vec<&str> = Vec::new();
    for scene in &SCENES {
        let mut cells = Vec::new();
        for (guest, cell) in GUESTS.iter().zip(scene.cells) {
            let name = format!("{guest}::{}", scene.name);
            let (name, otherwise) = match cell {
                Core => (name.as_str(), "core"),
                Played => (name.as_str(), "all"),
                Elsewhere(test) => (test, "core"),
                Not(reason) => {
                    if !reasons.contains(&reason) {
                        reasons.push(reason);
                    }
                    let number = reasons.iter().position(|one| *one == reason).unwrap_or(0) + 1;
                    cells.push(format!("– {number}"));
                    continue;
                }
            };
            cells.push(match passed {
                None => otherwise.into(),
                Some(passed) if passed.iter().any(|one| one == name) => "ok".into(),
                Some(_) => "not played".into(),
            });
        }
        let title = scene.name.replace('_', " ");
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {title} | {} |", cells.join(" | "));
    }
    text.push('\n');
    for (number, reason) in reasons.iter().enumerate() {
        let _ = writeln!(text, "{}. {reason}", number + 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_the_documentation_is_this_one() {
        let text = include_str!("../../docs/logoff.md");
        let (_, rest) = text.split_once("<!-- scenes -->\n").expect("the table has a beginning");
        let (shown, _) = rest.split_once("<!-- end of scenes -->").expect("and an end");
        let table = table(None);
        assert_eq!(shown.trim(), table.trim(), "the documentation is to show\n{table}");
    }

    #[test]
    fn what_is_played_by_other_tests_is_played() {
        let sources =
            [include_str!("../tests/lab_logoff.rs"), include_str!("../tests/lab_pause.rs")];
        for scene in &SCENES {
            for cell in scene.cells {
                let Elsewhere(test) = cell else { continue };
                let test = format!("fn {test}()");
                assert!(sources.iter().any(|source| source.contains(&test)), "no {test}");
            }
        }
    }

    #[test]
    fn the_table_says_what_has_passed_and_why_a_cell_is_empty() {
        let passed = ["debian12::tmux_in_the_session".to_owned()];
        let table = table(Some(&passed));
        let row = table.lines().find(|line| line.starts_with("| tmux")).expect("the scene");
        let cells: Vec<&str> = row.split(" | ").collect();
        assert_eq!(cells[1..4], ["ok", "not played", "not played"]);
        let number = cells[4].trim_start_matches("– ").trim_end_matches(" |");
        assert!(table.contains(&format!("{number}. {TMUX}")), "{table}");
    }
}
