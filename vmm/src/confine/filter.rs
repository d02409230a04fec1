//! From the table to what the kernel runs at each system call of a thread.

use super::calls::Value;
use super::role::{Role, Roles};
use super::table::{Library, REFUSAL, Row, Signal, TABLE, When};
use super::{ConfineError, Manner};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The filter of each role.
#[derive(Debug)]
pub(super) struct Filters {
    programs: Vec<(Role, BpfProgram)>,
    /// For all threads: what is answered with an error. A filter has one answer to what it knows,
    /// and the kernel takes the strictest of all filters'.
    refused: BpfProgram,
}

impl Filters {
    /// Those of the table, for this process.
    pub(super) fn new(manner: Manner) -> Result<Self, ConfineError> {
        let otherwise = match manner {
            Manner::Kill => SeccompAction::KillProcess,
            Manner::Log => SeccompAction::Log,
        };
        Self::answering(&otherwise)
    }

    /// Those of the table, with this answer to what it does not have.
    pub(super) fn answering(otherwise: &SeccompAction) -> Result<Self, ConfineError> {
        let programs = Role::ALL.map(|role| {
            let program = compile(rules(role.covers())?, otherwise.clone(), SeccompAction::Allow)?;
            Ok((role, program))
        });
        let programs = programs.into_iter().collect::<Result<_, ConfineError>>()?;
        Ok(Self { programs, refused: refused()? })
    }

    /// The one of `role`.
    pub(super) fn of(&self, role: Role) -> Option<&BpfProgram> {
        self.programs.iter().find(|(of, _)| *of == role).map(|(_, program)| program)
    }

    /// Narrows the calling thread to what is refused whoever asks.
    pub(super) fn refuse(&self) -> Result<(), ConfineError> {
        install(&self.refused)
    }

    /// Narrows the calling thread to `role`.
    pub(super) fn narrow(&self, role: Role) -> Result<(), ConfineError> {
        self.of(role).map_or(Ok(()), install)
    }
}

/// The rows of the table that are there with this program's C library.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(|row| row.is_ours())
}

fn install(program: &BpfProgram) -> Result<(), ConfineError> {
    seccompiler::apply_filter(program).map_err(ConfineError::Install)
}

/// The program that answers `matching` to what `rules` describe, and `otherwise` to everything else.
fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, ConfineError> {
    let filter = SeccompFilter::new(rules, otherwise, matching, TargetArch::x86_64);
    filter.and_then(TryInto::try_into).map_err(ConfineError::Filter)
}

/// What `roles` may do.
fn rules(roles: Roles) -> Result<BTreeMap<i64, Vec<SeccompRule>>, ConfineError> {
    let mut rules: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for Row { calls, when, .. } in rows().filter(|row| row.roles.intersects(roles)) {
        for (_, number) in *calls {
            let known = rules.entry(*number).or_insert_with(|| Some(Vec::new()));
            match conditions(*when)? {
                // Whatever other rows say: it is allowed.
                None => *known = None,
                Some(more) => {
                    if let Some(known) = known {
                        known.extend(more);
                    }
                }
            }
        }
    }
    // No rule at all means that it is allowed whatever its arguments.
    Ok(rules.into_iter().map(|(number, rules)| (number, rules.unwrap_or_default())).collect())
}

/// The conditions of a row, of which one has to hold; none if there are none.
fn conditions(when: When) -> Result<Option<Vec<SeccompRule>>, ConfineError> {
    let one = |index, operator, value| {
        // All that is looked at is of 32 bits: the kernel ignores the rest.
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
            .map_err(ConfineError::Filter)
    };
    let rule = |conditions| SeccompRule::new(conditions).map_err(ConfineError::Filter);
    let rules: Result<Vec<SeccompRule>, ConfineError> = match when {
        // What is refused is let through here, and refused by another filter.
        When::Always | When::Refused => return Ok(None),
        When::Is(index, values) => {
            let rules =
                values.iter().map(|(_, value)| rule(vec![one(index, SeccompCmpOp::Eq, *value)?]));
            rules.collect()
        }
        When::Lacks(index, (_, bits)) => {
            Ok(vec![rule(vec![one(index, SeccompCmpOp::MaskedEq(bits), 0)?])?])
        }
        When::Has(index, (_, bits)) => {
            Ok(vec![rule(vec![one(index, SeccompCmpOp::MaskedEq(bits), bits)?])?])
        }
        When::Signals(signals) => {
            let process = u64::from(std::process::id());
            let rules = signals.iter().map(|signal| {
                let process = one(0, SeccompCmpOp::Eq, process)?;
                rule(vec![process, one(2, SeccompCmpOp::Eq, number(*signal))?])
            });
            rules.collect()
        }
        When::ThreadSignals(signals) => {
            let rules =
                signals.iter().map(|signal| rule(vec![one(1, SeccompCmpOp::Eq, number(*signal))?]));
            rules.collect()
        }
    };
    rules.map(Some)
}

fn number(signal: Signal) -> u64 {
    signal.number().unsigned_abs().into()
}

/// What is answered with an error.
fn refused() -> Result<BpfProgram, ConfineError> {
    let refused = rows().filter(|row| matches!(row.when, When::Refused));
    let rules = refused.flat_map(|row| row.calls).map(|(_, number)| (*number, Vec::new()));
    compile(rules.collect(), SeccompAction::Allow, SeccompAction::Errno(REFUSAL.1 as u32))
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
        let filters = Filters::new(Manner::Kill).unwrap();
        for (role, program) in &filters.programs {
            // BPF_MAXINSNS
            assert!(!program.is_empty() && program.len() <= 4096, "{role:?}: {}", program.len());
            println!("{}: {} instructions", role.name(), program.len());
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
