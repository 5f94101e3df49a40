//! A user's own data: CSV, TSV or Parquet files of items, interactions and maybe visitors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use csv::StringRecord;
use proto::bundle::Item;
use proto::event::Attributes;
use proto::ids::{ItemId, UserId};
use proto::limits::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, CATALOG_ITEMS_MAX};

use crate::error::DatasetError;
use crate::limits::{CATEGORIES_MAX, VISITORS_MAX};
use crate::report::{FileReport, ReadOptions};
use crate::table::Table;
use crate::time::parse_ms;
use crate::{Dataset, Interaction, Visitor};

/// Which files there must be and which columns they have; for `--help` and for people.
pub const SCHEMA: &str = "\
Files end in .csv, .tsv or .parquet; text files have a header line. In a folder they are called items.*,
interactions.* and, if there is one, visitors.*. Columns may come in any order.

  items         item_id     text, 1 to 128 bytes, unique
                title       text
                categories  text, parted by | (Parquet: also a list of text); may be empty
                (others)    become attributes of the item, for example year
  interactions  visitor_id  text, 1 to 128 bytes
                item_id     must be in the items file
                timestamp   seconds or milliseconds since 1970 UTC, or RFC 3339 (1998-04-01T12:00:00Z)
                rating      optional: 0 to 5, empty where there is none
  visitors      visitor_id  text, 1 to 128 bytes, unique
                (others)    become traits of the visitor, for example age, gender, plan

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
    pub fn in_folder(folder: &Path) -> Result<Self, DatasetError> {
        let find = |name: &str| {
            ["csv", "tsv", "parquet"]
                .iter()
                .map(|ending| folder.join(format!("{name}.{ending}")))
                .find(|path| path.is_file())
        };
        let need = |name: &str| {
            find(name).ok_or_else(|| DatasetError::Missing {
                path: folder.to_owned(),
                reason: format!("no {name}.csv, {name}.tsv or {name}.parquet there"),
            })
        };
        Ok(Self { items: need("items")?, interactions: need("interactions")?, visitors: find("visitors") })
    }
}

/// Reads a user's files.
pub fn read(files: &Files, options: &ReadOptions) -> Result<Dataset, DatasetError> {
    let mut reports = Vec::new();
    let items = read_items(Table::open(&files.items)?, &ITEM_COLUMNS, options, &mut reports)?;
    let visitors = match &files.visitors {
        Some(path) => read_visitors(Table::open(path)?, &VISITOR_COLUMNS, options, &mut reports)?,
        None => Numbered::default(),
    };
    let table = Table::open(&files.interactions)?;
    let (visitors, interactions) =
        read_interactions(table, &INTERACTION_COLUMNS, &items, visitors, options, &mut reports)?;
    let name = files.interactions.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    Ok(Dataset::ordered(name, items.list, visitors, interactions, reports))
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

/// Columns of an items file.
pub(crate) struct ItemColumns {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) categories: &'static str,
    pub(crate) category_separator: char,
    /// Other columns and the attribute each becomes; `None`: all, under their own names.
    pub(crate) attributes: Option<&'static [(&'static str, &'static str)]>,
}

const ITEM_COLUMNS: ItemColumns = ItemColumns {
    id: "item_id",
    title: "title",
    categories: "categories",
    category_separator: '|',
    attributes: None,
};

/// Columns of a visitors file.
pub(crate) struct VisitorColumns {
    pub(crate) id: &'static str,
    /// Other columns and the trait each becomes; `None`: all, under their own names.
    pub(crate) traits: Option<&'static [(&'static str, &'static str)]>,
}

const VISITOR_COLUMNS: VisitorColumns = VisitorColumns { id: "visitor_id", traits: None };

/// Columns of an interactions file.
pub(crate) struct InteractionColumns {
    pub(crate) visitor: &'static str,
    pub(crate) item: &'static str,
    pub(crate) timestamp: &'static str,
    pub(crate) rating: &'static str,
}

const INTERACTION_COLUMNS: InteractionColumns =
    InteractionColumns { visitor: "visitor_id", item: "item_id", timestamp: "timestamp", rating: "rating" };

pub(crate) fn read_items(
    table: Table,
    columns: &ItemColumns,
    options: &ReadOptions,
    reports: &mut Vec<FileReport>,
) -> Result<Numbered<ItemId, Item>, DatasetError> {
    let (id, title) = (table.required(columns.id)?, table.required(columns.title)?);
    let categories = table.required(columns.categories)?;
    let extra = extra_columns(&table, columns.attributes, &[id, title, categories])?;
    let mut items = Numbered::default();
    let report = table.each(options, |row| {
        let key = ItemId::new(&row[id]).map_err(|e| format!("{}: {e}", columns.id))?;
        room(&items.list, CATALOG_ITEMS_MAX, "items")?;
        let categories: Vec<String> = row[categories]
            .split(columns.category_separator)
            .map(str::trim)
            .filter(|category| !category.is_empty())
            .map(str::to_owned)
            .collect();
        if categories.len() > CATEGORIES_MAX {
            return Err(format!("{} categories, at most {CATEGORIES_MAX} are taken", categories.len()));
        }
        let item = Item {
            id: key.clone(),
            title: row[title].to_owned(),
            categories,
            attributes: attributes(row, &extra)?,
            image: None,
        };
        add(&mut items, key, item, columns.id)
    })?;
    reports.push(report);
    Ok(items)
}

pub(crate) fn read_visitors(
    table: Table,
    columns: &VisitorColumns,
    options: &ReadOptions,
    reports: &mut Vec<FileReport>,
) -> Result<Numbered<UserId, Visitor>, DatasetError> {
    let id = table.required(columns.id)?;
    let extra = extra_columns(&table, columns.traits, &[id])?;
    let mut visitors = Numbered::default();
    let report = table.each(options, |row| {
        let key = UserId::new(&row[id]).map_err(|e| format!("{}: {e}", columns.id))?;
        room(&visitors.list, VISITORS_MAX, "visitors")?;
        let visitor = Visitor { id: key.clone(), traits: attributes(row, &extra)? };
        add(&mut visitors, key, visitor, columns.id)
    })?;
    reports.push(report);
    Ok(visitors)
}

pub(crate) fn read_interactions(
    table: Table,
    columns: &InteractionColumns,
    items: &Numbered<ItemId, Item>,
    mut visitors: Numbered<UserId, Visitor>,
    options: &ReadOptions,
    reports: &mut Vec<FileReport>,
) -> Result<(Vec<Visitor>, Vec<Interaction>), DatasetError> {
    let (visitor, item) = (table.required(columns.visitor)?, table.required(columns.item)?);
    let (timestamp, rating) = (table.required(columns.timestamp)?, table.column(columns.rating));
    let mut interactions = Vec::new();
    let report = table.each(options, |row| {
        let item = *items
            .at
            .get(&row[item])
            .ok_or_else(|| format!("{} {:?} is not in the items file", columns.item, &row[item]))?;
        let at_ms = parse_ms(&row[timestamp])?;
        let stars = rating.map_or(Ok(None), |at| stars(&row[at]))?;
        let visitor = match visitors.at.get(&row[visitor]) {
            Some(&known) => known,
            None => {
                let key = UserId::new(&row[visitor]).map_err(|e| format!("{}: {e}", columns.visitor))?;
                room(&visitors.list, VISITORS_MAX, "visitors")?;
                let new = Visitor { id: key.clone(), traits: Vec::new() };
                add(&mut visitors, key, new, columns.visitor)?;
                index(visitors.list.len() - 1)
            }
        };
        interactions.push(Interaction { visitor, item, stars, at_ms });
        Ok(())
    })?;
    reports.push(report);
    Ok((visitors.list, interactions))
}

fn stars(text: &str) -> Result<Option<f32>, String> {
    match text.trim() {
        "" => Ok(None),
        text => match text.parse::<f32>() {
            Ok(stars) if (0.0..=5.0).contains(&stars) => Ok(Some(stars)),
            _ => Err(format!("rating {text:?} is not a number from 0 to 5")),
        },
    }
}

/// Positions and names of the columns that become attributes.
fn extra_columns(
    table: &Table,
    named: Option<&[(&str, &str)]>,
    taken: &[usize],
) -> Result<Vec<(usize, String)>, DatasetError> {
    let all = || table.columns().iter().enumerate().filter(|(at, _)| !taken.contains(at));
    let extra: Vec<(usize, String)> = match named {
        Some(named) => named
            .iter()
            .map(|(column, name)| Ok((table.required(column)?, (*name).to_owned())))
            .collect::<Result<_, DatasetError>>()?,
        None => all().map(|(at, name)| (at, name.clone())).collect(),
    };
    // A trait may be added to what the file has (the age band), so one place is kept free.
    if extra.len() >= ATTRIBUTES_MAX {
        return table.too_many_attributes(extra.len());
    }
    Ok(extra)
}

fn attributes(row: &StringRecord, extra: &[(usize, String)]) -> Result<Attributes, String> {
    let mut attributes = Vec::with_capacity(extra.len());
    for (at, name) in extra {
        match row[*at].trim() {
            "" => {}
            value if value.len() > ATTRIBUTE_BYTES_MAX => {
                return Err(format!("{name} has more than {ATTRIBUTE_BYTES_MAX} bytes"));
            }
            value => attributes.push((name.clone(), value.to_owned())),
        }
    }
    Ok(attributes)
}

fn room<T>(list: &[T], max: usize, what: &str) -> Result<(), String> {
    if list.len() < max { Ok(()) } else { Err(format!("more than {max} {what}")) }
}

fn add<Id, T>(numbered: &mut Numbered<Id, T>, key: Id, thing: T, column: &str) -> Result<(), String>
where
    Id: std::hash::Hash + Eq + std::fmt::Display,
{
    if numbered.at.contains_key(&key) {
        return Err(format!("{column} {key} is there twice"));
    }
    numbered.at.insert(key, index(numbered.list.len()));
    numbered.list.push(thing);
    Ok(())
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("items and visitors are bounded far below 2^32")
}

#[cfg(test)]
mod tests;
