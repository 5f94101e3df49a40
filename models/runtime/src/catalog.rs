//! The catalog of a bundle with an index by id. Items are spoken of by their place in it (`u32`) wherever speed matters.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use proto::ItemId;
use proto::bundle::{Catalog, Item};
use proto::event::check_attributes;
use proto::limits::{ATTRIBUTE_BYTES_MAX, CATALOG_ITEMS_MAX};

/// Most categories of one item.
pub const CATEGORIES_MAX: usize = 64;
/// Longest URL of a picture or a piece of content, in bytes.
pub const URL_BYTES_MAX: usize = 2048;

/// All items, by place and by id.
#[derive(Debug, Clone, Default)]
pub struct IndexedCatalog {
    items: Vec<Item>,
    content: Vec<String>,
    /// Every request looks up hundreds. Its keys come from a signed catalog, so nobody outside can make them collide.
    by_id: HashMap<ItemId, u32, RandomState>,
}

impl IndexedCatalog {
    /// Checks limits and the uniqueness of ids. The error says what was wrong, for a person.
    pub fn new(catalog: Catalog) -> Result<Self, String> {
        let Catalog { items, content } = catalog;
        if items.len() > CATALOG_ITEMS_MAX {
            return Err(format!("{} items, at most {CATALOG_ITEMS_MAX} are allowed", items.len()));
        }
        if content.len() > CATALOG_ITEMS_MAX {
            return Err(format!(
                "{} pieces of content, at most {CATALOG_ITEMS_MAX} are allowed",
                content.len()
            ));
        }
        if let Some(long) = content.iter().find(|url| url.len() > URL_BYTES_MAX) {
            return Err(format!(
                "content: {:.40}… has {} bytes, at most {URL_BYTES_MAX} are allowed",
                long,
                long.len()
            ));
        }
        let mut by_id = HashMap::with_capacity_and_hasher(items.len(), RandomState::default());
        for (place, item) in (0u32..).zip(&items) {
            check_item(item)?;
            if by_id.insert(item.id.clone(), place).is_some() {
                return Err(format!("item `{}` is there twice", item.id));
            }
        }
        Ok(Self { items, content, by_id })
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All items, by place.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// What nodes fetch into their cache with the bundle: pictures first.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.items
            .iter()
            .filter_map(|item| item.image.as_deref())
            .chain(self.content.iter().map(String::as_str))
    }

    /// The item at a place.
    pub fn item(&self, place: u32) -> Option<&Item> {
        self.items.get(place as usize)
    }

    /// The place of an item.
    pub fn place(&self, id: &str) -> Option<u32> {
        self.by_id.get(id).copied()
    }
}

fn check_item(item: &Item) -> Result<(), String> {
    if item.title.len() > ATTRIBUTE_BYTES_MAX {
        return Err(format!("item `{}`: a title has at most {ATTRIBUTE_BYTES_MAX} bytes", item.id));
    }
    if item.categories.len() > CATEGORIES_MAX {
        return Err(format!("item `{}`: at most {CATEGORIES_MAX} categories", item.id));
    }
    if item.categories.iter().any(|name| name.is_empty() || name.len() > ATTRIBUTE_BYTES_MAX) {
        return Err(format!("item `{}`: a category has 1 to {ATTRIBUTE_BYTES_MAX} bytes", item.id));
    }
    if item.image.as_ref().is_some_and(|url| url.len() > URL_BYTES_MAX) {
        return Err(format!("item `{}`: an image's URL has at most {URL_BYTES_MAX} bytes", item.id));
    }
    check_attributes(&item.attributes).map_err(|error| format!("item `{}`: {}", item.id, error.message))
}
