//! Why a data set could not be read.

use std::io;
use std::path::PathBuf;

use proto::ids::Digest;

use crate::report::FileReport;

/// Why a data set could not be read. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file system said no.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A fetched file is not the one that is expected.
    #[error(
        "{} is not the expected file: expected sha256 {expected}, found {found} ({bytes} bytes); delete it and fetch it again",
        path.display()
    )]
    Digest {
        /// Which file.
        path: PathBuf,
        /// SHA-256 it must have.
        expected: Digest,
        /// SHA-256 it has.
        found: Digest,
        /// Its length.
        bytes: u64,
    },
    /// Something is larger than a named maximum.
    #[error("{}: {what}: {found}, at most {max} is taken", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// What of it.
        what: &'static str,
        /// How much was found.
        found: u64,
        /// How much is taken.
        max: u64,
    },
    /// The columns are not what they must be.
    #[error("{}: {reason}", path.display())]
    Columns {
        /// Which file.
        path: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
    /// A CSV file that cannot be read on.
    #[error("{}:{line}: {reason}", path.display())]
    Text {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A Parquet file that cannot be read on.
    #[error("{}: row {row}: not a readable Parquet file", path.display())]
    Parquet {
        /// Which file.
        path: PathBuf,
        /// Row, from 1; 0 for the file's own metadata.
        row: u64,
        /// What the decoder said.
        source: parquet::errors::ParquetError,
    },
    /// More rows are bad than may be skipped.
    #[error("{}", too_many(report, *share_max))]
    TooManyBadRows {
        /// Which file, how many, and the first reasons.
        report: Box<FileReport>,
        /// The share that may be skipped, from 0 to 1.
        share_max: f64,
    },
    /// A file without rows that can be used.
    #[error("{}: {reason}", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// Interactions and items that do not belong together.
    #[error(
        "{}: {unlisted} of {rows} rows are of items that are not in the items file, for example {examples}; do the two files \
         belong together, and do they write ids alike?",
        path.display()
    )]
    Unlisted {
        /// The interactions file.
        path: PathBuf,
        /// Rows of items that are not listed.
        unlisted: u64,
        /// All rows that are about items.
        rows: u64,
        /// Some of these ids, and some of the items file.
        examples: String,
    },
    /// An option that cannot be.
    #[error("{0}")]
    Option(String),
    /// A file that is neither `.csv`, `.tsv` nor `.parquet`, or is not there.
    #[error("{}: {reason}", path.display())]
    Missing {
        /// Which file or folder.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
}

fn too_many(report: &FileReport, share_max: f64) -> String {
    let mut text = format!(
        "{}: {} of {} rows are bad, more than the {}% that may be skipped (--bad-rows-max); the first:",
        report.path.display(),
        report.bad,
        report.rows,
        share_max * 100.0
    );
    for row in report.examples.iter().take(5) {
        text.push_str("\n  ");
        text.push_str(&report.describe(row));
    }
    text
}
