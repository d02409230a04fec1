//! From the table to what the kernel runs at each system call of a thread.

use super::calls::Value;
use super::program::{Answer, Condition, assemble};
use super::role::{Role, Roles};
use super::table::{Library, REFUSAL, Row, Signal, TABLE, When};
use super::{ConfineError, Manner};
use seccompiler::{BpfProgram, SeccompAction};
use std::fmt::Write;

/// The filters of a process. Each is made when a thread takes it: not every machine has threads of every
/// role, and a thread makes its own while others work.
#[derive(Debug)]
pub(super) struct Filters {
    process: u32,
    /// What a call that the table does not have is answered.
    otherwise: u32,
}

impl Filters {
    /// Those of the table, for this process.
    pub(super) fn new(manner: Manner) -> Self {
        let otherwise = match manner {
            Manner::Kill => SeccompAction::KillProcess,
            Manner::Log => SeccompAction::Log,
        };
        Self::answering(otherwise)
    }

    /// Those of the table, with this answer to what it does not have.
    pub(super) fn answering(otherwise: SeccompAction) -> Self {
        Self { process: std::process::id(), otherwise: otherwise.into() }
    }

    /// The one of `role`.
    pub(super) fn of(&self, role: Role) -> BpfProgram {
        assemble(answers(role.covers(), self.process, self.otherwise), self.otherwise)
    }

    /// Narrows the calling thread to `role`.
    pub(super) fn narrow(&self, role: Role) -> Result<(), ConfineError> {
        install(&self.of(role))
    }
}

/// Has the calling thread go by `program` from here on.
pub(super) fn install(program: &BpfProgram) -> Result<(), ConfineError> {
    seccompiler::apply_filter(program).map_err(ConfineError::Install)
}

/// The rows of the table that are there with this program's C library.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(|row| row.is_ours())
}

/// What `roles` of this `process` are answered to the calls of their rows, sorted by number; `otherwise`
/// if a row's conditions do not hold.
fn answers(roles: Roles, process: u32, otherwise: u32) -> Vec<(u32, Answer)> {
    let mut calls: Vec<(u32, When)> = Vec::with_capacity(2 * TABLE.len());
    for row in rows().filter(|row| row.roles.intersects(roles)) {
        // Numbers of calls are small, and none is negative.
        calls.extend(row.calls.iter().map(|(_, number)| (*number as u32, row.when)));
    }
    calls.sort_by_key(|(number, _)| *number);
    let of_one = calls.chunk_by(|(one, _), (other, _)| one == other);
    of_one.filter_map(|rows| Some((rows.first()?.0, answer(rows, process, otherwise)))).collect()
}

/// What a call with these rows is answered: what is refused is, whatever other rows say; else it is let
/// through if one of them says so.
fn answer(rows: &[(u32, When)], process: u32, otherwise: u32) -> Answer {
    let allow = SeccompAction::Allow.into();
    if rows.iter().any(|(_, when)| matches!(when, When::Refused)) {
        return Answer::Plain(SeccompAction::Errno(REFUSAL.1 as u32).into());
    }
    if rows.iter().any(|(_, when)| matches!(when, When::Always)) {
        return Answer::Plain(allow);
    }
    let any = rows.iter().map(|(_, when)| conditions(*when, process)).collect();
    Answer::If(any, allow, otherwise)
}

/// The conditions of a row, all of which have to hold.
fn conditions(when: When, process: u32) -> Vec<Condition> {
    match when {
        When::Always | When::Refused => Vec::new(),
        When::Is(index, values) => {
            // All that is looked at is of 32 bits.
            let values = values.iter().map(|(_, value)| *value as u32);
            vec![Condition::Is(index, values.collect())]
        }
        When::Lacks(index, (_, bits)) => vec![Condition::Bits(index, bits as u32, 0)],
        When::Has(index, (_, bits)) => vec![Condition::Bits(index, bits as u32, bits as u32)],
        When::Signals(signals) => {
            vec![Condition::Is(0, vec![process]), Condition::Is(2, numbers(signals))]
        }
        When::ThreadSignals(signals) => vec![Condition::Is(1, numbers(signals))],
    }
}

fn numbers(signals: &[Signal]) -> Vec<u32> {
    signals.iter().map(|signal| signal.number().unsigned_abs()).collect()
}

/// The table in Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = "| calls | when | threads | why |\n|---|---|---|---|\n".to_owned();
    for row in TABLE {
        let names: Vec<&str> =
            row.calls.iter().map(|(name, _)| name.trim_start_matches("SYS_")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            names.join("` `"),
            condition(row),
            threads(row.roles),
            row.why
        );
    }
    text
}

fn condition(row: &Row) -> String {
    let named = |names: &mut dyn Iterator<Item = &str>| {
        names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    let values = |values: &[Value]| named(&mut values.iter().map(|(name, _)| *name));
    let signals = |signals: &[Signal]| named(&mut signals.iter().map(|signal| signal.name()));
    let text = match row.when {
        When::Always => "always".into(),
        When::Is(index, some) => format!("argument {index} is {}", values(some)),
        When::Signals(some) => format!("to this process, with {}", signals(some)),
        When::ThreadSignals(some) => format!("with {}", signals(some)),
        When::Lacks(index, bits) => format!("argument {index} lacks {}", values(&[bits])),
        When::Has(index, bits) => format!("argument {index} has {}", values(&[bits])),
        When::Refused => format!("never: the answer is {}", values(&[REFUSAL])),
    };
    match row.library {
        Library::Any => text,
        Library::Musl => format!("musl only: {text}"),
    }
}

fn threads(roles: Roles) -> String {
    if roles == Roles::all() {
        return "all".into();
    }
    let names: Vec<&str> = Role::ALL
        .iter()
        .filter(|role| roles.contains(role.own()))
        .map(|role| role.name())
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::program::tests::{Call, run};
    use super::*;

    #[test]
    fn the_table_in_the_documentation_is_this_one() {
        let text = include_str!("../../../docs/confinement.md");
        let (_, rest) = text.split_once("<!-- calls -->\n").expect("the table has a beginning");
        let (shown, _) = rest.split_once("<!-- end of calls -->").expect("and an end");
        let table = table();
        assert_eq!(shown.trim(), table.trim(), "the documentation is to show\n{table}");
    }

    #[test]
    fn every_role_has_a_filter_that_the_kernel_takes_as_to_its_length() {
        let filters = Filters::new(Manner::Kill);
        for role in Role::ALL {
            let program = filters.of(role);
            // BPF_MAXINSNS
            assert!(!program.is_empty() && program.len() <= 4096, "{role:?}: {}", program.len());
            println!("{}: {} instructions", role.name(), program.len());
        }
    }

    /// What the table says of a call; not how the filters are made of it.
    fn is_let_through(roles: Roles, call: &Call, row: &Row) -> bool {
        let is_theirs = row.roles.intersects(roles)
            && row.calls.iter().any(|(_, number)| *number == i64::from(call.number));
        let argument = |index: u8| call.arguments[usize::from(index)] as u32;
        let is_one = |index, signals: &[Signal]| {
            signals.iter().any(|signal| i64::from(signal.number()) == i64::from(argument(index)))
        };
        is_theirs
            && match row.when {
                When::Always => true,
                When::Is(index, values) => {
                    values.iter().any(|(_, value)| *value == u64::from(argument(index)))
                }
                When::Signals(signals) => argument(0) == std::process::id() && is_one(2, signals),
                When::ThreadSignals(signals) => is_one(1, signals),
                When::Lacks(index, (_, bits)) => u64::from(argument(index)) & bits == 0,
                When::Has(index, (_, bits)) => u64::from(argument(index)) & bits == bits,
                When::Refused => false,
            }
    }

    /// Arguments that conditions could take for each other: all that the table knows, what is next to
    /// it, and what it is in another half.
    fn values() -> Vec<u64> {
        let known = TABLE.iter().flat_map(|row| match row.when {
            When::Is(_, values) => values.iter().map(|(_, value)| *value).collect(),
            When::Lacks(_, (_, bits)) | When::Has(_, (_, bits)) => vec![bits, !bits],
            When::Signals(signals) | When::ThreadSignals(signals) => {
                signals.iter().map(|signal| signal.number().unsigned_abs().into()).collect()
            }
            When::Always | When::Refused => Vec::new(),
        });
        let process = u64::from(std::process::id());
        let mut values: Vec<u64> = known
            .chain([0, process, u32::MAX.into(), u64::MAX])
            .flat_map(|value| {
                [value, value.wrapping_add(1), value.wrapping_sub(1), value << 32, value | 1 << 32]
            })
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    #[test]
    fn each_filter_answers_each_call_as_the_table_says() {
        let trap = SeccompAction::Trap;
        let filters = Filters::answering(trap.clone());
        let (trap, allow) = (u32::from(trap), u32::from(SeccompAction::Allow));
        let (values, process) = (values(), u64::from(std::process::id()));
        for role in Role::ALL {
            let (program, roles) = (filters.of(role), role.covers());
            for number in (0..1_024).chain([0x4000_0000, 0x4000_0010, u32::MAX]) {
                let theirs: Vec<&Row> = rows()
                    .filter(|row| row.calls.iter().any(|(_, of)| *of == i64::from(number)))
                    .collect();
                let refused = theirs
                    .iter()
                    .any(|row| matches!(row.when, When::Refused) && row.roles.intersects(roles));
                let conditions =
                    theirs.iter().any(|row| !matches!(row.when, When::Always | When::Refused));
                // What has no conditions is tried with few.
                let tried = if conditions { values.len() } else { 2 };
                let patterns = values.iter().take(tried).flat_map(|value| {
                    let one = |index: usize| {
                        let mut arguments = [u64::MAX - 7; 6];
                        arguments[index] = *value;
                        arguments
                    };
                    // The last two: a signal's, of this process and with a thread.
                    (0..6).map(one).chain([[process, 1, *value, 0, 0, 0], [1, *value, 0, 0, 0, 0]])
                });
                for arguments in patterns {
                    let call = Call::new(number, arguments);
                    let wanted = match theirs.iter().any(|row| is_let_through(roles, &call, row)) {
                        true => allow,
                        false if refused => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
                        false => trap,
                    };
                    assert_eq!(run(&program, &call).0, wanted, "{role:?}: {call:?}");
                }
            }
        }
    }

    #[test]
    fn no_call_is_looked_for_in_a_row() {
        let filters = Filters::new(Manner::Kill);
        let conditional = |number: u32| {
            let mut rows = rows().filter(|row| !matches!(row.when, When::Always | When::Refused));
            rows.any(|row| row.calls.iter().any(|(_, of)| *of == i64::from(number)))
        };
        for role in Role::ALL {
            let program = filters.of(role);
            for number in (0..1_024).filter(|number| !conditional(*number)) {
                let (_, steps) = run(&program, &Call::new(number, [0; 6]));
                assert!(steps <= 13, "{role:?}: {number} is answered after {steps} instructions");
            }
        }
    }

    #[test]
    fn every_row_has_a_reason_and_somebody_whom_it_is_for() {
        for row in TABLE {
            assert!(!row.why.is_empty() && !row.roles.is_empty() && !row.calls.is_empty());
        }
    }

    #[test]
    fn who_starts_threads_may_do_what_they_may() {
        for (starter, started) in [
            (Role::Vm, &[Role::Vcpu, Role::Io, Role::Disk, Role::Net][..]),
            (Role::Control, &[Role::Call]),
            (Role::Integration, &[Role::Agent]),
            (Role::Start, &Role::ALL),
        ] {
            for role in started {
                assert!(starter.covers().contains(role.covers()), "{starter:?} starts {role:?}");
            }
        }
    }
}
