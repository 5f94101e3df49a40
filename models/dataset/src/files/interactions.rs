//! The interactions file: who did what with which item, and when.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use csv::StringRecord;
use proto::bundle::Item;
use proto::ids::{ItemId, UserId};

use super::items::VISITOR;
use super::scale::{self, Ratings, Verdict};
use super::{Numbered, is_nothing, room};
use crate::error::DatasetError;
use crate::limits::{BAD_ROWS_KEPT_MAX, KINDS_KEPT_MAX, UNLISTED_SHARE_MAX, VISITORS_MAX};
use crate::report::{BadRow, FileReport, ReadOptions, share};
use crate::table::{Column, Table, Use};
use crate::{Act, Acts, Interaction, Shown, Visitor, time};

/// Columns of an interactions file.
#[derive(Clone, Copy)]
pub(crate) struct InteractionColumns {
    pub(crate) visitor: Column,
    pub(crate) item: Column,
    pub(crate) timestamp: Column,
    pub(crate) rating: Column,
    pub(crate) kind: Column,
    /// A rating's number where there is no rating column, in rows of the kind rating.
    pub(crate) value: Column,
}

impl InteractionColumns {
    pub(super) fn known(&self) -> [Column; 6] {
        [self.visitor, self.item, self.timestamp, self.rating, self.kind, self.value]
    }
}

pub(super) const COLUMNS: InteractionColumns = InteractionColumns {
    visitor: VISITOR,
    item: Column { name: "item_id", aliases: &["product_id", "sku"] },
    timestamp: Column {
        name: "timestamp",
        aliases: &["time", "at", "event_time", "event_timestamp", "created_at", "date"],
    },
    rating: Column { name: "rating", aliases: &["stars", "score"] },
    kind: Column { name: "kind", aliases: &["event", "event_type", "event_name"] },
    value: Column::only("value"),
};

/// What kind of event a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The file does not say.
    Unsaid,
    Act(Act),
    Impression,
    Dismissal,
    Other,
}

impl Kind {
    /// The words of this project, of Segment's and GA4's schemas, and of public data sets.
    fn of(word: &str) -> Self {
        let word = word.trim().to_lowercase().replace([' ', '-'], "_");
        match word.as_str() {
            "" => Self::Unsaid,
            "impression" | "shown" | "view_item_list" | "product_list_viewed" | "exposure" => {
                Self::Impression
            }
            "view" | "pv" | "page_view" | "view_item" | "product_viewed" | "visit" => Self::Act(Act::View),
            "click" | "select_item" | "product_clicked" | "open" | "play" | "like" | "fav" | "favorite"
            | "cart" | "add_to_cart" | "addtocart" | "product_added" | "wishlist" | "add_to_wishlist" => {
                Self::Act(Act::Click)
            }
            "conversion" | "purchase" | "buy" | "order" | "sale" | "transaction" | "order_completed" => {
                Self::Act(Act::Conversion)
            }
            "rating" | "rate" | "review" | "product_reviewed" => Self::Act(Act::Rating),
            "dismissal" | "dismiss" | "dismissed" | "dislike" | "hide" | "not_interested" => Self::Dismissal,
            _ => Self::Other,
        }
    }
}

/// Where the columns are.
struct Places {
    /// The first that is not empty counts.
    visitor: Vec<usize>,
    item: usize,
    timestamp: usize,
    rating: Option<usize>,
    kind: Option<usize>,
    value: Option<usize>,
}

/// What is gathered while the rows go by.
struct Reader<'a> {
    columns: &'a InteractionColumns,
    at: Places,
    options: &'a ReadOptions,
    items: &'a Numbered<ItemId, Item>,
    visitors: Numbered<UserId, Visitor>,
    interactions: Vec<Interaction>,
    shown: Vec<Shown>,
    ratings: Ratings,
    kinds: Kinds,
    unlisted: Unlisted,
    zoneless: u64,
}

/// Rows of items that are not listed.
#[derive(Default)]
struct Unlisted {
    count: u64,
    /// Where some were found first.
    examples: Vec<(u64, String)>,
}

impl Unlisted {
    fn add(&mut self, at: u64, id: &str) {
        const EXAMPLES: usize = 3;
        self.count += 1;
        if self.examples.len() < EXAMPLES && !self.examples.iter().any(|(_, known)| known == id) {
            self.examples.push((at, id.to_owned()));
        }
    }
}

/// Rows of kinds that are not used.
#[derive(Default)]
struct Kinds {
    counts: BTreeMap<String, u64>,
    /// Of all the kinds that there was no room for.
    others: u64,
}

impl Kinds {
    fn add(&mut self, kind: &str) {
        let kind = kind.trim();
        if let Some(count) = self.counts.get_mut(kind) {
            *count += 1;
        } else if self.counts.len() < KINDS_KEPT_MAX {
            self.counts.insert(kind.to_owned(), 1);
        } else {
            self.others += 1;
        }
    }

    fn note(&self) -> Option<String> {
        let others = (self.others > 0).then(|| format!("others ({})", self.others));
        let named = self.counts.iter().map(|(kind, count)| format!("{kind:.40} ({count})"));
        let kinds: Vec<String> = named.chain(others).collect();
        (!kinds.is_empty()).then(|| format!("rows of other kinds, which are not used: {}", kinds.join(", ")))
    }
}

pub(crate) fn read_interactions(
    table: Table,
    columns: &InteractionColumns,
    items: &Numbered<ItemId, Item>,
    visitors: Numbered<UserId, Visitor>,
    options: &ReadOptions,
    reports: &mut Vec<FileReport>,
) -> Result<Acts, DatasetError> {
    let at = Places {
        visitor: table.required_or_others(&columns.visitor, options)?,
        item: table.required(&columns.item, options)?,
        timestamp: table.required(&columns.timestamp, options)?,
        rating: table.column(&columns.rating, options),
        kind: table.column(&columns.kind, options),
        value: table.column(&columns.value, options),
    };
    let mut reader = Reader {
        columns,
        at,
        options,
        items,
        visitors,
        interactions: Vec::new(),
        shown: Vec::new(),
        ratings: Ratings::new(options.rating_scale),
        kinds: Kinds::default(),
        unlisted: Unlisted::default(),
        zoneless: 0,
    };
    let mut report = table.each(|at, row| reader.row(at, row))?;
    reader.settle_ratings(&mut report)?;
    reader.check_listed(&report)?;
    reader.note(&mut report);
    reports.push(report.check(options)?);
    Ok(Acts { visitors: reader.visitors.list, interactions: reader.interactions, shown: reader.shown })
}

impl Reader<'_> {
    fn row(&mut self, at: u64, row: &StringRecord) -> Result<Use, String> {
        let kind = self.at.kind.map_or(Kind::Unsaid, |at| Kind::of(&row[at]));
        if let (Kind::Other, Some(at)) = (kind, self.at.kind) {
            self.kinds.add(&row[at]);
            return Ok(Use::Unused);
        }
        let id = row[self.at.item].trim();
        if id.is_empty() {
            return Err(format!("{} is empty", self.columns.item.name));
        }
        let Some(item) = self.items.place(id) else {
            self.unlisted.add(at, id);
            return Ok(Use::Unused);
        };
        let moment = time::parse(&row[self.at.timestamp], self.options.utc_offset)?;
        let rating = self.rating(at, kind, row)?;
        let mut ids = self.at.visitor.iter().map(|&at| row[at].trim());
        let id = ids.find(|id| !is_nothing(id)).unwrap_or_default();
        let visitor = self.visitor(id)?;
        self.zoneless += u64::from(moment.zoneless);
        let (at_ms, stars) = (moment.ms, rating);
        let act = match kind {
            Kind::Act(act) => act,
            Kind::Unsaid if rating.is_some() => Act::Rating,
            Kind::Unsaid => Act::Click,
            Kind::Impression | Kind::Dismissal | Kind::Other => {
                self.shown.push(Shown { visitor, item, at_ms, dismissed: kind == Kind::Dismissal });
                return Ok(Use::Taken);
            }
        };
        self.interactions.push(Interaction { visitor, item, act, stars, at_ms });
        Ok(Use::Taken)
    }

    fn rating(&mut self, at: u64, kind: Kind, row: &StringRecord) -> Result<Option<f32>, String> {
        let judged = kind == Kind::Act(Act::Rating);
        let column = match (self.at.rating, self.at.value) {
            (Some(rating), _) => Some(rating),
            (None, Some(value)) if judged => Some(value),
            (None, _) => None,
        };
        let rating = match (column, kind) {
            (_, Kind::Impression | Kind::Dismissal) | (None, _) => None,
            (Some(column), _) => self.ratings.read(at, &row[column])?,
        };
        if judged && rating.is_none() {
            return Err("a row of the kind rating has no number in rating or value".to_owned());
        }
        Ok(rating)
    }

    fn visitor(&mut self, id: &str) -> Result<u32, String> {
        if let Some(known) = self.visitors.place(id) {
            return Ok(known);
        }
        let name = self.columns.visitor.name;
        let key = UserId::new(id).map_err(|e| format!("{name}: {e}"))?;
        room(&self.visitors.list, VISITORS_MAX, "visitors")?;
        self.visitors.add(key.clone(), Visitor { id: key, traits: Vec::new() }, name)
    }

    /// Makes stars of ratings, now that all are known; those outside of the scale are bad rows after all.
    fn settle_ratings(&mut self, report: &mut FileReport) -> Result<(), DatasetError> {
        let verdict = self.ratings.verdict(report.rows, self.options.bad_rows_max);
        match &verdict {
            Verdict::Scale(scale, outside) => {
                report.notes.extend(self.ratings.note(*scale));
                let reason = |rating: f32| scale::outside(rating, *scale);
                let bad = outside.iter().map(|(at, rating)| BadRow { at: *at, reason: reason(*rating) });
                report.examples.extend(bad);
                report.examples.sort_by_key(|row| row.at);
                report.examples.truncate(BAD_ROWS_KEPT_MAX);
            }
            Verdict::Constant(rating) => report
                .notes
                .push(format!("every rating is {rating}: they tell nothing apart, and are read as clicks")),
            Verdict::None => {
                let (low, high) = self.ratings.range();
                let reason =
                    format!("ratings go from {low} to {high}; say their scale with --rating-scale LOW..HIGH");
                return Err(DatasetError::Columns { path: report.path.clone(), reason });
            }
        }
        let before = self.interactions.len();
        self.interactions.retain_mut(|interaction| {
            let Some(rating) = interaction.stars else { return true };
            let stars = verdict.stars(rating);
            interaction.stars = stars.unwrap_or_default();
            if interaction.stars.is_none() && interaction.act == Act::Rating {
                interaction.act = Act::Click;
            }
            stars.is_ok()
        });
        report.bad += (before - self.interactions.len()) as u64;
        Ok(())
    }

    fn check_listed(&self, report: &FileReport) -> Result<(), DatasetError> {
        let Unlisted { count, examples } = &self.unlisted;
        let rows = count + (self.interactions.len() + self.shown.len()) as u64;
        if *count == 0 || share(*count, rows) <= UNLISTED_SHARE_MAX {
            return Ok(());
        }
        let listed: Vec<&str> = self.items.list.iter().take(3).map(|item| item.id.as_str()).collect();
        let found: Vec<&str> = examples.iter().map(|(_, id)| id.as_str()).collect();
        let examples = format!("{found:?} (the items file has {listed:?})");
        Err(DatasetError::Unlisted { path: report.path.clone(), unlisted: *count, rows, examples })
    }

    fn note(&self, report: &mut FileReport) {
        let Unlisted { count, examples } = &self.unlisted;
        if *count > 0 {
            report
                .notes
                .push(format!("{count} rows are of items that are not listed (any more), and are not used:"));
            for (at, id) in examples {
                let reason = format!("{} {id:?} is not in the items file", self.columns.item.name);
                report.notes.push(format!("  {}", report.describe(&BadRow { at: *at, reason })));
            }
        }
        report.notes.extend(self.kinds.note());
        if self.zoneless > 0 {
            let (count, offset) = (self.zoneless, self.options.utc_offset);
            report
                .notes
                .push(format!("{count} times have no zone, and were read as {offset} (--utc-offset)"));
        }
        let times = self.interactions.iter().map(|i| i.at_ms).chain(self.shown.iter().map(|s| s.at_ms));
        report.notes.extend(strange_time(times.max()));
    }
}

/// 1990-01-01 UTC.
const EARLY_MS: u64 = 631_152_000_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What speaks against the latest time of a file.
fn strange_time(latest_ms: Option<u64>) -> Option<String> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis();
    match latest_ms? {
        ..EARLY_MS => {
            Some("all times are before 1990: is the timestamp column what it should be?".to_owned())
        }
        late if u128::from(late) > now_ms + u128::from(DAY_MS) => {
            Some("times go beyond today: is the timestamp column what it should be?".to_owned())
        }
        _ => None,
    }
}
