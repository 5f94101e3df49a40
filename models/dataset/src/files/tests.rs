use std::fs;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;

const ITEMS: &str = "item_id,title,categories,year\na,\"Alpha, the first\",X|Y,1995\nb,Beta,,\n";

fn folder(items: &str, interactions: &str, visitors: Option<&str>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("items.csv"), items).unwrap();
    fs::write(folder.path().join("interactions.csv"), interactions).unwrap();
    if let Some(visitors) = visitors {
        fs::write(folder.path().join("visitors.csv"), visitors).unwrap();
    }
    folder
}

fn read_folder(folder: &Path, bad_rows_max: f64) -> Result<Dataset, DatasetError> {
    read(&Files::in_folder(folder)?, &ReadOptions { bad_rows_max })
}

#[test]
fn reads_csv_in_time_order_with_ties_in_file_order() {
    let interactions = "timestamp,visitor_id,item_id,rating\n\
        200,v2,b,\n100,v1,a,4.5\n100,v1,b,2\n1970-01-01T00:00:50Z,v3,a,5\n";
    let folder = folder(ITEMS, interactions, Some("visitor_id,plan\nv1,gold\nv9,\n"));
    let data = read_folder(folder.path(), 0.0).unwrap();
    assert_eq!(data.items[0].title, "Alpha, the first");
    assert_eq!(data.items[0].categories, ["X", "Y"]);
    assert_eq!(data.items[0].attributes, [("year".to_owned(), "1995".to_owned())]);
    assert!(data.items[1].categories.is_empty() && data.items[1].attributes.is_empty());
    let visitors: Vec<&str> = data.visitors.iter().map(|v| v.id.as_str()).collect();
    assert_eq!(visitors, ["v1", "v9", "v2", "v3"]);
    assert_eq!(data.visitors[0].traits, [("plan".to_owned(), "gold".to_owned())]);
    let rows: Vec<_> = data.interactions.iter().map(|i| (i.visitor, i.item, i.stars, i.at_ms)).collect();
    assert_eq!(
        rows,
        [
            (3, 0, Some(5.0), 50_000),
            (0, 0, Some(4.5), 100_000),
            (0, 1, Some(2.0), 100_000),
            (2, 1, None, 200_000)
        ]
    );
    assert_eq!(data.catalog().items, data.items);
}

#[test]
fn bad_rows_are_reported_with_line_and_reason() {
    let interactions = "visitor_id,item_id,timestamp,rating\n\
        v1,a,100,3\nv1,zzz,100,3\nv1,a,soon,3\n,a,100,3\nv1,a,100,9\nv1,a\nv1,b,100,\n";
    let folder = folder(ITEMS, interactions, None);
    let data = read_folder(folder.path(), 0.8).unwrap();
    let report = &data.reports[1];
    assert_eq!((report.rows, report.bad, data.interactions.len()), (7, 5, 2));
    let said: Vec<String> = report.examples.iter().map(|row| report.describe(row)).collect();
    for (text, want) in said.iter().zip([
        "line 3: item_id \"zzz\" is not in the items file",
        "line 4: timestamp \"soon\"",
        "line 5: visitor_id: an id must not be empty",
        "line 6: rating \"9\"",
        "line 7: 2 fields, the header has 4",
    ]) {
        assert!(text.contains("interactions.csv") && text.contains(want), "{text} lacks {want}");
    }
    let error = read_folder(folder.path(), 0.5).unwrap_err();
    assert!(matches!(&error, DatasetError::TooManyBadRows { report, .. } if report.bad == 5), "{error}");
    assert!(error.to_string().contains("5 of 7 rows are bad"), "{error}");
}

#[test]
fn an_open_quote_counts_every_line_it_swallowed() {
    let mut items = String::from("item_id,title,categories\na,Alpha,\nb,\"Beta,\n");
    for n in 0..100 {
        items.push_str(&format!("c{n},Gamma,\n"));
    }
    let folder = folder(&items, "visitor_id,item_id,timestamp\nv,a,1\n", None);
    let error = read_folder(folder.path(), 0.5).unwrap_err();
    assert!(matches!(&error, DatasetError::TooManyBadRows { report, .. } if report.bad >= 100), "{error}");
}

#[test]
fn a_row_that_never_ends_stops_at_the_limit() {
    let items = format!("item_id,title,categories\na,\"{}", "x".repeat(1024 * 1024));
    let folder = folder(&items, "visitor_id,item_id,timestamp\nv,a,1\n", None);
    let error = read_folder(folder.path(), 1.0).unwrap_err();
    assert!(matches!(error, DatasetError::Text { line: 2, .. }), "{error}");
}

#[test]
fn long_fields_twice_used_ids_and_missing_columns_are_refused() {
    let long = format!("item_id,title,categories\na,{},\na,Alpha,\na,Again,\n", "x".repeat(5000));
    let folder_long = folder(&long, "visitor_id,item_id,timestamp\nv,a,1\n", None);
    let data = read_folder(folder_long.path(), 0.9).unwrap();
    let reasons: Vec<&str> = data.reports[0].examples.iter().map(|row| row.reason.as_str()).collect();
    assert_eq!(reasons, ["field 2 has more than 4096 bytes", "item_id a is there twice"]);

    let folder_columns = folder(ITEMS, "visitor,item_id,timestamp\nv,a,1\n", None);
    let error = read_folder(folder_columns.path(), 1.0).unwrap_err().to_string();
    assert!(
        error.contains("column visitor_id is missing; there are: visitor, item_id, timestamp"),
        "{error}"
    );

    let folder_none = tempfile::tempdir().unwrap();
    let error = read_folder(folder_none.path(), 1.0).unwrap_err().to_string();
    assert!(error.contains("no items.csv, items.tsv or items.parquet there"), "{error}");

    let folder_empty = folder(ITEMS, "visitor_id,item_id,timestamp\n", None);
    assert!(matches!(read_folder(folder_empty.path(), 1.0), Err(DatasetError::Empty { .. })));
}

/// Writes interactions as Parquet: 0 in `items` stands for an unknown item.
fn write_parquet(path: &Path, rows: &[(&str, &str, i64, f64)]) {
    let schema = "message rows { required binary visitor_id (UTF8); required binary item_id (UTF8); \
        required int64 timestamp (TIMESTAMP(MILLIS,true)); required double rating; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let texts = |pick: fn(&(&str, &str, i64, f64)) -> String| -> Vec<ByteArray> {
        rows.iter().map(|row| ByteArray::from(pick(row).into_bytes())).collect()
    };
    for values in [texts(|row| row.0.to_owned()), texts(|row| row.1.to_owned())] {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    let mut column = group.next_column().unwrap().unwrap();
    let times: Vec<i64> = rows.iter().map(|row| row.2).collect();
    column.typed::<Int64Type>().write_batch(&times, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let ratings: Vec<f64> = rows.iter().map(|row| row.3).collect();
    column.typed::<DoubleType>().write_batch(&ratings, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn parquet_reads_like_csv_and_names_rows() {
    let folder = folder(ITEMS, "visitor_id,item_id,timestamp\nv,a,1\n", None);
    fs::remove_file(folder.path().join("interactions.csv")).unwrap();
    let path = folder.path().join("interactions.parquet");
    write_parquet(
        &path,
        &[
            ("v", "a", 881_250_949_123, 4.0),
            ("v", "zzz", 881_250_949_124, 4.0),
            ("w", "b", 881_250_949_125, 2.5),
        ],
    );
    let data = read_folder(folder.path(), 0.5).unwrap();
    assert_eq!(data.interactions.len(), 2);
    assert_eq!(data.interactions[1].stars, Some(2.5));
    assert_eq!(data.interactions[0].at_ms, 881_250_949_123);
    let report = &data.reports[1];
    assert!(report.describe(&report.examples[0]).contains("interactions.parquet, row 2: item_id \"zzz\""));

    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 20);
    fs::write(&path, bytes).unwrap();
    assert!(matches!(read_folder(folder.path(), 0.5), Err(DatasetError::Parquet { row: 0, .. })));
}
