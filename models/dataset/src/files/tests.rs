use std::fs;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;
use crate::FileReport;

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
    read(&Files::in_folder(folder)?, &ReadOptions { bad_rows_max, ..ReadOptions::default() })
}

/// Reads two texts as they are, whatever their bytes; the options are those of a user who gives none.
fn read_bytes(items: &[u8], interactions: &[u8]) -> Result<Dataset, DatasetError> {
    read_named(&[("items.csv", items), ("interactions.csv", interactions)], &ReadOptions::default())
}

fn read_named(files: &[(&str, &[u8])], options: &ReadOptions) -> Result<Dataset, DatasetError> {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
    read(&Files::in_folder(folder.path())?, options)
}

fn notes(data: &Dataset) -> String {
    data.reports.iter().flat_map(FileReport::lines).collect::<Vec<_>>().join("\n")
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
    assert_eq!((report.rows, report.bad, report.unused, data.interactions.len()), (7, 4, 1, 2));
    let first = "line 3: item_id \"zzz\" is not in the items file";
    assert!(notes(&data).contains(first), "{}", notes(&data));
    let said: Vec<String> = report.examples.iter().map(|row| report.describe(row)).collect();
    for (text, want) in said.iter().zip([
        "line 4: timestamp \"soon\"",
        "line 5: visitor_id: an id must not be empty",
        "line 6: rating \"9\"",
        "line 7: 2 fields, the header has 4",
    ]) {
        assert!(text.contains("interactions.csv") && text.contains(want), "{text} lacks {want}");
    }
    let error = read_folder(folder.path(), 0.5).unwrap_err();
    assert!(matches!(&error, DatasetError::TooManyBadRows { report, .. } if report.bad == 4), "{error}");
    assert!(error.to_string().contains("4 of 7 rows are bad"), "{error}");
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
    assert_eq!(
        reasons,
        ["title has 5000 bytes, at most 4096 are taken; is a quote left open?", "item_id a is there twice",]
    );

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
    assert_eq!((report.bad, report.unused), (0, 1));
    assert!(notes(&data).contains("interactions.parquet, row 2: item_id \"zzz\""), "{}", notes(&data));

    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 20);
    fs::write(&path, bytes).unwrap();
    assert!(matches!(read_folder(folder.path(), 0.5), Err(DatasetError::Parquet { row: 0, .. })));
}

/// A text as one of the programs writes it.
type Form<'a> = &'a dyn Fn(&str) -> Vec<u8>;

/// What Excel, R, pandas and Shopify make of a table: byte order marks, UTF-16, semicolons, decimal commas, `sep=`, row numbers,
/// empty lines, a separator at the end, quotes across lines.
#[test]
fn csv_of_many_programs_reads_alike() {
    let items = "item_id;title;categories;year\na;\"Alpha\nthe first\";X|Y;1995\nb;Beta;;\n";
    let rows = "user_id;item_id;timestamp;rating\nv;a;100;4,5\nv;b;200;\n";
    let utf16 = |text: &str| -> Vec<u8> {
        [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    };
    let bom = |text: &str| ["\u{feff}", text].concat().into_bytes();
    let old_mac = |text: &str| text.replace('\n', "\r").into_bytes();
    let forms: [Form<'_>; 8] = [
        &|text| text.as_bytes().to_vec(),
        &|text| bom(&text.replace('\n', "\r\n")),
        &|text| utf16(&text.replace(';', "\t")),
        &|text| format!("sep=;\r\n{text};;;\n").into_bytes(),
        &|text| text.replace("item_id", "Item ID").into_bytes(),
        &|text| text.replace('\n', "\n\n").replace("Alpha\n\n", "Alpha\n").into_bytes(),
        &|text| text.replace("995\n", "995;\n").replace("4,5\n", "4,5;\n").into_bytes(),
        &old_mac,
    ];
    for (n, form) in forms.iter().enumerate() {
        let data = read_bytes(&form(items), &form(rows)).unwrap_or_else(|e| panic!("form {n}: {e}"));
        assert_eq!(data.items[0].categories, ["X", "Y"], "form {n}");
        assert!(data.items[0].title.starts_with("Alpha"), "form {n}: {:?}", data.items[0].title);
        assert_eq!(data.items[0].attributes, [("year".to_owned(), "1995".to_owned())], "form {n}");
        let stars: Vec<_> = data.interactions.iter().map(|i| i.stars).collect();
        assert_eq!(stars, [Some(4.5), None], "form {n}");
        assert!(data.reports.iter().all(|report| report.bad == 0), "form {n}: {}", notes(&data));
    }
    let pandas = b",item_id,title,categories\n0,a,Alpha,X\n1,b,Beta,NaN\n";
    let spark = b"visitor_id,item_id,timestamp,comment\n\"v\",\"a\",\"1\",\"he said \\\"hi\\\", twice\"\n";
    let data = read_bytes(pandas, spark).unwrap();
    assert!(data.items.iter().all(|item| item.attributes.is_empty()) && data.items[1].categories.is_empty());
    assert_eq!(data.reports[1].bad, 0);
}

#[test]
fn gzip_is_unpacked() {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(b"visitor_id,item_id,timestamp\nv,a,1\n").unwrap();
    let packed = gzip.finish().unwrap();
    let files = [("items.csv", ITEMS.as_bytes()), ("interactions.csv.gz", packed.as_slice())];
    assert_eq!(read_named(&files, &ReadOptions::default()).unwrap().interactions.len(), 1);
    let error = read_named(&[files[0], ("interactions.csv.gz", &packed[..20])], &ReadOptions::default());
    assert!(matches!(error, Err(DatasetError::Io { .. })));
}

#[test]
fn files_that_are_no_table_say_what_they_are() {
    let none = b"visitor_id,item_id,timestamp\n";
    for (items, rows, wanted) in [
        ("", "", "items.csv: the file is empty"),
        (ITEMS, "", "interactions.csv: the file is empty"),
        (ITEMS, std::str::from_utf8(none).unwrap(), "there is a header line, and no row"),
        (ITEMS, "visitor_id,item_id,item_id,timestamp\nv,a,a,1\n", "column \"item_id\" is there twice"),
        (ITEMS, "visitor_id,item_id\nv,a\n", "column timestamp is missing; there are: visitor_id, item_id"),
        (ITEMS, "visitor_id,item_id,timestamp\nv,a,01/02/1999\n", "timestamp \"01/02/1999\""),
        (ITEMS, "visitor_id,item_id,timestamp\nv,1,1\nv,2,2\n", "2 of 2 rows are of items that are not"),
        (ITEMS, "visitor_id,item_id,timestamp,kind\nv,a,1,search\n", "not used: search (1)"),
        (ITEMS, "visitor_id,item_id,timestamp,rating\nv,a,1,-5000\nv,b,1,5\n", "say their scale"),
        (ITEMS, "visitor_id,item_id,timestamp,rating\nv,a,1,inf\n", "rating \"inf\" is not a finite number"),
        (ITEMS, "visitor_id,item_id,timestamp\nv,a,\u{0}\n", "timestamp"),
    ] {
        let error = read_bytes(items.as_bytes(), rows.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error} lacks {wanted}");
    }
    let folder = folder(ITEMS, "visitor_id,item_id,timestamp\nv,a,1\n", None);
    fs::copy(folder.path().join("items.csv"), folder.path().join("items.tsv")).unwrap();
    let error = read_folder(folder.path(), 0.0).unwrap_err().to_string();
    assert!(error.contains("items.csv and ") && error.contains("items.tsv are there"), "{error}");
    fs::remove_file(folder.path().join("items.tsv")).unwrap();
    fs::remove_file(folder.path().join("items.csv")).unwrap();
    fs::create_dir(folder.path().join("items.csv")).unwrap();
    let error = read_folder(folder.path(), 0.0).unwrap_err().to_string();
    assert!(error.contains("items.csv: a folder, where a file is due"), "{error}");
}

/// What a catalog cannot take is mended or left out, and said: it used to lose everything after training.
#[test]
fn long_titles_are_cut_and_long_values_left_out() {
    let items = format!(
        "item_id,title,categories,description\na,{},X,{}\nb,{}é,X,short\n",
        "x".repeat(513),
        "y".repeat(9000),
        "z".repeat(511),
    );
    let data = read_bytes(items.as_bytes(), b"visitor_id,item_id,timestamp\nv,a,1\n").unwrap();
    assert_eq!(data.items.iter().map(|item| item.title.len()).collect::<Vec<_>>(), [512, 511]);
    assert!(data.items[0].attributes.is_empty() && data.items[1].attributes[0].1 == "short");
    let said = notes(&data);
    assert!(
        said.contains("2 titles were cut") && said.contains("1 values of description were left out"),
        "{said}"
    );

    let long = format!("item_id,title,categories\na,A,{}\n", "x".repeat(513));
    let error =
        read_bytes(long.as_bytes(), b"visitor_id,item_id,timestamp\nv,a,1\n").unwrap_err().to_string();
    assert!(error.contains("a category has 513 bytes"), "{error}");

    let wide: Vec<String> = (0..60).map(|n| format!("column{n}")).collect();
    let items = format!("item_id,title,{}\na,A,{}\n", wide.join(","), vec!["1"; 60].join(","));
    let data = read_bytes(items.as_bytes(), b"visitor_id,item_id,timestamp\nv,a,1\n").unwrap();
    assert_eq!(data.items[0].attributes.len(), 31);
    assert!(notes(&data).contains("not used, as 31 come before: column31, column32"), "{}", notes(&data));
}

fn stars_of(ratings: &[&str], options: &ReadOptions) -> (Vec<Option<f32>>, String) {
    let rows: Vec<String> = ratings.iter().map(|rating| format!("v;a;1;{rating}\n")).collect();
    let rows = format!("visitor_id;item_id;timestamp;rating\n{}", rows.concat());
    let files = [("items.csv", ITEMS.as_bytes()), ("interactions.csv", rows.as_bytes())];
    let data = read_named(&files, options).unwrap();
    (data.interactions.iter().map(|i| i.stars).collect(), notes(&data))
}

#[test]
fn ratings_of_every_scale_become_stars() {
    let found = ReadOptions::default();
    for (ratings, stars) in [
        (["1", "3", "5"], [1.0, 3.0, 5.0]),
        (["1", "8", "10"], [0.5, 4.0, 5.0]),
        (["1", "80", "100"], [0.05, 4.0, 5.0]),
        (["-1", "0", "1"], [0.0, 2.5, 5.0]),
        (["-10", "6", "10"], [0.0, 4.0, 5.0]),
        (["0", "0.8", "1"], [0.0, 4.0, 5.0]),
        (["0", "0", "1"], [0.0, 0.0, 5.0]),
    ] {
        let (read, said) = stars_of(&ratings, &found);
        assert_eq!(read, stars.map(Some), "{ratings:?}");
        assert_eq!(said.contains("--rating-scale"), ratings != ["1", "3", "5"], "{said}");
    }
    let given = ReadOptions { rating_scale: Some("1..7".parse().unwrap()), ..found.clone() };
    assert_eq!(stars_of(&["1", "4", "7"], &given).0, [Some(0.0), Some(2.5), Some(5.0)]);
    let strict = stars_of(&["1", "NaN", "NULL", "5", ""], &found).0;
    assert_eq!(strict, [Some(1.0), None, None, Some(5.0), None]);
    // One typo among many does not change the scale of all; it is the bad row.
    let mut many = vec!["4"; 199];
    many[7] = "2";
    many.push("45");
    let (read, said) = stars_of(&many, &found);
    assert!(read.len() == 199 && read[0] == Some(4.0), "{said}");
    assert!(said.contains("line 201: rating \"45\" is not a number from 0 to 5"), "{said}");
    for wrong in ["5", "5..1", "a..b", "1..inf", ""] {
        assert!(wrong.parse::<RatingScale>().is_err(), "{wrong}");
    }
}

#[test]
fn ratings_that_are_all_alike_tell_nothing() {
    let (read, said) = stars_of(&["5"; 30], &ReadOptions::default());
    assert!(read.iter().all(Option::is_none), "{read:?}");
    assert!(said.contains("every rating is 5"), "{said}");
}

#[test]
fn kinds_say_what_a_row_is() {
    let rows = "user_id,item_id,timestamp,kind,value\n\
        v,a,1,impression,\nv,a,2,click,\nv,a,3,Order Completed,12.5\nv,b,4,rating,2\nv,b,5,dismissal,\n\
        v,,6,identify,\nv,a,7,view,\nv,zzz,8,click,\nv,b,9,,\n";
    let data = read_bytes(ITEMS.as_bytes(), rows.as_bytes()).unwrap();
    let acts: Vec<_> = data.interactions.iter().map(|i| (i.act, i.stars)).collect();
    let none = |act| (act, None);
    use crate::Act::{Click, Conversion, Rating, View};
    assert_eq!(acts, [none(Click), none(Conversion), (Rating, Some(2.0)), none(View), none(Click)]);
    let shown: Vec<_> = data.shown.iter().map(|s| (s.item, s.at_ms, s.dismissed)).collect();
    assert_eq!(shown, [(0, 1000, false), (1, 5000, true)]);
    assert_eq!((data.reports[1].rows, data.reports[1].bad, data.reports[1].unused), (9, 0, 2));
    assert!(notes(&data).contains("identify (1)"), "{}", notes(&data));
}

#[test]
fn columns_may_be_called_otherwise() {
    let items = b"Handle,Name\na,Alpha\n";
    let rows = b"Email,Lineitem sku,Created at\nv@x.example,a,2024-01-15 10:23:45 -0500\n";
    let named = |ours: &str, theirs: &str| (ours.to_owned(), theirs.to_owned());
    let columns = vec![
        named("item_id", "Handle"),
        named("item_id", "Lineitem sku"),
        named("visitor_id", "Email"),
        named("timestamp", "Created at"),
    ];
    let options = ReadOptions { columns, ..ReadOptions::default() };
    let data = read_named(&[("items.csv", items), ("interactions.csv", rows)], &options).unwrap();
    assert_eq!(data.visitors[0].id.as_str(), "v@x.example");
    assert_eq!((data.items[0].title.as_str(), data.interactions[0].at_ms), ("Alpha", 1_705_332_225_000));
}

/// gorse-io/gorse issue 516: names in camel case, times without a zone and with a space behind them. RecBole issues 1677 and
/// 2000: columns parted by spaces, names with types.
#[test]
fn files_made_for_others_are_read() {
    let gorse = b"favori,UserId,ItemId,Timestamp\nfavori,3423,a,2022-06-24 21:20:11 \nfavori,2823,b,2022-06-24 21:20:19\n";
    let data = read_bytes(ITEMS.as_bytes(), gorse).unwrap();
    assert_eq!((data.interactions.len(), data.interactions[0].at_ms), (2, 1_656_105_611_000));
    let recbole = b"user_id:token item_id:token rating:float timestamp:float\nA1ZC a 5.0 1387670400\nA2PL b 4.0 1378857600\n";
    let data = read_bytes(ITEMS.as_bytes(), recbole).unwrap();
    assert_eq!((data.interactions.len(), data.interactions[0].stars), (2, Some(4.0)));
}

/// GA4 knows the user now and then, and the browser always.
#[test]
fn an_id_that_is_empty_is_found_in_the_next_column() {
    let rows = b"event_timestamp,event_name,user_pseudo_id,user_id,item_id\n\
        1704067200000000,view_item,p1,,a\n1704067200000001,purchase,p1,u1,b\n1704067200000002,page_view,,,a\n";
    let options = ReadOptions { bad_rows_max: 0.5, ..ReadOptions::default() };
    let data = read_named(&[("items.csv", ITEMS.as_bytes()), ("interactions.csv", rows)], &options).unwrap();
    let visitors: Vec<&str> = data.visitors.iter().map(|visitor| visitor.id.as_str()).collect();
    assert_eq!((visitors, data.reports[1].bad), (vec!["p1", "u1"], 1));
}

/// pandas makes floats of whole numbers where some are missing.
#[test]
fn ids_that_became_floats_are_found() {
    let items = b"item_id,title\n17,Alpha\n";
    let data = read_bytes(items, b"visitor_id,item_id,timestamp\n5,17.0,1704067200.0\n").unwrap();
    assert_eq!((data.interactions.len(), data.interactions[0].at_ms), (1, 1_704_067_200_000));
}

#[test]
fn times_without_a_zone_are_said() {
    let rows = b"visitor_id,item_id,timestamp\nv,a,2024-01-15 10:00:00\n";
    let files: [(&str, &[u8]); 2] = [("items.csv", ITEMS.as_bytes()), ("interactions.csv", rows)];
    let data = read_named(&files, &ReadOptions::default()).unwrap();
    assert_eq!(data.interactions[0].at_ms, 1_705_312_800_000);
    assert!(
        notes(&data).contains("1 times have no zone, and were read as UTC (--utc-offset)"),
        "{}",
        notes(&data)
    );
    let berlin = ReadOptions { utc_offset: "+01:00".parse().unwrap(), ..ReadOptions::default() };
    assert_eq!(read_named(&files, &berlin).unwrap().interactions[0].at_ms, 1_705_309_200_000);
    let late = read_bytes(ITEMS.as_bytes(), b"visitor_id,item_id,timestamp\nv,a,99999999999\n").unwrap();
    assert!(notes(&late).contains("beyond today"), "{}", notes(&late));
}

mod parquet_forms;
