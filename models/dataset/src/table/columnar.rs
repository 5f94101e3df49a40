//! Rows of a Parquet file, by the row interface, so that Arrow is not needed.

use std::fs::File;
use std::path::Path;

use csv::StringRecord;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, ListAccessor};

use super::{Step, too_large};
use crate::error::DatasetError;
use crate::limits::{CATEGORIES_MAX, FILE_BYTES_MAX, ROWS_MAX};

/// Reads rows one after another.
pub(crate) struct ColumnarRows {
    rows: RowIter<'static>,
    at: u64,
}

impl ColumnarRows {
    /// Opens a file and checks what it says of its size before anything is unpacked.
    pub(crate) fn open(path: &Path, file: File) -> Result<(Self, Vec<String>), DatasetError> {
        let broken = |source| DatasetError::Parquet { path: path.to_owned(), row: 0, source };
        let reader = SerializedFileReader::new(file).map_err(broken)?;
        let metadata = reader.metadata();
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(u64::MAX);
        if rows > ROWS_MAX {
            return Err(too_large(path, "rows", rows, ROWS_MAX));
        }
        let unpacked = metadata
            .row_groups()
            .iter()
            .map(|group| u64::try_from(group.total_byte_size()).unwrap_or(u64::MAX))
            .fold(0, u64::saturating_add);
        if unpacked > FILE_BYTES_MAX {
            return Err(too_large(path, "bytes when unpacked", unpacked, FILE_BYTES_MAX));
        }
        let root = metadata.file_metadata().schema_descr().root_schema();
        let columns = root.get_fields().iter().map(|field| field.name().to_owned()).collect();
        let rows = RowIter::from_file_into(Box::new(reader));
        Ok((Self { rows, at: 0 }, columns))
    }

    pub(crate) fn next(&mut self, path: &Path, row: &mut StringRecord) -> Result<Step, DatasetError> {
        self.at += 1;
        let fields = match self.rows.next() {
            None => return Ok(Step::End),
            Some(Err(source)) => {
                return Err(DatasetError::Parquet { path: path.to_owned(), row: self.at, source });
            }
            Some(Ok(fields)) => fields,
        };
        row.clear();
        for (name, field) in fields.get_column_iter() {
            match text(field) {
                Some(text) => row.push_field(&text),
                None => {
                    let reason =
                        format!("column {name} holds {field}, which is not text, a number or a time");
                    return Ok(Step::Bad { at: self.at, span: 1, reason });
                }
            }
        }
        Ok(Step::Row(self.at))
    }
}

/// A value as a CSV file would have it; a list becomes `a|b`.
fn text(field: &Field) -> Option<String> {
    Some(match field {
        Field::Null => String::new(),
        Field::Str(text) => text.clone(),
        Field::Bytes(bytes) => bytes.as_utf8().ok()?.to_owned(),
        Field::Bool(v) => v.to_string(),
        Field::Byte(v) => v.to_string(),
        Field::Short(v) => v.to_string(),
        Field::Int(v) => v.to_string(),
        Field::Long(v) => v.to_string(),
        Field::UByte(v) => v.to_string(),
        Field::UShort(v) => v.to_string(),
        Field::UInt(v) => v.to_string(),
        Field::ULong(v) => v.to_string(),
        Field::Float(v) => v.to_string(),
        Field::Double(v) => v.to_string(),
        Field::TimestampMillis(v) => v.to_string(),
        Field::TimestampMicros(v) => (v / 1000).to_string(),
        Field::ListInternal(list) if list.len() <= CATEGORIES_MAX => {
            let parts: Option<Vec<&str>> =
                (0..list.len()).map(|at| list.get_string(at).ok().map(String::as_str)).collect();
            parts?.join("|")
        }
        _ => return None,
    })
}
