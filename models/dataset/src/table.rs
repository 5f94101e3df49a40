//! A table, whatever its file format: named columns, and rows of text fields with a place for error messages.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use csv::StringRecord;

use crate::error::DatasetError;
use crate::limits::{COLUMNS_MAX, FIELD_BYTES_MAX, FILE_BYTES_MAX, ROWS_MAX};
use crate::report::{FileReport, ReadOptions};

mod columnar;
mod text;

/// What the next row is.
pub(crate) enum Step {
    /// A row was read; it began at this line or row.
    Row(u64),
    /// A row that cannot be used.
    Bad { at: u64, span: u64, reason: String },
    /// No more rows.
    End,
}

enum Rows {
    Text(text::TextRows),
    Columnar(columnar::ColumnarRows),
}

/// An open file of rows.
pub(crate) struct Table {
    path: PathBuf,
    columns: Vec<String>,
    rows: Rows,
}

impl Table {
    /// Opens `.csv`, `.tsv` or `.parquet`.
    pub(crate) fn open(path: &Path) -> Result<Self, DatasetError> {
        let io = |source| DatasetError::Io { what: "open", path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(too_large(path, "bytes of the file", bytes, FILE_BYTES_MAX));
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("csv") => Self::text(path, Box::new(file), text::Style::Csv),
            Some("tsv") => Self::text(path, Box::new(file), text::Style::Tsv),
            Some("parquet") => {
                let (rows, columns) = columnar::ColumnarRows::open(path, file)?;
                Self::checked(path, columns, Rows::Columnar(rows))
            }
            _ => Err(DatasetError::Missing {
                path: path.to_owned(),
                reason: "the name must end in .csv, .tsv or .parquet".into(),
            }),
        }
    }

    /// RecBole's atomic files: tab-separated, no quotes, columns named `name:type`.
    pub(crate) fn atomic(path: &Path, bytes: Vec<u8>) -> Result<Self, DatasetError> {
        Self::text(path, Box::new(std::io::Cursor::new(bytes)), text::Style::Atomic)
    }

    fn text(path: &Path, source: Box<dyn Read>, style: text::Style) -> Result<Self, DatasetError> {
        let (rows, columns) = text::TextRows::open(path, source, style)?;
        Self::checked(path, columns, Rows::Text(rows))
    }

    fn checked(path: &Path, columns: Vec<String>, rows: Rows) -> Result<Self, DatasetError> {
        let wrong = |reason| DatasetError::Columns { path: path.to_owned(), reason };
        if columns.len() > COLUMNS_MAX {
            return Err(too_large(path, "columns", columns.len() as u64, COLUMNS_MAX as u64));
        }
        for (at, name) in columns.iter().enumerate() {
            if name.is_empty() || columns[..at].contains(name) {
                return Err(wrong(format!("column {} ({name:?}) is unnamed or named twice", at + 1)));
            }
        }
        Ok(Self { path: path.to_owned(), columns, rows })
    }

    /// The columns' names.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Where a column is, if it is there.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// Where a column is that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<usize, DatasetError> {
        self.column(name).ok_or_else(|| DatasetError::Columns {
            path: self.path.clone(),
            reason: format!("column {name} is missing; there are: {}", self.columns.join(", ")),
        })
    }

    /// The error for more extra columns than a catalog or a profile may carry.
    pub(crate) fn too_many_attributes<T>(&self, found: usize) -> Result<T, DatasetError> {
        Err(too_large(&self.path, "extra columns", found as u64, proto::limits::ATTRIBUTES_MAX as u64 - 1))
    }

    /// Gives every row to `take`, which says why a row is bad. Fails if too many are.
    pub(crate) fn each(
        mut self,
        options: &ReadOptions,
        mut take: impl FnMut(&StringRecord) -> Result<(), String>,
    ) -> Result<FileReport, DatasetError> {
        let unit = if matches!(self.rows, Rows::Text(_)) { "line" } else { "row" };
        let mut report = FileReport::new(&self.path, unit);
        let mut row = StringRecord::new();
        loop {
            let step = match &mut self.rows {
                Rows::Text(rows) => rows.next(&self.path, self.columns.len(), &mut row)?,
                Rows::Columnar(rows) => rows.next(&self.path, &mut row)?,
            };
            match step {
                Step::End => return report.check(options),
                Step::Bad { at, span, reason } => report.skip(at, span, reason),
                Step::Row(at) => match fields_fit(&row).and_then(|()| take(&row)) {
                    Ok(()) => report.good(),
                    Err(reason) => report.skip(at, 1, reason),
                },
            }
            if report.rows > ROWS_MAX {
                return Err(too_large(&self.path, "rows", report.rows, ROWS_MAX));
            }
        }
    }
}

fn fields_fit(row: &StringRecord) -> Result<(), String> {
    match row.iter().position(|field| field.len() > FIELD_BYTES_MAX) {
        None => Ok(()),
        Some(at) => Err(format!("field {} has more than {FIELD_BYTES_MAX} bytes", at + 1)),
    }
}

pub(crate) fn too_large(path: &Path, what: &'static str, found: u64, max: u64) -> DatasetError {
    DatasetError::TooLarge { path: path.to_owned(), what, found, max }
}
