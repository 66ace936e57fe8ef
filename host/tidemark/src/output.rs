//! What the commands print: one JSON document or a table on standard output, messages on standard error.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    /// The work is done.
    Done,
    /// It is done, and there is something to know.
    Warnings,
    /// It failed.
    Failed,
}

impl Ended {
    /// The process's exit code; 2 is wrong usage and given by the argument parser.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Warnings => 3,
        }
    }
}

/// Where a command's words go.
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether documents are wanted instead of tables.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a document, or for people what `human` makes of it.
    pub(crate) fn document<T: DeserializeOwned>(
        &self,
        document: Value,
        human: impl FnOnce(T) -> String,
    ) -> Result<()> {
        if self.json {
            return self.line(&serde_json::to_string_pretty(&document)?);
        }
        let typed = serde_json::from_value(document).context("the server's answer is not as expected")?;
        self.line(human(typed).trim_end())
    }

    /// One line of a stream of documents.
    pub(crate) fn json_line(&self, document: &impl serde::Serialize) -> Result<()> {
        self.line(&serde_json::to_string(document)?)
    }

    /// A message for people; nothing but the document where JSON is wanted.
    pub(crate) fn done(&self, message: &str) -> Result<()> {
        if self.json {
            self.line(&json!({ "status": "ok", "message": message }).to_string())
        } else {
            self.line(message)
        }
    }

    /// A failure: its words for people, and the problem where JSON is wanted.
    pub(crate) fn failure(&self, error: &anyhow::Error, problem: Option<&Value>) {
        eprintln!("tidemark: {error:#}");
        if self.json {
            let own = || json!({ "kind": "client", "detail": format!("{error:#}") });
            // A closed standard output leaves nobody to tell.
            let _ = self.line(&problem.cloned().unwrap_or_else(own).to_string());
        }
    }

    /// A failure where standard output belongs to something else than documents.
    pub(crate) fn complaint(&self, error: &anyhow::Error) {
        eprintln!("tidemark: {error:#}");
    }

    /// A message beside a result that is not for reading.
    pub(crate) fn note(&self, message: &str) {
        eprintln!("{message}");
    }

    /// A warning beside a result.
    pub(crate) fn warning(&self, message: &str) {
        eprintln!("warning: {message}");
    }

    /// A closed pipe (`| head`) is an error here and not a panic.
    fn line(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).context("writing to standard output")
    }
}

/// Columns, aligned by their widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        // A control character from outside must not move the terminal's cursor.
        let clean = |cell: String| cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// The rows as lines; `empty` where there is none.
    pub(crate) fn render(self, empty: &str) -> String {
        if self.rows.len() == 1 {
            return empty.to_owned();
        }
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Lines of `name  value`.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

/// A size in binary units.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let exponent = (bytes.ilog2() / 10).min(6);
    let unit = UNITS[usize::try_from(exponent).unwrap_or(1).clamp(1, 6) - 1];
    // Tenths by integers: a float would round a full unit up to 1024.0 of the smaller one.
    let tenths = u128::from(bytes) * 10 / (1_u128 << (10 * exponent));
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// A moment without its fraction.
pub(crate) fn moment(rfc3339: &str) -> String {
    let seconds = rfc3339.split_once('.').map_or(rfc3339, |(seconds, _)| seconds);
    format!("{}Z", seconds.trim_end_matches('Z').replace('T', " "))
}

/// A thing that may be missing.
pub(crate) fn or_dash(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// A word for yes and no.
pub(crate) fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(1_048_575), "1023.9 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
        assert_eq!(size(u64::MAX), "15.9 EiB");
    }

    #[test]
    fn tables_are_aligned_and_tame() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(["größe\u{1b}".to_owned(), "1".to_owned()]);
        table.row(["a".to_owned(), "2".to_owned()]);
        assert_eq!(table.render("none"), "NAME    SIZE\ngröße?  1\na       2\n");
        assert_eq!(Table::new(&["NAME"]).render("none"), "none");
    }

    #[test]
    fn exit_codes_are_the_contracts() {
        assert_eq!([Ended::Done, Ended::Failed, Ended::Warnings].map(Ended::code), [0, 1, 3]);
    }

    #[test]
    fn moments_are_short() {
        assert_eq!(moment("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04:05Z");
        assert_eq!(moment("2026-01-02T03:04:05Z"), "2026-01-02 03:04:05Z");
    }
}
