//! A CSV file as Parquet: row group by row group, so that a file of any length needs the memory of one.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use csv::StringRecord;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::Type;

/// Rows of one group.
const GROUP_ROWS: usize = 20_000;

/// What a column holds; an empty field is a null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// UTF-8.
    Text,
    /// Whole numbers of 64 bits.
    Whole,
    /// Numbers of 64 bits.
    Real,
}

/// Why a file could not be converted.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {to} as Parquet from {from}")]
pub struct ConvertError {
    from: String,
    to: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

type Step<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Writes the Parquet file `to` (Snappy) from the CSV file `from`, which has a header line. `column` says what a column of
/// this name holds.
///
/// # Errors
/// Where one cannot be read or written, or a field is not what its column holds.
pub fn parquet_from_csv(from: &Path, to: &Path, column: impl Fn(&str) -> Column) -> Result<(), ConvertError> {
    convert(from, to, column).map_err(|source| ConvertError {
        from: from.display().to_string(),
        to: to.display().to_string(),
        source,
    })
}

fn convert(from: &Path, to: &Path, column: impl Fn(&str) -> Column) -> Step<()> {
    let mut rows = csv::Reader::from_path(from)?;
    let columns: Vec<(String, Column)> =
        rows.headers()?.iter().map(|name| (name.to_owned(), column(name))).collect();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(File::create(to)?, schema(&columns)?, Arc::new(properties))?;
    let mut group = Vec::with_capacity(GROUP_ROWS);
    for row in rows.records() {
        group.push(row?);
        if group.len() == GROUP_ROWS {
            write_group(&mut writer, &columns, &group)?;
            group.clear();
        }
    }
    if !group.is_empty() {
        write_group(&mut writer, &columns, &group)?;
    }
    writer.finish()?;
    writer.inner().sync_all()?;
    Ok(())
}

fn schema(columns: &[(String, Column)]) -> Step<Arc<Type>> {
    let column = |(name, column): &(String, Column)| match column {
        Column::Text => format!("OPTIONAL BYTE_ARRAY {name} (UTF8);"),
        Column::Whole => format!("OPTIONAL INT64 {name};"),
        Column::Real => format!("OPTIONAL DOUBLE {name};"),
    };
    let columns: String = columns.iter().map(column).collect();
    Ok(Arc::new(parse_message_type(&format!("message rows {{ {columns} }}"))?))
}

fn write_group(
    writer: &mut SerializedFileWriter<File>,
    columns: &[(String, Column)],
    rows: &[StringRecord],
) -> Step<()> {
    let mut group = writer.next_row_group()?;
    for (at, (_, column)) in columns.iter().enumerate() {
        let texts = || rows.iter().map(move |row| row.get(at).unwrap_or_default());
        let present: Vec<i16> = texts().map(|text| i16::from(!text.is_empty())).collect();
        let texts = texts().filter(|text| !text.is_empty());
        match column {
            Column::Text => {
                let texts: Vec<ByteArray> = texts.map(ByteArray::from).collect();
                write_column::<ByteArrayType>(&mut group, &texts, &present)?;
            }
            Column::Whole => {
                let numbers = texts.map(str::parse).collect::<Result<Vec<i64>, _>>()?;
                write_column::<Int64Type>(&mut group, &numbers, &present)?;
            }
            Column::Real => {
                let numbers = texts.map(str::parse).collect::<Result<Vec<f64>, _>>()?;
                write_column::<DoubleType>(&mut group, &numbers, &present)?;
            }
        }
    }
    group.close()?;
    Ok(())
}

fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    present: &[i16],
) -> Step<()> {
    let mut column = group.next_column()?.ok_or("the schema has a column less than the file")?;
    column.typed::<T>().write_batch(values, Some(present), None)?;
    column.close()?;
    Ok(())
}
