//! The scenes of a logoff on Debian as people install it: systemd of Debian 12 and of Debian 13, and
//! elogind with sysvinit.
//!
//! Each guest is booted once and plays its scenes one after the other; one that fails gets the next a
//! new boot. Debian 13's boot is a scene itself: it is the one that says when it is ready.
//! `tests::scenes` says which scene is played where, and why not where it is not. Scenes that
//! are not among the core are ignored unless they are named or all are asked for.

mod agent;
mod callers;
mod power;
mod readiness;
mod sessions;
mod survivors;

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tests::Debian;
use tests::scenes::{Cell, SCENES, table};
use tests::stage::Stage;

/// The scene that is Debian 13's boot.
const READY: &str = "a_start_waits_until_the_guest_is_ready_and_show_says_when_that_was";

/// The guest that is up.
static STAGE: Mutex<Option<Stage>> = Mutex::new(None);

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--table") {
        let passed: Vec<String> = std::env::args().skip(2).collect();
        print!("{}", table(Some(&passed)));
        return ExitCode::SUCCESS;
    }
    // Exact names may be many here, as in the standard harness.
    let (options, names) = names(std::env::args().collect());
    let mut arguments = Arguments::from_iter(options);
    // One after the other, in the order of the guests.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    let wanted = |name: &String| names.is_empty() || names.contains(name);
    for debian in [Debian::Twelve, Debian::Thirteen, Debian::Sysvinit] {
        if debian == Debian::Thirteen {
            let name = format!("{}::{READY}", debian.name());
            trials.extend(wanted(&name).then(|| Trial::test(name, act_ready)));
        }
        for scene in &SCENES {
            let core = match scene.on(debian) {
                Cell::Core => true,
                Cell::Played => false,
                Cell::Elsewhere(_) | Cell::Not(_) => continue,
            };
            let play = script(scene.name);
            let name = format!("{}::{}", debian.name(), scene.name);
            if !wanted(&name) {
                continue;
            }
            let run = move || {
                act(debian, play);
                Ok(())
            };
            trials.push(Trial::test(name, run).with_ignored_flag(!core));
        }
    }
    let code = libtest_mimic::run(&arguments, trials).exit_code();
    // One in the background would go on.
    drop(slot().take());
    code
}

/// Takes the names behind `--exact` out of the command line.
fn names(mut words: Vec<String>) -> (Vec<String>, Vec<String>) {
    match words.iter().position(|word| word == "--exact") {
        None => (words, Vec::new()),
        Some(at) => {
            let names = words.split_off(at).into_iter().skip(1);
            (words, names.collect())
        }
    }
}

/// Plays a scene on an empty stage; one that fails leaves none.
fn act(debian: Debian, play: fn(&mut Stage)) {
    let mut slot = slot();
    // Another guest's goes first, for both would be too much.
    let kept = slot.take().filter(|stage| stage.debian == debian);
    let mut stage = kept.unwrap_or_else(|| Stage::boot(debian));
    stage.clear();
    play(&mut stage);
    *slot = Some(stage);
}

/// Boots Debian 13 as the scene does, and leaves it to those that follow.
fn act_ready() -> Result<(), Failed> {
    let mut slot = slot();
    drop(slot.take());
    *slot = Some(readiness::a_start_waits_until_the_guest_is_ready_and_show_says_when_that_was());
    Ok(())
}

fn slot() -> MutexGuard<'static, Option<Stage>> {
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is done in the scene `name`.
fn script(name: &str) -> fn(&mut Stage) {
    match name {
        "nobody_is_logged_on" => sessions::nobody_is_logged_on,
        "one_terminal_login" => sessions::one_terminal_login,
        "several_users_one_of_them_twice" => sessions::several_users_one_of_them_twice,
        "an_autologin_that_comes_straight_back" => sessions::an_autologin_that_comes_straight_back,
        "a_user_who_logs_in_during_the_work" => sessions::a_user_who_logs_in_during_the_work,
        "greeters_and_background_sessions_stay" => sessions::greeters_and_background_sessions_stay,
        "a_shell_that_ignores_hup_and_term" => survivors::a_shell_that_ignores_hup_and_term,
        "tmux_in_the_session" => survivors::tmux_in_the_session,
        "a_process_of_the_manager" => survivors::a_process_of_the_manager,
        "a_process_of_the_manager_with_linger" => survivors::a_process_of_the_manager_with_linger,
        "a_closing_session_with_leftovers" => survivors::a_closing_session_with_leftovers,
        "a_cron_job_of_the_same_user" => survivors::a_cron_job_of_the_same_user,
        "a_frozen_process" => survivors::a_frozen_process,
        "the_agent_killed_during_the_grace" => agent::the_agent_killed_during_the_grace,
        "the_agent_upgraded_during_the_grace" => agent::the_agent_upgraded_during_the_grace,
        "no_agent" => agent::no_agent,
        "two_callers" => callers::two_callers,
        "cancel_before_the_commit" => callers::cancel_before_the_commit,
        "cancel_after_the_commit" => callers::cancel_after_the_commit,
        "a_paused_machine" => power::a_paused_machine,
        "paused_for_a_minute_during_the_grace" => power::paused_for_a_minute_during_the_grace,
        "the_guest_reboots_during_the_grace" => power::the_guest_reboots_during_the_grace,
        "reset_during_the_grace" => power::reset_during_the_grace,
        other => panic!("nobody knows how the scene {other} goes"),
    }
}
