//! What the program says of itself on standard error: warnings, or what `VMM_LOG` asks for.

use crate::output;
use std::io;
use std::sync::OnceLock;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, subscriber};
use tracing_subscriber::EnvFilter;

/// How bad something has to be for being told unasked.
const LEVEL: Level = Level::WARN;

/// Has told what is logged from here on.
pub(crate) fn begin() {
    let warnings = Warnings { is_colourful: output::is_colourful(), log: OnceLock::new() };
    let is_set = match EnvFilter::try_from_env("VMM_LOG") {
        Ok(filter) => {
            let log = log(warnings.is_colourful).with_env_filter(filter);
            subscriber::set_global_default(log.finish())
        }
        Err(_) => subscriber::set_global_default(warnings),
    };
    is_set.expect("nobody else logs");
}

fn log(is_colourful: bool) -> Log {
    tracing_subscriber::fmt()
        .with_ansi(is_colourful)
        .log_internal_errors(false)
        .with_writer(io::stderr as fn() -> io::Stderr)
}

type Log = tracing_subscriber::fmt::SubscriberBuilder<
    tracing_subscriber::fmt::format::DefaultFields,
    tracing_subscriber::fmt::format::Format,
    LevelFilter,
    fn() -> io::Stderr,
>;

/// Tells warnings and errors. Its log is put together for the first of these: most machines have
/// none, and that touches more memory than all of their devices.
struct Warnings {
    is_colourful: bool,
    log: OnceLock<Dispatch>,
}

impl Warnings {
    fn log(&self) -> &Dispatch {
        let log = || log(self.is_colourful).with_max_level(LEVEL).finish();
        self.log.get_or_init(|| Dispatch::new(log()))
    }
}

impl Subscriber for Warnings {
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(LEVEL))
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= LEVEL
    }

    fn event(&self, event: &Event<'_>) {
        self.log().event(event);
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.log().new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.log().record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.log().record_follows_from(span, follows);
    }

    fn enter(&self, span: &Id) {
        self.log().enter(span);
    }

    fn exit(&self, span: &Id) {
        self.log().exit(span);
    }
}
