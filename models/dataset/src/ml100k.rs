//! MovieLens-100K (Harper & Konstan, 2015): 100,000 timed ratings of 1,682 films by 943 visitors, 1997-09 to 1998-04,
//! as the atomic files of RecBole 1.2.1. Its licence allows research, not redistribution: it is fetched, never committed.

use std::env;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use proto::ids::Digest;

use crate::error::DatasetError;
use crate::files::{
    InteractionColumns, ItemColumns, VisitorColumns, read_interactions, read_items, read_visitors,
};
use crate::report::ReadOptions;
use crate::table::{Column, Table, too_large};
use crate::{Dataset, ML_100K};

/// A file of the set, and the SHA-256 it must have.
struct Expected {
    name: &'static str,
    sha256: &'static str,
}

const INTERACTIONS: Expected = Expected {
    name: "ml-100k.inter",
    sha256: "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
};
const ITEMS: Expected = Expected {
    name: "ml-100k.item",
    sha256: "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
};
const VISITORS: Expected = Expected {
    name: "ml-100k.user",
    sha256: "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
};

/// Largest file of the set, rounded up.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

const ITEM_COLUMNS: ItemColumns = ItemColumns {
    id: Column::only("item_id"),
    title: Column::only("movie_title"),
    categories: Column::only("class"),
    category_separator: ' ',
    attributes: Some(&[("release_year", "year")]),
};
const VISITOR_COLUMNS: VisitorColumns = VisitorColumns {
    id: Column::only("user_id"),
    traits: Some(&[("age", "age"), ("gender", "gender"), ("occupation", "occupation")]),
};
const INTERACTION_COLUMNS: InteractionColumns = InteractionColumns {
    visitor: Column::only("user_id"),
    item: Column::only("item_id"),
    timestamp: Column::only("timestamp"),
    rating: Column::only("rating"),
    kind: Column::only("kind"),
    value: Column::only("value"),
};

/// Trait that [`read`] derives from `age`, so that segments can name it.
pub const AGE_BAND: &str = "age_band";

/// Where the files are: `$ROCKPOOL_DATA/ml-100k`, else `$HOME/.cache/rockpool/data/ml-100k`.
pub fn folder() -> Result<PathBuf, DatasetError> {
    let root = match env::var_os("ROCKPOOL_DATA") {
        Some(root) => PathBuf::from(root),
        None => PathBuf::from(env::var_os("HOME").ok_or_else(|| DatasetError::Missing {
            path: PathBuf::from(ML_100K),
            reason: "neither ROCKPOOL_DATA nor HOME is set".into(),
        })?)
        .join(".cache/rockpool/data"),
    };
    Ok(root.join(ML_100K))
}

/// Reads the three files and checks that they are the expected ones.
pub fn read(folder: &Path, options: &ReadOptions) -> Result<Dataset, DatasetError> {
    let mut reports = Vec::new();
    let mut items = read_items(open(folder, &ITEMS)?, &ITEM_COLUMNS, options, &mut reports)?;
    for item in &mut items.list {
        item.attributes.retain(|(_, year)| year.parse::<u16>().is_ok_and(|year| year >= 1800));
    }
    let mut visitors = read_visitors(open(folder, &VISITORS)?, &VISITOR_COLUMNS, options, &mut reports)?;
    for visitor in &mut visitors.list {
        let band = visitor.traits.iter().find(|(name, _)| name == "age").and_then(|(_, age)| age_band(age));
        visitor.traits.extend(band.map(|band| (AGE_BAND.to_owned(), band.to_owned())));
    }
    let table = open(folder, &INTERACTIONS)?;
    let acts = read_interactions(table, &INTERACTION_COLUMNS, &items, visitors, options, &mut reports)?;
    Ok(Dataset::ordered(ML_100K.to_owned(), items.list, acts, reports))
}

/// The bands that MovieLens itself used in its later sets.
fn age_band(age: &str) -> Option<&'static str> {
    Some(match age.parse::<u8>().ok()? {
        0..18 => "under 18",
        18..25 => "18-24",
        25..35 => "25-34",
        35..45 => "35-44",
        45..50 => "45-49",
        50..56 => "50-55",
        56.. => "56+",
    })
}

fn open(folder: &Path, expected: &Expected) -> Result<Table, DatasetError> {
    let path = folder.join(expected.name);
    let bytes = load(&path)?;
    let (found, expected) = (
        Digest::of(&bytes),
        Digest::from_hex(expected.sha256).expect("the constants above are 64 hex digits"),
    );
    if found != expected {
        return Err(DatasetError::Digest { path, expected, found, bytes: bytes.len() as u64 });
    }
    Table::atomic(&path, bytes)
}

fn load(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let io = |source| DatasetError::Io { what: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(too_large(path, "bytes of the file", bytes.len() as u64, BYTES_MAX));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_changed_file_is_named_with_both_hashes() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(ITEMS.name), "item_id:token\n").unwrap();
        let error = read(folder.path(), &ReadOptions::default()).unwrap_err().to_string();
        assert!(error.contains("ml-100k.item") && error.contains(ITEMS.sha256), "{error}");
        assert!(error.contains(&Digest::of(b"item_id:token\n").to_string()), "{error}");
    }

    #[test]
    fn a_file_that_is_too_large_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join(ITEMS.name)).unwrap();
        file.set_len(BYTES_MAX + 1).unwrap();
        let error = read(folder.path(), &ReadOptions::default()).unwrap_err();
        assert!(matches!(error, DatasetError::TooLarge { .. }), "{error}");
    }

    /// Needs the fetched files; `make test` fetches them first. Without them there is nothing to check here.
    #[test]
    fn the_real_files_are_read_whole_and_in_order() {
        let folder = folder().unwrap();
        if !folder.join(ITEMS.name).exists() {
            eprintln!("skipped: {} is not there", folder.display());
            return;
        }
        let data = read(&folder, &ReadOptions::default()).unwrap();
        assert_eq!((data.items.len(), data.visitors.len(), data.interactions.len()), (1682, 943, 100_000));
        assert!(data.reports.iter().all(|report| report.bad == 0), "{:?}", data.reports);
        assert!(data.interactions.is_sorted_by_key(|i| i.at_ms));
        assert_eq!(data.interactions[0].at_ms, 874_724_710_000);
        assert_eq!(data.items[0].title, "Toy Story");
        assert_eq!(data.items[0].categories, ["Animation", "Children's", "Comedy"]);
        assert_eq!(data.items[0].attributes, [("year".to_owned(), "1995".to_owned())]);
        let traits: Vec<&str> = data.visitors[0].traits.iter().map(|(_, v)| v.as_str()).collect();
        assert_eq!(traits, ["24", "M", "technician", "18-24"]);
        assert_eq!(data.item_counts().iter().sum::<u32>(), 100_000);
        assert!(data.by_visitor().iter().all(|rows| rows.len() >= 20 && rows.is_sorted()));
    }
}
