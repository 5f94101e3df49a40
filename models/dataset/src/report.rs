//! Which rows of a file were skipped, and why: a bad row never disappears silently.

use std::path::{Path, PathBuf};

use crate::error::DatasetError;
use crate::files::RatingScale;
use crate::limits::BAD_ROWS_KEPT_MAX;
use crate::time::UtcOffset;

/// How files are read.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOptions {
    /// Share of a file's rows that may be skipped because they are bad, from 0 to 1.
    pub bad_rows_max: f64,
    /// What ratings go from and to; None: the files show it ([`crate::files::SCHEMA`]).
    pub rating_scale: Option<RatingScale>,
    /// What times without a zone are read as.
    pub utc_offset: UtcOffset,
    /// What columns are called in the files: our name, their name.
    pub columns: Vec<(String, String)>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { bad_rows_max: 0.01, rating_scale: None, utc_offset: UtcOffset::default(), columns: Vec::new() }
    }
}

/// What was read from one file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileReport {
    /// Which file.
    pub path: PathBuf,
    /// Whether places are line numbers (text) or row numbers (Parquet).
    pub unit: &'static str,
    /// Rows seen, bad ones included.
    pub rows: u64,
    /// Rows skipped. A bad row that spans several lines counts once a line, as an unclosed quote swallows good ones.
    pub bad: u64,
    /// Rows that are right, but say nothing that is used: events that are not about items, items that are not listed.
    pub unused: u64,
    /// The first skipped rows, at most [`BAD_ROWS_KEPT_MAX`].
    pub examples: Vec<BadRow>,
    /// What was done with values or columns that could not be taken as they are, and what was assumed; for people.
    pub notes: Vec<String>,
}

/// A skipped row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Line (from 1, the header is 1) or Parquet row (from 1).
    pub at: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl FileReport {
    pub(crate) fn new(path: &Path, unit: &'static str) -> Self {
        Self {
            path: path.to_owned(),
            unit,
            rows: 0,
            bad: 0,
            unused: 0,
            examples: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn skip(&mut self, at: u64, span: u64, reason: String) {
        self.rows += span;
        self.bad += span;
        if self.examples.len() < BAD_ROWS_KEPT_MAX {
            self.examples.push(BadRow { at, reason });
        }
    }

    /// The place and the reason of one skipped row, for people: `items.csv, line 7: item_id is empty`.
    pub fn describe(&self, row: &BadRow) -> String {
        format!("{}, {} {}: {}", self.path.display(), self.unit, row.at, row.reason)
    }

    /// The whole report, line by line, for people.
    pub fn lines(&self) -> Vec<String> {
        let unused = if self.unused > 0 { format!(", {} not used", self.unused) } else { String::new() };
        let first = format!("{}: {} rows, {} skipped{unused}", self.path.display(), self.rows, self.bad);
        let notes = self.notes.iter().map(|note| format!("  {note}"));
        let examples = self.examples.iter().map(|row| format!("  skipped {}", self.describe(row)));
        std::iter::once(first).chain(notes).chain(examples).collect()
    }

    /// An error if nothing is left, or if more was skipped than `options` allow.
    pub(crate) fn check(self, options: &ReadOptions) -> Result<Self, DatasetError> {
        if share(self.bad, self.rows) > options.bad_rows_max {
            return Err(DatasetError::TooManyBadRows {
                report: Box::new(self),
                share_max: options.bad_rows_max,
            });
        }
        if self.rows == self.bad + self.unused {
            let reason = match (self.rows, self.notes.is_empty()) {
                (0, _) => "there is a header line, and no row".to_owned(),
                (rows, true) => format!("none of its {rows} rows can be used"),
                (rows, false) => format!("none of its {rows} rows can be used: {}", self.notes.join("; ")),
            };
            return Err(DatasetError::Empty { path: self.path, reason });
        }
        Ok(self)
    }
}

/// `part` of `whole`, from 0 to 1; 0 of nothing.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "row counts are below 2^52")]
    let share = part as f64 / whole.max(1) as f64;
    share
}
