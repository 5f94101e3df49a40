//! The items and the visitors file: what is known of things and people.

use csv::StringRecord;
use proto::bundle::Item;
use proto::event::Attributes;
use proto::ids::{ItemId, UserId};
use proto::limits::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, CATALOG_ITEMS_MAX};

use super::{Numbered, Tally, is_nothing, room};
use crate::Visitor;
use crate::error::DatasetError;
use crate::limits::{CATEGORIES_MAX, FIELD_BYTES_MAX, VISITORS_MAX};
use crate::report::{FileReport, ReadOptions};
use crate::table::{Column, Table, Use};

/// Columns of an items file.
#[derive(Clone, Copy)]
pub(crate) struct ItemColumns {
    pub(crate) id: Column,
    pub(crate) title: Column,
    pub(crate) categories: Column,
    pub(crate) category_separator: char,
    /// Other columns and the attribute each becomes; `None`: all, under their own names.
    pub(crate) attributes: Option<&'static [(&'static str, &'static str)]>,
}

impl ItemColumns {
    pub(super) fn known(&self) -> [Column; 3] {
        [self.id, self.title, self.categories]
    }
}

pub(super) const COLUMNS: ItemColumns = ItemColumns {
    id: Column { name: "item_id", aliases: &["product_id", "sku", "id"] },
    title: Column { name: "title", aliases: &["name", "product_name"] },
    categories: Column { name: "categories", aliases: &["category", "genres"] },
    category_separator: '|',
    attributes: None,
};

/// Columns of a visitors file.
#[derive(Clone, Copy)]
pub(crate) struct VisitorColumns {
    pub(crate) id: Column,
    /// Other columns and the trait each becomes; `None`: all, under their own names.
    pub(crate) traits: Option<&'static [(&'static str, &'static str)]>,
}

pub(super) const VISITOR_COLUMNS: VisitorColumns = VisitorColumns { id: VISITOR, traits: None };

/// Who it is, in every file.
pub(super) const VISITOR: Column = Column {
    name: "visitor_id",
    aliases: &["user_id", "customer_id", "user_pseudo_id", "client_id", "anonymous_id"],
};

pub(crate) fn read_items(
    table: Table,
    columns: &ItemColumns,
    options: &ReadOptions,
    reports: &mut Vec<FileReport>,
) -> Result<Numbered<ItemId, Item>, DatasetError> {
    let (id, title) = (table.required(&columns.id, options)?, table.required(&columns.title, options)?);
    let categories = table.column(&columns.categories, options);
    let taken: Vec<usize> = [id, title].into_iter().chain(categories).collect();
    let extra = Extra::of(&table, columns.attributes, &taken, options)?;
    let mut items = Numbered::default();
    let mut tally = Tally::default();
    let mut report = table.each(|_, row| {
        let key =
            ItemId::new(fitting(row, id, "item_id")?).map_err(|e| format!("{}: {e}", columns.id.name))?;
        room(&items.list, CATALOG_ITEMS_MAX, "items")?;
        let (title, cut) = shortened(fitting(row, title, "title")?);
        let categories = match categories {
            Some(at) => categories_of(fitting(row, at, "categories")?, columns.category_separator)?,
            None => Vec::new(),
        };
        let attributes = extra.attributes(row, &mut tally);
        let item = Item { id: key.clone(), title: title.to_owned(), categories, attributes, image: None };
        items.add(key, item, columns.id.name)?;
        if cut {
            tally.add(&format!("titles were cut, as they have more than {ATTRIBUTE_BYTES_MAX} bytes"));
        }
        Ok(Use::Taken)
    })?;
    report.notes.extend(extra.notes.into_iter().chain(tally.notes()));
    reports.push(report.check(options)?);
    Ok(items)
}

pub(crate) fn read_visitors(
    table: Table,
    columns: &VisitorColumns,
    options: &ReadOptions,
    reports: &mut Vec<FileReport>,
) -> Result<Numbered<UserId, Visitor>, DatasetError> {
    let id = table.required(&columns.id, options)?;
    let extra = Extra::of(&table, columns.traits, &[id], options)?;
    let mut visitors = Numbered::default();
    let mut tally = Tally::default();
    let mut report = table.each(|_, row| {
        let key = UserId::new(row[id].trim()).map_err(|e| format!("{}: {e}", columns.id.name))?;
        room(&visitors.list, VISITORS_MAX, "visitors")?;
        let visitor = Visitor { id: key.clone(), traits: extra.attributes(row, &mut tally) };
        visitors.add(key, visitor, columns.id.name)?;
        Ok(Use::Taken)
    })?;
    report.notes.extend(extra.notes.into_iter().chain(tally.notes()));
    reports.push(report.check(options)?);
    Ok(visitors)
}

/// A field without the space around it. One as long as a page is a quote that was left open, not a title.
fn fitting<'a>(row: &'a StringRecord, at: usize, name: &str) -> Result<&'a str, String> {
    match row[at].len() {
        ..=FIELD_BYTES_MAX => Ok(row[at].trim()),
        len => {
            Err(format!("{name} has {len} bytes, at most {FIELD_BYTES_MAX} are taken; is a quote left open?"))
        }
    }
}

/// At most as long as a catalog takes a title, and whether it was cut.
fn shortened(title: &str) -> (&str, bool) {
    let end = title.floor_char_boundary(ATTRIBUTE_BYTES_MAX);
    (&title[..end], end < title.len())
}

fn categories_of(text: &str, separator: char) -> Result<Vec<String>, String> {
    let parts = text.split(separator).map(str::trim).filter(|category| !is_nothing(category));
    let categories: Vec<String> = parts.map(str::to_owned).collect();
    if categories.len() > CATEGORIES_MAX {
        return Err(format!("{} categories, at most {CATEGORIES_MAX} are taken", categories.len()));
    }
    match categories.iter().find(|category| category.len() > ATTRIBUTE_BYTES_MAX) {
        Some(long) => {
            Err(format!("a category has {} bytes, at most {ATTRIBUTE_BYTES_MAX} are taken", long.len()))
        }
        None => Ok(categories),
    }
}

/// The columns that become attributes or traits.
struct Extra {
    /// Where each is, and the attribute's name.
    columns: Vec<(usize, String)>,
    notes: Vec<String>,
}

impl Extra {
    /// Most of them: a trait may be added to what the file has (the age band), so one place is kept free.
    const MAX: usize = ATTRIBUTES_MAX - 1;

    fn of(
        table: &Table,
        named: Option<&'static [(&'static str, &'static str)]>,
        taken: &[usize],
        options: &ReadOptions,
    ) -> Result<Self, DatasetError> {
        let mut columns = match named {
            Some(named) => named
                .iter()
                .map(|(theirs, name)| {
                    Ok((table.required(&Column::only(theirs), options)?, (*name).to_owned()))
                })
                .collect::<Result<Vec<_>, DatasetError>>()?,
            None => {
                let others = table.columns().iter().enumerate().filter(|(at, _)| !taken.contains(at));
                others.filter(|(_, name)| is_attribute(name)).map(|(at, name)| (at, name.clone())).collect()
            }
        };
        let beyond = columns.split_off(columns.len().min(Self::MAX));
        let mut notes = Vec::new();
        let unreadable = table.unreadable();
        if !unreadable.is_empty() {
            notes.push(format!("columns that are not used: {}", unreadable.join(", ")));
        }
        if !beyond.is_empty() {
            let names: Vec<String> = beyond.into_iter().map(|(_, name)| name).collect();
            let max = Self::MAX;
            notes.push(format!("columns that are not used, as {max} come before: {}", names.join(", ")));
        }
        Ok(Self { columns, notes })
    }

    /// What a row says of an item or a visitor. Values that are too long (descriptions) are left out.
    fn attributes(&self, row: &StringRecord, tally: &mut Tally) -> Attributes {
        let mut attributes = Vec::with_capacity(self.columns.len());
        for (at, name) in &self.columns {
            let value = row[*at].trim();
            if value.len() > ATTRIBUTE_BYTES_MAX {
                tally.add(&format!(
                    "values of {name} were left out, as they have more than {ATTRIBUTE_BYTES_MAX} bytes"
                ));
            } else if !is_nothing(value) {
                attributes.push((name.clone(), value.to_owned()));
            }
        }
        attributes
    }
}

/// Row numbers that pandas and R have written are none.
fn is_attribute(name: &str) -> bool {
    let index = name.is_empty() || name.starts_with("Unnamed: ") || name.starts_with("__index_level_");
    !index && name.len() <= ATTRIBUTE_BYTES_MAX
}
