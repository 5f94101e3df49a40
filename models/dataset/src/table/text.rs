//! Rows of CSV, TSV and RecBole's atomic files. A row is bounded before it is held in memory.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use csv::{ByteRecord, StringRecord};

use super::Step;
use crate::error::DatasetError;
use crate::limits::ROW_BYTES_MAX;

const BUFFER_BYTES: usize = 64 * 1024;

/// How a text file parts its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// RFC 4180.
    Csv,
    /// The same with tabs.
    Tsv,
    /// Tabs, no quotes, columns named `name:type` (RecBole).
    Atomic,
}

/// Reads rows one after another.
pub(crate) struct TextRows {
    reader: csv::Reader<Metered>,
    allowance: Rc<Cell<usize>>,
    bytes: ByteRecord,
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
    pub(crate) fn open(
        path: &Path,
        source: Box<dyn Read>,
        style: Style,
    ) -> Result<(Self, Vec<String>), DatasetError> {
        let allowance = Rc::new(Cell::new(0));
        let reader = csv::ReaderBuilder::new()
            .delimiter(if style == Style::Csv { b',' } else { b'\t' })
            .quoting(style != Style::Atomic)
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(Metered { source, allowance: Rc::clone(&allowance) });
        let mut rows = Self { reader, allowance, bytes: ByteRecord::new() };
        let mut header = StringRecord::new();
        match rows.read(path)? {
            true => decode(&rows.bytes, &mut header).map_err(|reason| DatasetError::Text {
                path: path.to_owned(),
                line: 1,
                reason,
            })?,
            false => return Err(DatasetError::Empty { path: path.to_owned() }),
        }
        let name = |field: &str| match style {
            Style::Atomic => field.split(':').next().unwrap_or_default().to_owned(),
            Style::Csv | Style::Tsv => field.trim().to_owned(),
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
        if !self.read(path)? {
            return Ok(Step::End);
        }
        let at = self.bytes.position().map_or(0, csv::Position::line);
        let span = self.reader.position().line().saturating_sub(at).max(1);
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
        let line = self.reader.position().line();
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
        row.push_field(std::str::from_utf8(field).map_err(|_| format!("field {at} is not UTF-8"))?);
    }
    Ok(())
}
