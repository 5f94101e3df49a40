//! A user's own data: CSV, TSV or Parquet files of items, interactions and maybe visitors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::Dataset;
use crate::error::DatasetError;
use crate::report::ReadOptions;
use crate::table::{ENDINGS, Table, is_folder};

mod interactions;
mod items;
mod scale;

pub(crate) use self::interactions::{InteractionColumns, read_interactions};
pub(crate) use self::items::{ItemColumns, VisitorColumns, read_items, read_visitors};
pub use self::scale::RatingScale;

/// Which files there must be and which columns they have; for `--help` and for people.
pub const SCHEMA: &str = "\
Files end in .csv, .tsv or .parquet, the first two also with .gz. In a folder they are called items.*, interactions.* and,
if there is one, visitors.*. Columns may come in any order; `UserId` is `user_id`. Text files have a header line and
are UTF-8 or UTF-16; the separator (comma, semicolon, tab, bar) is found by itself.

  items         item_id     text, 1 to 128 bytes, unique (or: product_id, sku, id)
                title       text (or: name, product_name); more than 512 bytes are cut
                categories  optional: text, parted by | (Parquet: also a list) (or: category, genres)
                (others)    become attributes of the item, for example year; 31 at most, of 512 bytes at most
  interactions  visitor_id  text, 1 to 128 bytes (or: user_id, customer_id, user_pseudo_id, client_id, anonymous_id;
                            of several, the first that is not empty)
                item_id     as in the items file; rows of items that are not listed (any more) are counted, not used
                timestamp   a number since 1970 UTC in s, ms, us or ns, or a date with or without time and zone, such as
                            1998-04-01T12:00:00Z (or: time, at, event_time, event_timestamp, created_at, date);
                            without a zone it is UTC, or what --utc-offset says
                rating      optional: a number, empty where there is none (or: stars, score); the scale is 0 to 5 if the
                            numbers fit it, else 0 to 1, 0 to 10, 0 to 100 or the same with negatives, or --rating-scale
                kind        optional (or: event, event_type, event_name): impression (it was shown), view, click,
                            conversion (also: purchase, order), rating (its number may be in a column `value`),
                            dismissal; other kinds are counted, not used. Without kind: a rating, or else a click
  visitors      visitor_id  text, 1 to 128 bytes, unique
                (others)    become traits of the visitor, for example age, gender, plan

Other names: --column NAME=THEIRS, for example --column timestamp=\"Created at\".

What trains what: the order in which visitors met items (all kinds but impression and dismissal) trains retrieval. The ranker
learns from ratings, liked from 4 stars on; where they tell nothing apart, from impressions: which were clicked, and which were
not; without either from items that visitors met, against others drawn at random. Its card says which.

A row that breaks one of these rules is reported with file, line (Parquet: row) and reason, and skipped; more than
--bad-rows-max of a file's rows, and reading fails.";

/// Where a user's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// What can be recommended.
    pub items: PathBuf,
    /// Who did what, and when.
    pub interactions: PathBuf,
    /// What is known of visitors.
    pub visitors: Option<PathBuf>,
}

impl Files {
    /// Finds `items.*`, `interactions.*` and maybe `visitors.*` in a folder.
    ///
    /// # Errors
    /// Where one is missing, or there in two formats.
    pub fn in_folder(folder: &Path) -> Result<Self, DatasetError> {
        Ok(Self {
            items: Self::needed(folder, "items")?,
            interactions: Self::needed(folder, "interactions")?,
            visitors: Self::found(folder, "visitors")?,
        })
    }

    /// The one file of this name, which must be there.
    pub(crate) fn needed(folder: &Path, name: &str) -> Result<PathBuf, DatasetError> {
        let missing = || DatasetError::Missing {
            path: folder.to_owned(),
            reason: match folder.is_dir() {
                true => {
                    format!("no {name}.csv, {name}.tsv or {name}.parquet there (the first two also with .gz)")
                }
                false => "no such folder".to_owned(),
            },
        };
        Self::found(folder, name)?.ok_or_else(missing)
    }

    /// The one file of this name, if there is one.
    pub(crate) fn found(folder: &Path, name: &str) -> Result<Option<PathBuf>, DatasetError> {
        let paths = ENDINGS.iter().map(|ending| folder.join(format!("{name}.{ending}")));
        let found: Vec<PathBuf> = paths.filter(|path| path.exists()).collect();
        match found.as_slice() {
            [] => Ok(None),
            [one] if one.is_dir() => Err(is_folder(one)),
            [one] => Ok(Some(one.clone())),
            [one, other, ..] => Err(DatasetError::Missing {
                path: folder.to_owned(),
                reason: format!(
                    "both {} and {} are there; remove the one that does not hold, or name one with --{name}",
                    one.display(),
                    other.display()
                ),
            }),
        }
    }
}

/// Reads a user's files.
pub fn read(files: &Files, options: &ReadOptions) -> Result<Dataset, DatasetError> {
    let mut reports = Vec::new();
    let columns = items::COLUMNS;
    let table = Table::open(&files.items, &columns.known(), options)?;
    let items = read_items(table, &columns, options, &mut reports)?;
    let visitors = match &files.visitors {
        Some(path) => {
            let columns = items::VISITOR_COLUMNS;
            read_visitors(Table::open(path, &[columns.id], options)?, &columns, options, &mut reports)?
        }
        None => Numbered::default(),
    };
    let columns = interactions::COLUMNS;
    let table = Table::open(&files.interactions, &columns.known(), options)?;
    let acts = read_interactions(table, &columns, &items, visitors, options, &mut reports)?;
    let name = files.interactions.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    Ok(Dataset::ordered(name, items.list, acts, reports))
}

/// Things in order, and where each id is.
pub(crate) struct Numbered<Id, T> {
    pub(crate) list: Vec<T>,
    at: HashMap<Id, u32>,
}

impl<Id, T> Default for Numbered<Id, T> {
    fn default() -> Self {
        Self { list: Vec::new(), at: HashMap::new() }
    }
}

impl<Id, T> Numbered<Id, T>
where
    Id: std::hash::Hash + Eq + std::fmt::Display + std::borrow::Borrow<str>,
{
    /// Adds a thing, and says where it is.
    fn add(&mut self, key: Id, thing: T, column: &str) -> Result<u32, String> {
        if self.at.contains_key::<str>(key.borrow()) {
            return Err(format!("{column} {key} is there twice"));
        }
        let at = u32::try_from(self.list.len()).expect("items and visitors are bounded far below 2^32");
        self.at.insert(key, at);
        self.list.push(thing);
        Ok(at)
    }

    /// Where an id is. pandas writes whole numbers as `17.0` where some are missing: that finds 17.
    fn place(&self, id: &str) -> Option<u32> {
        let whole = || self.at.get(id.strip_suffix(".0")?);
        self.at.get(id).or_else(whole).copied()
    }
}

/// How often something was done to a file's values, for people.
#[derive(Default)]
struct Tally(Vec<(String, u64)>);

impl Tally {
    /// Once more. `what` goes on from a number: "titles were cut".
    fn add(&mut self, what: &str) {
        match self.0.iter_mut().find(|(known, _)| known == what) {
            Some((_, count)) => *count += 1,
            None => self.0.push((what.to_owned(), 1)),
        }
    }

    fn notes(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|(what, count)| format!("{count} {what}"))
    }
}

/// What pandas, R, Spark and databases write where there is nothing.
fn is_nothing(text: &str) -> bool {
    matches!(text, "" | "NaN" | "nan" | "NULL" | "null" | "None" | "\\N")
}

fn room<T>(list: &[T], max: usize, what: &str) -> Result<(), String> {
    if list.len() < max { Ok(()) } else { Err(format!("more than {max} {what}")) }
}

#[cfg(test)]
mod tests;
