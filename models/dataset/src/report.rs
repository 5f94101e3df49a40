//! Which rows of a file were skipped, and why: a bad row never disappears silently.

use std::path::{Path, PathBuf};

use crate::error::DatasetError;
use crate::limits::BAD_ROWS_KEPT_MAX;

/// How strict reading is.
#[derive(Debug, Clone, Copy)]
pub struct ReadOptions {
    /// Share of a file's rows that may be skipped because they are bad, from 0 to 1.
    pub bad_rows_max: f64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { bad_rows_max: 0.01 }
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
    /// The first skipped rows, at most [`BAD_ROWS_KEPT_MAX`].
    pub examples: Vec<BadRow>,
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
        Self { path: path.to_owned(), unit, rows: 0, bad: 0, examples: Vec::new() }
    }

    pub(crate) fn good(&mut self) {
        self.rows += 1;
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

    /// An error if nothing is left, or if more was skipped than `options` allow.
    pub(crate) fn check(self, options: &ReadOptions) -> Result<Self, DatasetError> {
        // Counts are far below 2^52, so the shares are exact enough.
        #[expect(clippy::cast_precision_loss, reason = "row counts are below 2^52")]
        let share = self.bad as f64 / self.rows.max(1) as f64;
        if share > options.bad_rows_max {
            return Err(DatasetError::TooManyBadRows {
                report: Box::new(self),
                share_max: options.bad_rows_max,
            });
        }
        if self.rows == self.bad {
            return Err(DatasetError::Empty { path: self.path });
        }
        Ok(self)
    }
}
