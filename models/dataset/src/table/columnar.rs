//! Rows of a Parquet file, by the row interface, so that Arrow is not needed. Whatever codec the file has (gzip, Snappy, LZ4,
//! Brotli, Zstandard), values come out as a CSV file would have them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use csv::StringRecord;
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as Physical};
use parquet::data_type::Decimal;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use super::{Step, too_large};
use crate::error::DatasetError;
use crate::limits::{FILE_BYTES_MAX, ROWS_MAX};

/// Reads rows one after another.
pub(crate) struct ColumnarRows {
    rows: RowIter<'static>,
    /// By the place among the columns that are read.
    forms: Vec<Form>,
    /// By column: values that are bytes and no text, and were left out.
    left_out: BTreeMap<String, u64>,
    at: u64,
}

/// What a file says of its columns.
pub(crate) struct Columns {
    /// Those that are read, in order.
    pub(crate) names: Vec<String>,
    /// Those that hold neither text, numbers, times nor lists of them, and what they hold.
    pub(crate) unreadable: HashMap<String, &'static str>,
}

/// What decides how a column's values become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    /// Nanoseconds since 1970, which the row interface gives as plain numbers.
    Nanoseconds {
        zoned: bool,
    },
    /// Milliseconds or microseconds since 1970.
    Time {
        zoned: bool,
    },
    /// 16 bytes.
    Uuid,
}

impl ColumnarRows {
    /// Opens a file and checks what it says of its size before anything is unpacked.
    pub(crate) fn open(path: &Path, file: File) -> Result<(Self, Columns), DatasetError> {
        let broken = |source| DatasetError::Parquet { path: path.to_owned(), row: 0, source };
        let reader = SerializedFileReader::new(file).map_err(broken)?;
        check_size(path, &reader)?;
        let root = reader.metadata().file_metadata().schema_descr().root_schema().clone();
        let mut columns = Columns { names: Vec::new(), unreadable: HashMap::new() };
        let (mut fields, mut forms) = (Vec::new(), Vec::new());
        for field in root.get_fields() {
            match form(field) {
                Ok(form) => {
                    columns.names.push(field.name().to_owned());
                    fields.push(Arc::clone(field));
                    forms.push(form);
                }
                Err(holds) => drop(columns.unreadable.insert(field.name().to_owned(), holds)),
            }
        }
        let projection = Type::group_type_builder(root.name()).with_fields(fields).build().map_err(broken)?;
        let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(broken)?;
        Ok((Self { rows, forms, left_out: BTreeMap::new(), at: 0 }, columns))
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
        for ((name, field), form) in fields.get_column_iter().zip(&self.forms) {
            let text = text(field, *form);
            if text.is_none() {
                *self.left_out.entry(name.clone()).or_default() += 1;
            }
            row.push_field(text.as_deref().unwrap_or_default());
        }
        Ok(Step::Row(self.at))
    }
}

impl ColumnarRows {
    /// What was left out, for people.
    pub(crate) fn notes(&self) -> impl Iterator<Item = String> {
        let said = |(name, count): (&String, &u64)| {
            format!("{count} values of {name} were left out, as they are no UTF-8 text")
        };
        self.left_out.iter().map(said)
    }
}

fn check_size(path: &Path, reader: &SerializedFileReader<File>) -> Result<(), DatasetError> {
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
    Ok(())
}

/// How a column is read; the error says what it holds that cannot be. Only types that the row interface knows are let through,
/// as it panics at the others.
fn form(field: &Type) -> Result<Form, &'static str> {
    if let Type::GroupType { fields, basic_info } = field {
        let list = matches!(basic_info.converted_type(), ConvertedType::LIST)
            || matches!(basic_info.logical_type_ref(), Some(LogicalType::List));
        return match fields.as_slice() {
            [repeated] if list => element(repeated),
            _ => Err("records or maps"),
        };
    }
    let info = field.get_basic_info();
    let known = match field.get_physical_type() {
        Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE | Physical::INT96 => true,
        Physical::INT32 | Physical::INT64 => !matches!(
            info.converted_type(),
            ConvertedType::TIME_MILLIS | ConvertedType::TIME_MICROS | ConvertedType::INTERVAL
        ),
        Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY => {
            !matches!(info.converted_type(), ConvertedType::BSON | ConvertedType::INTERVAL)
        }
    };
    match info.logical_type_ref() {
        _ if !known => Err("times of day, intervals or BSON"),
        Some(LogicalType::Time(_)) => Err("times of day"),
        Some(LogicalType::Uuid) => Ok(Form::Uuid),
        Some(LogicalType::Timestamp(time)) if time.unit == TimeUnit::NANOS => {
            Ok(Form::Nanoseconds { zoned: time.is_adjusted_to_u_t_c })
        }
        Some(LogicalType::Timestamp(time)) => Ok(Form::Time { zoned: time.is_adjusted_to_u_t_c }),
        // Files that know no logical types have UTC there, and so has INT96.
        _ if field.get_physical_type() == Physical::INT96 => Ok(Form::Time { zoned: true }),
        None => Ok(Form::Time { zoned: true }),
        Some(_) => Ok(Form::Plain),
    }
}

/// The elements of a list: `repeated group list { optional binary element }`, or what older writers make of it.
fn element(repeated: &Type) -> Result<Form, &'static str> {
    match repeated {
        Type::GroupType { fields, .. } => match fields.as_slice() {
            [element] if element.is_primitive() => form(element),
            _ => Err("lists of records"),
        },
        primitive @ Type::PrimitiveType { .. } => form(primitive),
    }
}

/// A value as a CSV file would have it; a list becomes `a|b`.
fn text(field: &Field, form: Form) -> Option<String> {
    let number = |v: f64| if v.is_nan() { String::new() } else { v.to_string() };
    Some(match field {
        Field::Null => String::new(),
        Field::Str(text) => text.clone(),
        Field::Bytes(bytes) if form == Form::Uuid => uuid(bytes.data())?,
        Field::Bytes(bytes) => bytes.as_utf8().ok()?.to_owned(),
        Field::Bool(v) => v.to_string(),
        Field::Byte(v) => v.to_string(),
        Field::Short(v) => v.to_string(),
        Field::Int(v) => v.to_string(),
        Field::Long(v) => match form {
            Form::Nanoseconds { zoned } => time(v.div_euclid(1_000_000), zoned),
            _ => v.to_string(),
        },
        Field::UByte(v) => v.to_string(),
        Field::UShort(v) => v.to_string(),
        Field::UInt(v) => v.to_string(),
        Field::ULong(v) => v.to_string(),
        Field::Float16(v) => number(f64::from(v.to_f32())),
        // By way of f64, 19.99 would become 19.989999771118164.
        Field::Float(v) if v.is_nan() => String::new(),
        Field::Float(v) => v.to_string(),
        Field::Double(v) => number(*v),
        Field::Decimal(v) => decimal(v)?,
        Field::Date(days) => date(*days)?,
        Field::TimestampMillis(v) => time(*v, form != Form::Time { zoned: false }),
        Field::TimestampMicros(v) => time(v.div_euclid(1000), form != Form::Time { zoned: false }),
        Field::ListInternal(list) => {
            let set = list.elements().iter().filter(|element| **element != Field::Null);
            set.map(|element| text(element, form)).collect::<Option<Vec<_>>>()?.join("|")
        }
        Field::TimeMillis(_) | Field::TimeMicros(_) | Field::Group(_) | Field::MapInternal(_) => return None,
    })
}

/// ISO 8601, with `Z` where the zone is known.
fn time(ms: i64, zoned: bool) -> String {
    let Some(at) = DateTime::from_timestamp_millis(ms) else { return ms.to_string() };
    let text = at.to_rfc3339_opts(SecondsFormat::Millis, true);
    if zoned { text } else { text.trim_end_matches('Z').to_owned() }
}

fn date(days: i32) -> Option<String> {
    Some(DateTime::from_timestamp(i64::from(days) * 86_400, 0)?.format("%Y-%m-%d").to_string())
}

fn uuid(bytes: &[u8]) -> Option<String> {
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Some(parts.join("-"))
}

/// A number of at most 16 bytes, big-endian, with the point where its scale says; zeros at the end of the fraction go.
fn decimal(value: &Decimal) -> Option<String> {
    let bytes = value.data();
    let scale = usize::try_from(value.scale()).ok()?;
    if bytes.is_empty() || bytes.len() > 16 {
        return None;
    }
    let sign = if bytes[0] & 0x80 == 0 { 0 } else { 0xff };
    let mut wide = [sign; 16];
    wide[16 - bytes.len()..].copy_from_slice(bytes);
    let number = i128::from_be_bytes(wide);
    let digits = format!("{:0>width$}", number.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{}{whole}{point}{fraction}", if number < 0 { "-" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_at_every_scale() {
        let of = |number: i64, scale| decimal(&Decimal::from_i64(number, 18, scale)).unwrap();
        assert_eq!(of(450, 2), "4.5");
        assert_eq!(of(-5, 2), "-0.05");
        assert_eq!(of(7, 0), "7");
        assert_eq!(decimal(&Decimal::from_i32(45, 2, 2)).unwrap(), "0.45");
        let long = Decimal::from_bytes(vec![0xff, 0x85].into(), 38, 1);
        assert_eq!(decimal(&long).unwrap(), "-12.3");
    }
}
