use proto::control::EventView;
use proto::event::EventKind;
use proto::{Event, EventId, Offset, PopId, TraceId, UserId, VisitorId};

use super::*;

fn view(seq: u64) -> EventView {
    let item = format!("item, \"{}\"", seq % 7).parse().unwrap();
    let kind = match seq % 4 {
        0 => EventKind::Rating { item, stars: 4.5 },
        1 => EventKind::Click { item, slot: "home".parse().unwrap(), answer: None },
        2 => EventKind::Conversion { item, value_micros: 12_500_000, currency: *b"EUR", answer: None },
        _ => {
            let attributes = vec![("plan\nname".to_owned(), "a;b".to_owned())];
            EventKind::Custom { name: "identify".into(), attributes }
        }
    };
    let visitor = VisitorId::User(UserId::new(format!("v{}", seq % 3)).unwrap());
    let id = EventId(uuid::Uuid::from_u128(u128::from(seq)));
    let event = Event { id, visitor, at_ms: 1_760_000_000_000 + seq, trace: TraceId(0), kind };
    EventView::new(seq, PopId::new("pop-a").unwrap(), Offset(seq), 1_760_000_001_000, event)
}

fn page(seqs: std::ops::RangeInclusive<u64>, last: u64) -> EventPage {
    EventPage { next: *seqs.end(), events: seqs.map(view).collect(), last }
}

fn ids(path: &Path) -> Vec<u128> {
    let mut rows = csv::Reader::from_path(path).unwrap();
    assert_eq!(rows.headers().unwrap().iter().collect::<Vec<_>>(), COLUMNS);
    rows.records().map(|row| row.unwrap()[10].parse::<uuid::Uuid>().unwrap().as_u128()).collect()
}

#[test]
fn an_export_that_was_cut_off_goes_on_and_has_every_event_once() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join(PARTIAL);
    let mut partial = Partial::open(&dir, 0).unwrap();
    partial.take(&page(1..=10, 30)).unwrap();
    partial.take(&page(11..=20, 30)).unwrap();
    // Cut off in the middle of the next page: rows are there that nothing vouches for, one of them half.
    let mut half = partial.files[0].get_ref().try_clone().unwrap();
    half.write_all(b"v1,item,176000000").unwrap();
    drop(partial);
    let mut partial = Partial::open(&dir, 0).unwrap();
    assert_eq!((partial.progress.next, partial.progress.rows), (20, [15, 5]));
    partial.take(&page(21..=30, 30)).unwrap();
    let dir = partial.close();
    let (interactions, others) = (ids(&dir.join("interactions.csv")), ids(&dir.join("other-events.csv")));
    assert_eq!(others, (1..=30).filter(|seq| seq % 4 == 3).collect::<Vec<_>>());
    assert_eq!(interactions, (1..=30).filter(|seq| seq % 4 != 3).collect::<Vec<_>>());
    // One that began elsewhere is another.
    assert_eq!(Partial::open(&dir, 5).unwrap().progress.rows, [0, 0]);
}

#[test]
fn both_forms_are_read_as_a_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let mut partial = Partial::open(&folder.path().join(PARTIAL), 0).unwrap();
    partial.take(&page(1..=40, 40)).unwrap();
    let csv = partial.close().join("interactions.csv");
    let parquet = folder.path().join("interactions.parquet");
    parquet_from_csv(&csv, &parquet, column).unwrap();
    let items = folder.path().join("items.csv");
    let titles: Vec<String> = (0..7).map(|n| format!("\"item, \"\"{n}\"\"\",Title {n},A|B\n")).collect();
    fs::write(&items, format!("item_id,title,categories\n{}", titles.concat())).unwrap();
    let read = |interactions: &Path| {
        let files = dataset::files::Files {
            items: items.clone(),
            interactions: interactions.to_owned(),
            visitors: None,
        };
        dataset::files::read(
            &files,
            &dataset::ReadOptions { bad_rows_max: 0.0, ..dataset::ReadOptions::default() },
        )
        .unwrap()
    };
    let (text, columnar) = (read(&csv), read(&parquet));
    assert_eq!(text.interactions.len(), 30);
    assert_eq!(text.interactions, columnar.interactions);
    assert_eq!(text.visitors, columnar.visitors);
    let rated = text.interactions.iter().filter(|met| met.stars == Some(4.5)).count();
    assert_eq!(rated, 10);
    assert_eq!(text.interactions[0].at_ms, 1_760_000_000_001);
}

#[test]
fn a_page_that_leads_nowhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut partial = Partial::open(folder.path(), 3).unwrap();
    assert!(partial.take(&EventPage { events: vec![], next: 3, last: 9 }).is_err());
    partial.take(&EventPage { events: vec![], next: 9, last: 9 }).unwrap();
}
