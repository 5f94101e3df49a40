//! A table, whatever its file format: named columns, and rows of text fields with a place for error messages.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use csv::StringRecord;

use crate::error::DatasetError;
use crate::limits::{COLUMNS_MAX, FILE_BYTES_MAX, ROWS_MAX};
use crate::report::{FileReport, ReadOptions};

mod columnar;
mod encoding;
mod text;

/// How the names of files end that can be read.
pub(crate) const ENDINGS: [&str; 5] = ["csv", "tsv", "parquet", "csv.gz", "tsv.gz"];

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

/// A column by the names that it may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// Our name for it.
    pub(crate) name: &'static str,
    /// Other names, the best first.
    pub(crate) aliases: &'static [&'static str],
}

impl Column {
    /// A column with one name.
    pub(crate) const fn only(name: &'static str) -> Self {
        Self { name, aliases: &[] }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

/// An open file of rows.
pub(crate) struct Table {
    path: PathBuf,
    columns: Vec<String>,
    /// Columns that cannot be read, and what they hold.
    unreadable: HashMap<String, &'static str>,
    rows: Rows,
}

impl Table {
    /// Opens a file with one of the [`ENDINGS`]. `known` are columns that are looked for.
    pub(crate) fn open(path: &Path, known: &[Column], options: &ReadOptions) -> Result<Self, DatasetError> {
        let io = |source| DatasetError::Io { what: "open", path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Err(is_folder(path));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(too_large(path, "bytes of the file", metadata.len(), FILE_BYTES_MAX));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let ends = |ending: &&&str| name.strip_suffix(**ending).is_some_and(|stem| stem.ends_with('.'));
        match ENDINGS.iter().filter(ends).max_by_key(|ending| ending.len()) {
            Some(&"parquet") => {
                let (rows, columns) = columnar::ColumnarRows::open(path, file)?;
                Self::checked(path, columns.names, columns.unreadable, Rows::Columnar(rows))
            }
            Some(ending) => {
                let known = |name: &str| {
                    let wanted = |theirs: &str| normalized(theirs) == normalized(name);
                    known.iter().flat_map(Column::names).any(wanted)
                        || options.columns.iter().any(|(_, theirs)| wanted(theirs))
                };
                let source: Box<dyn Read> =
                    if ending.ends_with("gz") { encoding::gunzip(file) } else { Box::new(file) };
                Self::text(path, source, text::Style::Delimited, &known)
            }
            None => Err(DatasetError::Missing {
                path: path.to_owned(),
                reason: format!("the name must end in {}", endings()),
            }),
        }
    }

    /// RecBole's atomic files: tab-separated, no quotes, columns named `name:type`.
    pub(crate) fn atomic(path: &Path, bytes: Vec<u8>) -> Result<Self, DatasetError> {
        Self::text(path, Box::new(std::io::Cursor::new(bytes)), text::Style::Atomic, &|_| false)
    }

    fn text(
        path: &Path,
        source: Box<dyn Read>,
        style: text::Style,
        known: &dyn Fn(&str) -> bool,
    ) -> Result<Self, DatasetError> {
        let (rows, columns) = text::TextRows::open(path, source, style, known)?;
        Self::checked(path, columns, HashMap::new(), Rows::Text(rows))
    }

    fn checked(
        path: &Path,
        columns: Vec<String>,
        unreadable: HashMap<String, &'static str>,
        rows: Rows,
    ) -> Result<Self, DatasetError> {
        if columns.len() > COLUMNS_MAX {
            return Err(too_large(path, "columns", columns.len() as u64, COLUMNS_MAX as u64));
        }
        let mut seen = HashSet::new();
        // Columns without a name are row numbers that pandas and R have written; nobody asks for them.
        if let Some(twice) = columns.iter().find(|name| !name.is_empty() && !seen.insert(normalized(name))) {
            let reason = format!("column {twice:?} is there twice; rename or remove one");
            return Err(DatasetError::Columns { path: path.to_owned(), reason });
        }
        Ok(Self { path: path.to_owned(), columns, unreadable, rows })
    }

    /// The columns' names.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Columns that cannot be read, each with what it holds, for people.
    pub(crate) fn unreadable(&self) -> Vec<String> {
        let mut said: Vec<String> =
            self.unreadable.iter().map(|(name, holds)| format!("{name} holds {holds}")).collect();
        said.sort();
        said
    }

    /// Where a column is, if it is there: by the name that `options` give it, by our name, or by another.
    pub(crate) fn column(&self, column: &Column, options: &ReadOptions) -> Option<usize> {
        self.candidates(column, options).next()
    }

    /// Everything that may be meant by a column, the best first.
    fn candidates<'a>(
        &'a self,
        column: &'a Column,
        options: &'a ReadOptions,
    ) -> impl Iterator<Item = usize> + 'a {
        let given = options.columns.iter().filter(|(ours, _)| ours == column.name);
        let given = given.map(|(_, theirs)| theirs.as_str());
        given.chain(column.names()).filter_map(|name| {
            let exact = self.columns.iter().position(|column| column == name);
            exact.or_else(|| self.columns.iter().position(|column| normalized(column) == normalized(name)))
        })
    }

    /// Where a column is that must be there, and where to look in rows in which it is empty: GA4 and Segment have an id of the
    /// user where it is known, and one of the browser besides.
    pub(crate) fn required_or_others(
        &self,
        column: &Column,
        options: &ReadOptions,
    ) -> Result<Vec<usize>, DatasetError> {
        self.required(column, options)?;
        Ok(self.candidates(column, options).collect())
    }

    /// Where a column is that must be there.
    pub(crate) fn required(&self, column: &Column, options: &ReadOptions) -> Result<usize, DatasetError> {
        self.column(column, options).ok_or_else(|| {
            let holds = column.names().find_map(|name| Some((name, self.unreadable.get(name)?)));
            let reason = match holds {
                Some((name, holds)) => {
                    format!("column {name} holds {holds}; text, a number or a time is due")
                }
                None => format!(
                    "column {} is missing; there are: {} (--column {}=NAME says which it is)",
                    column.name,
                    self.columns.join(", "),
                    column.name
                ),
            };
            DatasetError::Columns { path: self.path.clone(), reason }
        })
    }

    /// Gives every row to `take`, which says why a row is bad. The report is not checked yet.
    pub(crate) fn each(
        mut self,
        mut take: impl FnMut(u64, &StringRecord) -> Result<Use, String>,
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
                Step::End => {
                    if let Rows::Columnar(rows) = &self.rows {
                        report.notes.extend(rows.notes());
                    }
                    return Ok(report);
                }
                Step::Bad { at, span, reason } => report.skip(at, span, reason),
                Step::Row(at) => match take(at, &row) {
                    Ok(Use::Taken) => report.rows += 1,
                    Ok(Use::Unused) => {
                        report.rows += 1;
                        report.unused += 1;
                    }
                    Err(reason) => report.skip(at, 1, reason),
                },
            }
            if report.rows > ROWS_MAX {
                return Err(too_large(&self.path, "rows", report.rows, ROWS_MAX));
            }
        }
    }
}

/// What became of a row that is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It is part of the data set.
    Taken,
    /// It says nothing that is used.
    Unused,
}

/// Names are compared without case, spaces, dashes and underscores: `UserId`, `user id` and `user_id` are one; RecBole's types
/// (`user_id:token`) are no part of them.
fn normalized(name: &str) -> String {
    let name = name.trim().to_lowercase().replace([' ', '-', '_'], "");
    let types = [":token", ":float", ":tokenseq", ":floatseq"];
    match types.iter().find_map(|of| name.strip_suffix(of)) {
        Some(bare) => bare.to_owned(),
        None => name,
    }
}

/// `.csv, .tsv … or .tsv.gz`, for people.
pub(crate) fn endings() -> String {
    let (last, others) = ENDINGS.split_last().expect("there are endings");
    format!(".{} or .{last}", others.join(", ."))
}

pub(crate) fn is_folder(path: &Path) -> DatasetError {
    DatasetError::Missing {
        path: path.to_owned(),
        reason: "a folder, where a file is due; Spark writes such folders: join their parts into one file \
            (`coalesce(1)`), and name that"
            .to_owned(),
    }
}

pub(crate) fn too_large(path: &Path, what: &'static str, found: u64, max: u64) -> DatasetError {
    DatasetError::TooLarge { path: path.to_owned(), what, found, max }
}
