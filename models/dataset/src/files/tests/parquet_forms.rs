//! Parquet as pandas, Spark, DuckDB and Polars write it: every codec, every kind of time, numbers as ids, decimals, lists.

use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{
    ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, Int32Type,
};

use super::*;

type Column<'a> = &'a dyn Fn(&mut parquet::file::writer::SerializedColumnWriter<'_>);

/// A column of required values.
fn values<T: DataType>(
    values: &[T::T],
) -> impl Fn(&mut parquet::file::writer::SerializedColumnWriter<'_>) + '_ {
    |column| assert_eq!(column.typed::<T>().write_batch(values, None, None).unwrap(), values.len())
}

fn write(path: &Path, schema: &str, codec: Compression, columns: &[Column<'_>]) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(codec).build();
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for fill in columns {
        let mut column = group.next_column().unwrap().unwrap();
        fill(&mut column);
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

/// Reads one interaction whose columns are these, beside an items file with the items 17 and `a`.
fn read_one(schema: &str, codec: Compression, columns: &[Column<'_>]) -> Result<Dataset, DatasetError> {
    let folder = folder("item_id,title\n17,Alpha\na,Beta\n", "", None);
    fs::remove_file(folder.path().join("interactions.csv")).unwrap();
    write(&folder.path().join("interactions.parquet"), schema, codec, columns);
    read_folder(folder.path(), 0.0)
}

const MS: i64 = 881_250_949_123;

#[test]
fn every_codec_is_read() {
    let schema =
        "message rows { required int64 visitor_id; required int32 item_id; required int64 timestamp; }";
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        let columns: [Column<'_>; 3] =
            [&values::<Int64Type>(&[5]), &values::<Int32Type>(&[17]), &values::<Int64Type>(&[MS])];
        let data = read_one(schema, codec, &columns).unwrap_or_else(|e| panic!("{codec:?}: {e:?}"));
        assert_eq!((data.visitors[0].id.as_str(), data.interactions[0].item), ("5", 0), "{codec:?}");
        assert_eq!(data.interactions[0].at_ms, 881_250_949_123, "{codec:?}");
    }
}

#[test]
fn every_kind_of_time_is_read() {
    let ms = u64::try_from(MS).unwrap();
    for (kind, value, wanted, zoneless) in [
        ("int64 timestamp (TIMESTAMP(MILLIS,true))", MS, ms, false),
        ("int64 timestamp (TIMESTAMP(MICROS,true))", MS * 1000, ms, false),
        ("int64 timestamp (TIMESTAMP(NANOS,true))", MS * 1_000_000, ms, false),
        ("int64 timestamp (TIMESTAMP(NANOS,false))", MS * 1_000_000, ms - 3_600_000, true),
        ("int64 timestamp (TIMESTAMP(MILLIS,false))", MS, ms - 3_600_000, true),
        ("int64 timestamp (TIMESTAMP_MILLIS)", MS, ms, false),
        ("int64 timestamp", MS / 1000, ms / 1000 * 1000, false),
        // 1970 in nanoseconds, which as a plain number would be taken for microseconds.
        ("int64 timestamp (TIMESTAMP(NANOS,true))", 5_000_000_000_000_000, 5_000_000_000, false),
    ] {
        let schema =
            format!("message rows {{ required int64 visitor_id; required int64 item_id; required {kind}; }}");
        let folder = folder("item_id,title\n17,Alpha\n", "", None);
        fs::remove_file(folder.path().join("interactions.csv")).unwrap();
        let value = [value];
        let columns: [Column<'_>; 3] =
            [&values::<Int64Type>(&[5]), &values::<Int64Type>(&[17]), &values::<Int64Type>(&value)];
        write(&folder.path().join("interactions.parquet"), &schema, Compression::SNAPPY, &columns);
        let options = ReadOptions { utc_offset: "+01:00".parse().unwrap(), ..ReadOptions::default() };
        let data = read(&Files::in_folder(folder.path()).unwrap(), &options).unwrap();
        assert_eq!(data.interactions[0].at_ms, wanted, "{kind}");
        assert_eq!(notes(&data).contains("have no zone"), zoneless, "{kind}");
    }
}

#[test]
fn dates_decimals_and_uuids_are_read() {
    let schema = "message rows { required fixed_len_byte_array(16) visitor_id (UUID); required int64 item_id; \
        required int32 date (DATE); required int32 rating (DECIMAL(3,2)); required int64 time_of_day (TIME(MICROS,true)); }";
    let uuid = [FixedLenByteArray::from((0..16).collect::<Vec<u8>>())];
    let columns: [Column<'_>; 5] = [
        &values::<FixedLenByteArrayType>(&uuid),
        &values::<Int64Type>(&[17]),
        &values::<Int32Type>(&[10_199]),
        &values::<Int32Type>(&[450]),
        &values::<Int64Type>(&[1]),
    ];
    let data = read_one(schema, Compression::SNAPPY, &columns).unwrap();
    assert_eq!(data.visitors[0].id.as_str(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    assert_eq!(data.interactions[0].stars, Some(4.5));
    assert_eq!(data.interactions[0].at_ms, 10_199 * 86_400_000);
}

/// Records and times of day cannot be read: where one is needed, that is said; elsewhere it is left.
#[test]
fn columns_that_hold_something_else_are_named() {
    let schema = "message rows { required int64 visitor_id; required group item_id { required int64 id; } \
        required int64 timestamp; }";
    let columns: [Column<'_>; 3] =
        [&values::<Int64Type>(&[5]), &values::<Int64Type>(&[17]), &values::<Int64Type>(&[MS])];
    let error = read_one(schema, Compression::SNAPPY, &columns).unwrap_err().to_string();
    assert!(error.contains("column item_id holds records or maps"), "{error}");
}

#[test]
fn lists_of_categories_are_read() {
    let folder = folder("", "visitor_id,item_id,timestamp\nv,a,1\n", None);
    fs::remove_file(folder.path().join("items.csv")).unwrap();
    let schema = "message items { required binary item_id (UTF8); required binary title (UTF8); \
        optional group categories (LIST) { repeated group list { optional binary element (UTF8); } } \
        required group sizes { required int64 width; } required binary picture; }";
    let text = |text: &str| ByteArray::from(text.as_bytes().to_vec());
    let (ids, titles) = ([text("a"), text("b")], [text("Alpha"), text("Beta")]);
    let categories = |column: &mut parquet::file::writer::SerializedColumnWriter<'_>| {
        // a: X, nothing, Y; b: an empty list.
        let (values, defined, repeated) = ([text("X"), text("Y")], [3, 2, 3, 1], [0, 1, 1, 0]);
        column.typed::<ByteArrayType>().write_batch(&values, Some(&defined), Some(&repeated)).unwrap();
    };
    let pictures = [ByteArray::from(vec![0xff, 0xd8]), text("c")];
    let columns: [Column<'_>; 5] = [
        &values::<ByteArrayType>(&ids),
        &values::<ByteArrayType>(&titles),
        &categories,
        &values::<Int64Type>(&[1, 2]),
        &values::<ByteArrayType>(&pictures),
    ];
    write(&folder.path().join("items.parquet"), schema, Compression::SNAPPY, &columns);
    let data = read_folder(folder.path(), 0.0).unwrap();
    assert_eq!(data.items[0].categories, ["X", "Y"]);
    assert!(data.items[1].categories.is_empty() && data.items[0].attributes.is_empty());
    assert_eq!(data.items[1].attributes, [("picture".to_owned(), "c".to_owned())]);
    assert!(notes(&data).contains("1 values of picture were left out"), "{}", notes(&data));
    assert!(notes(&data).contains("sizes holds records or maps"), "{}", notes(&data));
}
