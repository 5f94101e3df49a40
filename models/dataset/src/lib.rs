//! Data sets: items, visitors and what visitors did with items, read from MovieLens-100K or from a user's own files.
//!
//! | module | what |
//! |---|---|
//! | [`ml100k`] | MovieLens-100K as RecBole's atomic files, checked by SHA-256 |
//! | [`files`] | a user's own CSV or Parquet files; [`files::SCHEMA`] says which columns |
//! | [`arguments`] | the options of the commands that read data, one definition for all |
//! | [`popularity`] | the rules that need no model: what is popular overall and by segment |
//! | [`convert`] | writes CSV as Parquet |
//! | [`report`] | which rows were skipped, and why |
//!
//! A [`Dataset`] is always in one order: interactions by time, and where times are equal by their order in the file, so
//! that two runs over the same files see the same "last" item of every visitor.

use std::path::Path;

use proto::bundle::{Catalog, Item};
use proto::event::Attributes;
use proto::ids::UserId;

pub mod arguments;
pub mod convert;
pub mod error;
pub mod files;
pub mod limits;
pub mod ml100k;
pub mod popularity;
pub mod report;
mod table;
mod time;

pub use arguments::Source;
pub use error::DatasetError;
pub use files::RatingScale;
pub use report::{BadRow, FileReport, ReadOptions};
pub use time::UtcOffset;

/// The name that stands for MovieLens-100K wherever a data set is asked for.
pub const ML_100K: &str = "ml-100k";

/// Items, visitors and interactions, checked and in order.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// For people and model cards, for example `ml-100k`.
    pub name: String,
    /// In the order of the file; at most [`proto::limits::CATALOG_ITEMS_MAX`]; ids are unique.
    pub items: Vec<Item>,
    /// In the order of the visitors' file, then of their first interaction; ids are unique.
    pub visitors: Vec<Visitor>,
    /// By time; where times are equal, in the order of the file.
    pub interactions: Vec<Interaction>,
    /// What visitors were shown, in the same order; empty if the files do not say.
    pub shown: Vec<Shown>,
    /// What was read, and which rows were skipped.
    pub reports: Vec<FileReport>,
}

/// Somebody who interacted with items.
#[derive(Debug, Clone, PartialEq)]
pub struct Visitor {
    /// Its id.
    pub id: UserId,
    /// What is known of them, as `identify` events would set it.
    pub traits: Attributes,
}

/// What a visitor did with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Looked at it.
    View,
    /// Chose it.
    Click,
    /// Bought it, or whatever else it is offered for.
    Conversion,
    /// Judged it.
    Rating,
}

/// One visitor met one item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interaction {
    /// Index into [`Dataset::visitors`].
    pub visitor: u32,
    /// Index into [`Dataset::items`].
    pub item: u32,
    /// How.
    pub act: Act,
    /// The visitor's judgement from 0 to 5, if there is one.
    pub stars: Option<f32>,
    /// When, in milliseconds since 1970 UTC.
    pub at_ms: u64,
}

/// One visitor was shown one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Index into [`Dataset::visitors`].
    pub visitor: u32,
    /// Index into [`Dataset::items`].
    pub item: u32,
    /// When, in milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// The visitor has sent it away.
    pub dismissed: bool,
}

/// Who did what, in the order of the file. Indices are in range: the readers see to that.
pub(crate) struct Acts {
    pub(crate) visitors: Vec<Visitor>,
    pub(crate) interactions: Vec<Interaction>,
    pub(crate) shown: Vec<Shown>,
}

impl Dataset {
    /// Puts the parts in order.
    pub(crate) fn ordered(name: String, items: Vec<Item>, acts: Acts, reports: Vec<FileReport>) -> Self {
        let Acts { visitors, mut interactions, mut shown } = acts;
        interactions.sort_by_key(|interaction| interaction.at_ms); // stable: equal times keep the file's order
        shown.sort_by_key(|shown| shown.at_ms);
        Self { name, items, visitors, interactions, shown, reports }
    }

    /// All items, as a bundle carries them.
    pub fn catalog(&self) -> Catalog {
        Catalog { items: self.items.clone(), ..Catalog::default() }
    }

    /// Positions in [`Dataset::interactions`] of every visitor's interactions, oldest first.
    pub fn by_visitor(&self) -> Vec<Vec<u32>> {
        let mut rows = vec![Vec::new(); self.visitors.len()];
        for (at, interaction) in (0_u32..).zip(&self.interactions) {
            rows[interaction.visitor as usize].push(at);
        }
        rows
    }

    /// How often each item was interacted with.
    pub fn item_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.items.len()];
        for interaction in &self.interactions {
            counts[interaction.item as usize] += 1;
        }
        counts
    }
}

/// Reads a data set by name: `ml-100k` (from [`ml100k::folder`]), or a folder with `items`, `interactions` and maybe
/// `visitors` files ([`files::SCHEMA`]).
pub fn open(data: &str, options: &ReadOptions) -> Result<Dataset, DatasetError> {
    if data == ML_100K {
        ml100k::read(&ml100k::folder()?, options)
    } else {
        files::read(&files::Files::in_folder(Path::new(data))?, options)
    }
}
