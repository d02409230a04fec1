//! The `vmm` command: starts machines, and works with their guests.

mod args;
mod balloon;
mod catalog;
mod console;
mod diagnostics;
mod events;
mod follow;
mod guest;
mod heap;
mod help;
mod info;
mod integration;
mod log;
mod machines;
mod output;
mod power;
mod progress;
mod readiness;
mod report;
mod run;
mod sandbox;
mod show;
mod signals;
mod start;
mod tasks;
mod terminal;

use args::{Args, Format, Verb};
use clap::FromArgMatches;
use heap::Heap;
use output::Failure;
use protocol::HResult;
use std::ffi::OsString;
use std::process::ExitCode;

#[global_allocator]
static HEAP: Heap = Heap::new();

/// The exit code of wrong usage.
const EXIT_USAGE: u8 = 2;
/// The exit code of work that was done, but whose result could not be written.
const EXIT_UNWRITTEN: u8 = 1;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let args = match args::read_run(&words).map_or_else(|| read(&words), Ok) {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let format = args.format;
    if let Verb::Run(_) = args.verb
        && let Err(error) = run::close_inherited()
    {
        let text = format!("cannot close what was open before: {error}");
        output::print_failure(HResult::DISP_E_EXCEPTION, &text, format);
        return ExitCode::FAILURE;
    }
    diagnostics::begin();
    let outcome = match args.verb {
        Verb::Run(run) => run::run(run, format),
        Verb::Start(start) => start::start(&start, format),
        Verb::Stop(stop) => power::stop(&stop, format),
        Verb::Reset(reset) => power::reset(&reset, format),
        Verb::Pause(machine) => power::pause(&machine.name, format),
        Verb::Resume(machine) => power::resume(&machine.name, format),
        Verb::Balloon(balloon) => balloon::balloon(&balloon, format),
        Verb::Console(machine) => console::console(&machine.name),
        Verb::Create(create) => catalog::create(create, format),
        Verb::Register(register) => catalog::register(&register, format),
        Verb::Unregister(machine) => catalog::unregister(&machine.name, format),
        Verb::Rm(machine) => catalog::remove(&machine.name, format),
        Verb::Ls => show::machines(format),
        Verb::Show(machine) => show::machine(&machine.name, format),
        Verb::Info(machine) => info::info(&machine.name, format),
        Verb::Events { name } => events::events(name.as_deref(), format),
        Verb::Users(machine) => guest::users(&machine.name, format),
        Verb::Logoff(logoff) => guest::logoff(&logoff, format),
        Verb::Shutdown(shutdown) => guest::shutdown(&shutdown, format),
        Verb::Restart(restart) => guest::restart(&restart, format),
        Verb::Integration { verb } => integration::integration(&verb, format),
        Verb::Param { verb } => guest::parameter(&verb, format),
        Verb::Task { verb } => tasks::task(&verb, format),
        Verb::Doctor => show::doctor(format),
        Verb::Completions { shell } => help::completions(shell),
        Verb::Man { directory } => help::manual(&directory),
    };
    match outcome {
        Ok(code) => ExitCode::from(unless_unwritten(code)),
        Err(Failure { code, exit, text }) => {
            output::print_failure(code, &text, format);
            ExitCode::from(exit)
        }
    }
}

/// The command line.
fn read(words: &[OsString]) -> Result<Args, clap::Error> {
    let mut command = help::command();
    let read = command.try_get_matches_from_mut(words);
    let args = read.and_then(|matches| Args::from_arg_matches(&matches));
    args.map_err(|error| error.format(&mut command))
}

/// `code`, unless what was done well could not be told.
fn unless_unwritten(code: u8) -> u8 {
    match output::missing() {
        Some(error) if code == 0 => {
            output::say(&format!("error: cannot write the result: {error}"));
            EXIT_UNWRITTEN
        }
        _ => code,
    }
}

/// Help that was asked for, or a refusal of the command line: a document where one is wanted.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A reader that has gone wants no more.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if wants_json() {
        let text = error.to_string();
        let what = text.split("\n\n").next().unwrap_or_default();
        let what = what.strip_prefix("error: ").unwrap_or(what);
        output::print_failure(HResult::E_INVALIDARG, what, Format::Json);
    } else {
        let _ = error.print();
    }
    ExitCode::from(EXIT_USAGE)
}

/// Whether `--format json` is on a command line that could not be read.
fn wants_json() -> bool {
    let words: Vec<_> = std::env::args_os().collect();
    words.iter().any(|word| word == "--format=json")
        || words.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}
