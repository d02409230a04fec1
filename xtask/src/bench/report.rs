//! What a benchmark found: a table and what it was to show, for people, programs and a page.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fmt::{self, Display, Formatter, Write};

/// What a benchmark found.
pub(super) struct Report {
    /// As it is called on the command line.
    pub(super) name: &'static str,
    /// What was measured, where, and what the floor is; a few sentences.
    pub(super) what: String,
    /// What the first column has, and the others.
    pub(super) subject: &'static str,
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
    pub(super) targets: Vec<Target>,
}

/// What was measured several times, the least first.
pub(super) struct Sorted(Vec<f64>);

impl Sorted {
    /// There must be figures.
    pub(super) fn new(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }

    /// The figure that `percent` of them do not exceed; the middle one, or the lower of two, for 50.
    pub(super) fn at(&self, percent: usize) -> f64 {
        self.0[(self.0.len() - 1) * percent / 100]
    }
}

/// A column of figures.
pub(super) struct Column {
    /// Its name in documents.
    pub(super) key: &'static str,
    /// Its name for people, with the unit.
    pub(super) title: &'static str,
    /// Digits after the point.
    pub(super) digits: usize,
}

/// A row: what was measured, and a figure for each column that applies.
pub(super) struct Row {
    pub(super) subject: String,
    pub(super) figures: Vec<Option<f64>>,
}

/// A figure and what it may be at most.
pub(super) struct Target {
    /// Which figure.
    pub(super) what: &'static str,
    pub(super) found: f64,
    pub(super) at_most: f64,
}

impl Target {
    fn is_met(&self) -> bool {
        self.found <= self.at_most
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let met = if self.is_met() { "met" } else { "NOT MET" };
        // Counts are whole, ratios are small.
        let digits = if self.found < 100.0 { 3 } else { 0 };
        write!(f, "{}: {:.digits$}, to be at most {}: {met}", self.what, self.found, self.at_most)
    }
}

impl Report {
    /// For programs.
    pub(super) fn document(&self) -> Value {
        let row = |row: &Row| {
            let figures = self.columns.iter().zip(&row.figures);
            let mut figures: Map<String, Value> =
                figures.map(|(column, figure)| (column.key.to_owned(), json!(figure))).collect();
            figures.insert("subject".into(), json!(row.subject));
            Value::Object(figures)
        };
        let target = |target: &Target| {
            let (found, at_most) = (target.found, target.at_most);
            json!({"what": target.what, "found": found, "at_most": at_most, "met": target.is_met()})
        };
        json!({
            "what": self.what,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "targets": self.targets.iter().map(target).collect::<Vec<_>>(),
        })
    }

    /// `page` with this between the comments that bear its name, and what it was measured on.
    pub(super) fn written_into(&self, page: &str, machine: &str) -> Result<String> {
        let (begin, end) =
            (format!("<!-- {} -->\n", self.name), format!("<!-- end of {} -->", self.name));
        let (before, rest) = page
            .split_once(&begin)
            .with_context(|| format!("the page has no comment {}", begin.trim()))?;
        let (_, after) =
            rest.split_once(&end).with_context(|| format!("the page has no comment {end}"))?;
        Ok(format!("{before}{begin}{}{end}{after}", self.markdown(machine)))
    }

    fn markdown(&self, machine: &str) -> String {
        let titles: Vec<&str> = self.columns.iter().map(|column| column.title).collect();
        let mut text =
            format!("{}\n\n| {} | {} |\n|---|", self.what, self.subject, titles.join(" | "));
        text += &"--:|".repeat(self.columns.len());
        for row in &self.rows {
            text += &format!("\n| {} | {} |", row.subject, self.cells(row).join(" | "));
        }
        text += "\n\n";
        for target in &self.targets {
            text += &format!("- {target}\n");
        }
        text + &format!("\nMeasured on {machine}.\n")
    }

    /// The figures of `row` as they are shown.
    fn cells(&self, row: &Row) -> Vec<String> {
        let cells = self.columns.iter().zip(&row.figures);
        let shown = |(column, figure): (&Column, &Option<f64>)| match figure {
            Some(figure) => format!("{figure:.*}", column.digits),
            None => "-".into(),
        };
        cells.map(shown).collect()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let header = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let mut lines = vec![(self.subject.to_owned(), header)];
        lines.extend(self.rows.iter().map(|row| (row.subject.clone(), self.cells(row))));
        let first = lines.iter().map(|(subject, _)| subject.chars().count()).max().unwrap_or(0);
        let width = |at: usize| {
            let cells = lines.iter().filter_map(|(_, cells): &(String, Vec<String>)| cells.get(at));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        writeln!(f, "{}: {}", self.name, self.what)?;
        for (subject, cells) in &lines {
            let mut line = format!("{subject:first$}");
            for (cell, width) in cells.iter().zip(&widths) {
                write!(line, "  {cell:>width$}")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        for target in &self.targets {
            writeln!(f, "{target}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Column, Report, Row, Target};

    fn report() -> Report {
        Report {
            name: "walk",
            what: "From one end to the other.".into(),
            subject: "who",
            columns: vec![
                Column { key: "s", title: "seconds", digits: 1 },
                Column { key: "ratio", title: "of floor", digits: 2 },
            ],
            rows: vec![
                Row { subject: "floor".into(), figures: vec![Some(1.0), None] },
                Row { subject: "we".into(), figures: vec![Some(12.25), Some(12.25)] },
            ],
            targets: vec![
                Target { what: "we of floor", found: 12.25, at_most: 12.0 },
                Target { what: "steps", found: 12.25, at_most: 13.0 },
            ],
        }
    }

    #[test]
    fn people_see_columns_and_what_was_not_met() {
        let lines: Vec<String> = report().to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines[1], "who    seconds  of floor");
        assert_eq!(lines[2], "floor      1.0         -");
        assert_eq!(lines[3], "we        12.2     12.25");
        assert!(lines[4].ends_with("to be at most 12: NOT MET"), "{}", lines[4]);
        assert!(lines[5].ends_with("to be at most 13: met"), "{}", lines[5]);
    }

    #[test]
    fn programs_get_figures_by_key_and_what_was_not_met() {
        let document = report().document();
        assert_eq!(document["rows"][1]["s"], 12.25);
        assert!(document["rows"][0]["ratio"].is_null());
        assert_eq!(document["targets"][0]["met"], false);
        assert_eq!(document["targets"][1]["met"], true);
    }

    #[test]
    fn a_page_gets_the_table_between_its_comments_and_keeps_the_rest() {
        let page = "# Walk\n\n<!-- walk -->\nold\n<!-- end of walk -->\n\nend\n";
        let once = report().written_into(page, "a machine").expect("it has the comments");
        assert!(once.starts_with("# Walk\n\n<!-- walk -->\nFrom one end"), "{once}");
        assert!(
            once.contains("\n| we | 12.2 | 12.25 |\n") && once.ends_with("-->\n\nend\n"),
            "{once}"
        );
        assert!(!once.contains("old"), "{once}");
        assert_eq!(report().written_into(&once, "a machine").expect("still"), once);
        assert!(report().written_into("# Walk\n", "a machine").is_err());
    }
}
