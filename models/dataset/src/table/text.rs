//! Rows of CSV, TSV and RecBole's atomic files. A row is bounded before it is held in memory.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use csv::{ByteRecord, StringRecord};

use super::Step;
use super::encoding::{Dialect, decoded};
use crate::error::DatasetError;
use crate::limits::ROW_BYTES_MAX;

const BUFFER_BYTES: usize = 64 * 1024;

/// How a text file parts its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// RFC 4180, with the separator that its header line has: comma, semicolon, tab or bar.
    Delimited,
    /// Tabs, no quotes, columns named `name:type` (RecBole).
    Atomic,
}

/// Reads rows one after another.
pub(crate) struct TextRows {
    reader: csv::Reader<Metered>,
    allowance: Rc<Cell<usize>>,
    bytes: ByteRecord,
    /// Lines before the header line.
    skipped: u64,
}

/// Stops a reader that takes more than its allowance for one row: an unclosed quote must not pull a whole file into
/// memory.
struct Metered {
    source: Box<dyn Read>,
    allowance: Rc<Cell<usize>>,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.get();
        if left == 0 {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the row is too long"));
        }
        let len = buffer.len().min(left);
        let read = self.source.read(&mut buffer[..len])?;
        self.allowance.set(left - read);
        Ok(read)
    }
}

impl TextRows {
    /// `known` says which names of columns are looked for: they show which separator is meant.
    pub(crate) fn open(
        path: &Path,
        source: Box<dyn Read>,
        style: Style,
        known: &dyn Fn(&str) -> bool,
    ) -> Result<(Self, Vec<String>), DatasetError> {
        let io = |source| DatasetError::Io { what: "read", path: path.to_owned(), source };
        let (source, dialect) = match style {
            Style::Delimited => decoded(source, known).map_err(io)?,
            Style::Atomic => (source, Dialect { delimiter: b'\t', escape: None, skipped: 0 }),
        };
        let allowance = Rc::new(Cell::new(0));
        let reader = csv::ReaderBuilder::new()
            .delimiter(dialect.delimiter)
            .escape(dialect.escape)
            .quoting(style != Style::Atomic)
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(Metered { source, allowance: Rc::clone(&allowance) });
        let mut rows = Self { reader, allowance, bytes: ByteRecord::new(), skipped: dialect.skipped };
        let mut header = StringRecord::new();
        match rows.read(path)? {
            true => decode(&rows.bytes, &mut header).map_err(|reason| DatasetError::Text {
                path: path.to_owned(),
                line: 1 + dialect.skipped,
                reason,
            })?,
            false => {
                let reason = "the file is empty; a header line is due".to_owned();
                return Err(DatasetError::Empty { path: path.to_owned(), reason });
            }
        }
        let name = |field: &str| match style {
            Style::Atomic => field.split(':').next().unwrap_or_default().to_owned(),
            Style::Delimited => field.trim().to_owned(),
        };
        let columns = header.iter().map(name).collect();
        Ok((rows, columns))
    }

    pub(crate) fn next(
        &mut self,
        path: &Path,
        columns: usize,
        row: &mut StringRecord,
    ) -> Result<Step, DatasetError> {
        loop {
            if !self.read(path)? {
                return Ok(Step::End);
            }
            // Spreadsheets leave lines of separators behind.
            if self.bytes.len() == 1 || self.bytes.iter().any(|field| !field.is_empty()) {
                break;
            }
        }
        let at = self.bytes.position().map_or(0, csv::Position::line) + self.skipped;
        let span = (self.reader.position().line() + self.skipped).saturating_sub(at).max(1);
        if self.bytes.len() == columns + 1 && self.bytes.get(columns).is_some_and(<[u8]>::is_empty) {
            self.bytes.truncate(columns); // a separator at the end of the line
        }
        if self.bytes.len() != columns {
            let reason = format!("{} fields, the header has {columns}", self.bytes.len());
            return Ok(Step::Bad { at, span, reason });
        }
        Ok(match decode(&self.bytes, row) {
            Ok(()) => Step::Row(at),
            Err(reason) => Step::Bad { at, span, reason },
        })
    }

    fn read(&mut self, path: &Path) -> Result<bool, DatasetError> {
        self.allowance.set(ROW_BYTES_MAX + BUFFER_BYTES);
        let line = self.reader.position().line() + self.skipped;
        self.reader.read_byte_record(&mut self.bytes).map_err(|e| match e.into_kind() {
            csv::ErrorKind::Io(e) if e.kind() == io::ErrorKind::QuotaExceeded => DatasetError::Text {
                path: path.to_owned(),
                line,
                reason: format!("the row is longer than {ROW_BYTES_MAX} bytes; is a quote left open?"),
            },
            csv::ErrorKind::Io(source) => DatasetError::Io { what: "read", path: path.to_owned(), source },
            other => DatasetError::Text { path: path.to_owned(), line, reason: format!("{other:?}") },
        })
    }
}

fn decode(bytes: &ByteRecord, row: &mut StringRecord) -> Result<(), String> {
    row.clear();
    for (at, field) in (1..).zip(bytes) {
        let text = std::str::from_utf8(field).map_err(|_| {
            format!("field {at} is not UTF-8; save the file as UTF-8 (\"CSV UTF-8\" in Excel)")
        })?;
        row.push_field(text);
    }
    Ok(())
}
