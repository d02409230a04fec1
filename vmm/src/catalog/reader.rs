//! Takes values out of TOML, and says of what is wrong where it is, what was expected and what was
//! found.

use super::fault::{DefinitionError, Fault, Hint, nearest, shown};
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A table of a definition and the keys that mean something in it.
pub(super) struct Known {
    /// The table's name; none for the keys outside of tables.
    pub(super) table: &'static str,
    /// Its keys.
    pub(super) keys: &'static [&'static str],
}

impl Known {
    /// The whole name of one of the table's keys.
    fn name(&self, key: &str) -> String {
        match self.table {
            "" => key.to_owned(),
            table => format!("{table}.{key}"),
        }
    }
}

/// Reads `text` as TOML.
pub(super) fn parse<'a>(text: &'a str, file: &Path) -> Result<DeTable<'a>, DefinitionError> {
    let parsed = DeTable::parse(text).map_err(|error| {
        let line = error.span().map(|span| line(text, &span));
        DefinitionError::new(file, line, Fault::Syntax(shown(error.message())))
    })?;
    Ok(parsed.into_inner())
}

/// The line, from 1, on which `span` begins.
pub(super) fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// A table that is being read.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    pub(super) known: &'static Known,
    pub(super) table: &'a DeTable<'a>,
    /// Where it begins in the text, unless it is the whole.
    pub(super) begin: Option<usize>,
}

impl<'a> Section<'a> {
    fn entry(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.iter().find(|(known, _)| known.get_ref() == key).map(|(_, value)| value)
    }

    /// An error at `span`, or without a line.
    pub(super) fn error(&self, span: Option<Range<usize>>, fault: Fault) -> DefinitionError {
        let line = span.map(|span| line(self.text, &span));
        DefinitionError::new(self.file, line, fault)
    }

    /// Refuses `value`, which stands at `key`.
    fn refuse(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        expected: impl Into<String>,
    ) -> DefinitionError {
        let (key, found) = (self.known.name(key), found(value.get_ref()));
        self.error(Some(value.span()), Fault::Value { key, expected: expected.into(), found })
    }

    /// Refuses the first key that means nothing; `all` are the tables that there are.
    pub(super) fn refuse_unknown(&self, all: &[&Known]) -> Result<(), DefinitionError> {
        let known = self.known.keys;
        let unknown = self.table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
        let name = key.get_ref().as_ref();
        let elsewhere = || {
            let table = all.iter().find(|table| table.keys.contains(&name))?;
            Some(table.name(name))
        };
        let meant = nearest(name, known.iter().copied()).map(|key| self.known.name(key));
        let hint = meant.or_else(elsewhere).map_or(Hint::Known(known), Hint::Nearest);
        let fault = Fault::UnknownKey { key: shown(&self.known.name(name)), hint };
        Err(self.error(Some(key.span()), fault))
    }

    /// The table under `key`.
    pub(super) fn section(
        &self,
        key: &'static str,
        known: &'static Known,
    ) -> Result<Option<Self>, DefinitionError> {
        let Some(value) = self.entry(key) else { return Ok(None) };
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| self.refuse(key, value, "a table"))?;
        Ok(Some(Self { known, table, begin: Some(value.span().start), ..*self }))
    }

    /// The tables in the array of tables under `key`.
    pub(super) fn sections(
        &self,
        key: &'static str,
        known: &'static Known,
    ) -> Result<Vec<Self>, DefinitionError> {
        let Some(value) = self.entry(key) else { return Ok(Vec::new()) };
        let refuse = |value| self.refuse(key, value, format!("tables that begin with [[{key}]]"));
        let array = value.get_ref().as_array().ok_or_else(|| refuse(value))?;
        let section = |item: &'a Spanned<DeValue<'a>>| {
            let table = item.get_ref().as_table().ok_or_else(|| refuse(item))?;
            Ok(Self { known, table, begin: Some(item.span().start), ..*self })
        };
        array.iter().map(section).collect()
    }

    /// The value under `key`, if it is there; `read` takes it, or gives none if it is not allowed.
    pub(super) fn get<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&DeValue<'_>) -> Option<T>,
    ) -> Result<Option<T>, DefinitionError> {
        let Some(value) = self.entry(key) else { return Ok(None) };
        read(value.get_ref()).map(Some).ok_or_else(|| self.refuse(key, value, expected))
    }

    /// The value under `key`, which must be there.
    pub(super) fn need<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&DeValue<'_>) -> Option<T>,
    ) -> Result<T, DefinitionError> {
        self.get(key, expected, read)?.ok_or_else(|| {
            let (key, expected) = (self.known.name(key), expected.to_owned());
            self.error(self.begin.map(|at| at..at), Fault::Missing { key, expected })
        })
    }

    /// The texts in the array under `key`; `read` takes each, or gives none if it is not allowed.
    pub(super) fn list<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, DefinitionError> {
        let Some(value) = self.entry(key) else { return Ok(Vec::new()) };
        let array = value.get_ref().as_array();
        let array = array
            .ok_or_else(|| self.refuse(key, value, format!("an array of texts, each {expected}")));
        let item = |item: &Spanned<DeValue<'_>>| {
            let taken = item.get_ref().as_str().and_then(&read);
            taken.ok_or_else(|| self.refuse(key, item, expected))
        };
        array?.iter().map(item).collect()
    }

    /// Where the value under `key` stands.
    pub(super) fn span(&self, key: &str) -> Option<Range<usize>> {
        self.entry(key).map(Spanned::span)
    }
}

/// The whole number that `value` is, if it is one that 128 bits can say.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A value in words.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {:?}", shown(text)),
        DeValue::Integer(number) => format!("the number {}", shown(&number.to_string())),
        DeValue::Float(number) => format!("the number {}", shown(&number.to_string())),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(_) => "an array".into(),
        DeValue::Table(_) => "a table".into(),
    }
}
