//! What a PoP knows of a visitor. Stored by the store, read by serving, so it is said here.

use serde::{Deserialize, Serialize};

use crate::event::{Attributes, Event, EventKind};
use crate::ids::{ItemId, VisitorId};
use crate::limits::{ATTRIBUTES_MAX, PROFILE_RING_LEN, PROFILE_SEEN_LEN};

/// How a visitor met an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// Chose it.
    Click,
    /// Did what it is offered for.
    Conversion,
    /// Judged it.
    Rating,
}

/// One entry of the ring of recent interactions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interaction {
    /// With what.
    pub item: ItemId,
    /// How.
    pub signal: Signal,
    /// Stars from 0 to 5 for a rating; else 0.
    pub stars: f32,
    /// When, in milliseconds since 1970 UTC, by the client's clock.
    pub at_ms: u64,
}

/// How often an item was put before a visitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Which item.
    pub item: ItemId,
    /// Answers that offered it.
    pub served: u16,
    /// Impressions that the client confirmed.
    pub seen: u16,
}

/// What a PoP knows of a visitor. Both lists are rings: bounded, the oldest falls off first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Profile {
    /// The latest interactions, oldest first, at most [`PROFILE_RING_LEN`].
    pub interactions: Vec<Interaction>,
    /// Items offered or seen, least recently touched first, at most [`PROFILE_SEEN_LEN`].
    pub seen: Vec<Seen>,
    /// Traits set by `identify` events: age, gender, plan …; at most [`ATTRIBUTES_MAX`].
    pub traits: Attributes,
    /// Events counted for this visitor.
    pub events: u64,
    /// Grows with every change of [`Profile::interactions`] or [`Profile::traits`]: equal numbers mean equal input to
    /// the models.
    pub version: u64,
}

impl Profile {
    /// Takes in one event. Pure: the same events in the same order give the same profile on every replica.
    pub fn record(&mut self, event: &Event) {
        self.events += 1;
        match &event.kind {
            EventKind::Impression { item, .. } => self.touch(item, 0, 1),
            EventKind::Click { item, .. } => self.interact(item, Signal::Click, 0.0, event.at_ms),
            EventKind::Conversion { item, .. } => self.interact(item, Signal::Conversion, 0.0, event.at_ms),
            EventKind::Rating { item, stars } => self.interact(item, Signal::Rating, *stars, event.at_ms),
            EventKind::Custom { name, attributes } if name == "identify" => self.identify(attributes),
            EventKind::Custom { .. } => {}
        }
    }

    /// Notes that an answer offered `items`.
    pub fn serve(&mut self, items: &[ItemId]) {
        for item in items {
            self.touch(item, 1, 0);
        }
    }

    /// How often `item` was put before the visitor.
    pub fn seen(&self, item: &str) -> Option<&Seen> {
        self.seen.iter().find(|seen| seen.item.as_str() == item)
    }

    fn interact(&mut self, item: &ItemId, signal: Signal, stars: f32, at_ms: u64) {
        self.version += 1;
        push_bounded(
            &mut self.interactions,
            Interaction { item: item.clone(), signal, stars, at_ms },
            PROFILE_RING_LEN,
        );
    }

    fn identify(&mut self, attributes: &Attributes) {
        self.version += 1;
        for (name, value) in attributes {
            match self.traits.iter().position(|(known, _)| known == name) {
                Some(at) => self.traits[at].1.clone_from(value),
                None if self.traits.len() < ATTRIBUTES_MAX => self.traits.push((name.clone(), value.clone())),
                None => {}
            }
        }
    }

    fn touch(&mut self, item: &ItemId, served: u16, seen: u16) {
        let mut entry = match self.seen.iter().position(|entry| entry.item == *item) {
            Some(at) => self.seen.remove(at),
            None => Seen { item: item.clone(), served: 0, seen: 0 },
        };
        entry.served = entry.served.saturating_add(served);
        entry.seen = entry.seen.saturating_add(seen);
        push_bounded(&mut self.seen, entry, PROFILE_SEEN_LEN);
    }
}

fn push_bounded<T>(ring: &mut Vec<T>, entry: T, len_max: usize) {
    if ring.len() >= len_max {
        ring.drain(..=ring.len() - len_max);
    }
    ring.push(entry);
}

/// A visitor's profile as one node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Whose.
    pub visitor: VisitorId,
    /// Empty for an unknown visitor.
    pub profile: Profile,
    /// Log index the node had applied when it read.
    pub applied: u64,
}
